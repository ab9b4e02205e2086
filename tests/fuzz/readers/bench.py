"""A board's bench.json, or what ``bench --json`` wrote."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec

from hydra_export import bench, board
from hydra_export.bench import Asked, Report
from hydra_export.latency import REFERENCE
from tests.fuzz import trees
from tests.fuzz.reader import Random, Reader

_TIMING: dict[str, Any] = {
    "path": "onnx/tiny-k1.onnx",
    "target": "onnx",
    "graph": "separate",
    "precision": "fp32",
    "input": "tensor",
    "batch": 1,
    "bytes": 9796,
    "heads": 1,
    "runtime": "onnxruntime",
    "runtime_version": "1.20.0",
    "unit": "cpu",
    "compute": "fp32",
    "threads": 1,
    "load_ms": 12.5,
    "peak_mib": 80.5,
    "base_mib": 40.25,
    "warmup_calls": 4,
    "max_abs_error": 1e-7,
    "bound": 1e-5,
    "median_ms": 2.0,
    "mean_ms": 2.1,
    "min_ms": 1.5,
    "p10_ms": 1.75,
    "p90_ms": 2.5,
    "p99_ms": 3.0,
    "cpu_ms": 2.0,
    "cpu_min_ms": 1.5,
    "noise": ["scattered"],
    "runs_ms": [1.5, 1.75, 2.0, 2.5, 3.0],
}
_REPORT = {
    "schema_version": 1,
    "kind": board.KIND,
    "date": "2026-02-03",
    "model": {
        "name": "tiny",
        "checkpoint_sha256": "0" * 64,
        "resolution": 16,
        "tokens": 5,
        "gmacs": 0.5,
        "subnetworks": [{"heads": 1, "gmacs": 0.25}, {"heads": 2, "gmacs": 0.5}],
    },
    "machine": {
        "says": {"devicetree_model": ["Raspberry Pi 5 Model B Rev 1.0"], "cpu_name": ["Cortex-A76"]},
        "system": "Linux",
        "architecture": "aarch64",
        "python": "3.11.2",
        "cores": 4,
        "memory_mib": 8192,
        "load_average": 0.25,
        "governor": None,
    },
    "runs": 5,
    "timings": [_TIMING, {**_TIMING, "heads": 2, "path": "onnx/tiny-k2.onnx", "bound": None, "compute": "bf16"}],
    "failed": [{"path": "onnx/none.onnx", "runtime": "openvino", "why": "it says so"}],
}


def _seeds() -> list[bytes]:
    return [msgspec.json.encode(_REPORT)]


def _mutate(random: Random, content: bytes) -> bytes:
    return trees.to_json(random, trees.mutate(random, msgspec.json.decode(content)))


def _read(path: Path) -> None:
    results = bench.read_results(path, Asked(model=REFERENCE, named=REFERENCE.name, graphs={}))
    assert isinstance(results, Report), "nothing else says which device it is of"
    with tempfile.TemporaryDirectory(dir=path.parent) as profiles:
        bench.save(results, Path(profiles))


READER = Reader(_seeds, _mutate, msgspec.json.decode, _read, ".json")
