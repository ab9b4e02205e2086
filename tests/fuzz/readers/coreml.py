"""Core ML packages of ours, linted and run: coremltools writes the seeds, which takes a while."""

from __future__ import annotations

import functools
from pathlib import Path

from hydra_export import conversion, targets
from hydra_export.target import ExportSpec
from hydra_export.targets.coreml import CoreMLOptions
from hydra_export.worker import Worker
from tests.fuzz import checkpoints, packages
from tests.fuzz.reader import Reader
from tests.mil import mutants

_SPECS = (
    ("separate", (2,), ExportSpec(precision="fp16", options=CoreMLOptions(ios=15))),
    ("classifier", (1,), ExportSpec(precision="fp32", input="image", options=CoreMLOptions(ios=17, classifier=True))),
    ("universal", (1, 2), ExportSpec(graph="universal", precision="int8")),
)


@functools.cache
def _seeds() -> list[bytes]:
    seeds = []
    with Worker() as worker:
        for name, heads, spec in _SPECS:
            out = checkpoints.folder() / "coreml" / name
            out.mkdir(parents=True)
            worker.call(
                "hydra_export.conversion:convert",
                checkpoint=str(checkpoints.checkpoint()),
                sha256="0" * 64,
                target="coreml",
                heads=list(heads),
                **conversion.plain_spec(spec),
                out=str(out),
            )
            seeds += [packages.of(path) for path in out.glob("*.mlpackage")]
    return seeds


def _read(path: Path) -> None:
    package, coreml = packages.unpacked(path), targets.get("coreml")
    coreml.lint(package)
    coreml.metadata(package)
    coreml.signature(package)
    mutants.run(package)


READER = Reader(_seeds, packages.mutate, packages.parse, _read, ".mlpackage.zip")
