"""docs/formats.md states the limits of every reader."""

from __future__ import annotations

import re
from pathlib import Path

from hydra_export import archive, documents, files, protobuf, zips
from hydra_export.bench import browser, foreign
from hydra_export.bundle import golden, sums
from hydra_export.commands import choices, profile_fleet
from hydra_export.data import datasets
from hydra_export.mil import proto
from hydra_export.mil.program import Limits
from hydra_export.serving import handler
from hydra_export.targets.tflite import reader
from hydra_export.train import record

MIB = files.MIB


def test_the_table_of_limits_is_that_of_the_code() -> None:
    text = (Path(__file__).parent.parent / "docs" / "formats.md").read_text(encoding="utf-8")
    table = text.partition("## Limits on input files")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| (.+?) \| (.+) \|$", table, re.MULTILINE))
    expected = {
        "`manifest.json`": [f"{documents.JSON_BYTES // MIB} MiB", f"{documents._JSON_VALUES:,} values"],
        "`benchmark_model`": [f"{foreign._MOST_RUNS} runs", f"{documents._INT_DIGITS} digits"],
        "device profiles": [f"{documents.TOML_BYTES // MIB} MiB", f"{documents._TOML_VALUES:,} values"],
        "(TOML)": [f"{documents._KEY_PARTS} parts"],
        "`SHA256SUMS`": [f"{sums._SUMS_BYTES // MIB} MiB"],
        "golden.npz": [f"{golden._GOLDEN_BYTES // MIB} MiB", f"{golden._MOST_GOLDEN_IMAGES} images"],
        "archives (": [f"{archive._MOST_ENTRIES:,} files", f"{zips._LISTING_BYTES // MIB} MiB"],
        "paths in": [f"{files._LONGEST_PATH:,} letters", f"{files._DEEPEST_PATH} names of {files._LONGEST_NAME} bytes"],
        ".onnx": [f"{protobuf.FEW_FIELDS:,} fields", f"every {protobuf._BYTES_PER_FIELD} bytes"],
        ".tflite": [f"{reader._FEW_ITEMS:,} entries", f"{reader._MOST_ITEMS:,} in all"],
        "model.mlmodel": [f"{Limits().spec_bytes // MIB} MiB", f"{proto.FEW_FIELDS:,} fields"],
        "a browser's times": [
            f"{handler.MOST_BYTES // MIB} MiB, {documents.JSON_BYTES // MIB} MiB",
            f"{browser._MOST_SAMPLES:,} times",
            f"{browser._MOST_LETTERS} letters",
        ],
        "--labels": [f"{choices._LABELS_BYTES // MIB} MiB", f"{choices._MOST_LABELS:,} lines"],
        "`profile fleet`": [f"{profile_fleet._FLEET_BYTES // 2**10} KiB"],
        "idx": [f"{datasets._IDX_BYTES // MIB} MiB"],
        "metrics.jsonl": [f"{record._METRICS_BYTES // MIB} MiB"],
    }
    for name, limits in expected.items():
        (row,) = (row for first, row in rows.items() if name in first)
        assert all(limit in row for limit in limits), (name, row)
