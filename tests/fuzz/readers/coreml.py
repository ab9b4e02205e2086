"""Core ML packages of ours, linted and run."""

from __future__ import annotations

import functools
from pathlib import Path

from hydra_export import targets
from hydra_export.checkpoint import load
from hydra_export.target import ExportSpec
from hydra_export.targets.coreml import CoreMLOptions
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
    seeds, checkpoint = [], load(checkpoints.checkpoint())
    for name, heads, spec in _SPECS:
        out = checkpoints.folder() / "coreml" / name
        out.mkdir(parents=True)
        written = targets.get("coreml").write(checkpoint, heads, spec, out)
        seeds += [packages.of(out / artifact.path) for artifact in written]
    return seeds


def _read(path: Path) -> None:
    package, coreml = packages.unpacked(path), targets.get("coreml")
    coreml.lint(package)
    coreml.metadata(package)
    coreml.signature(package)
    list(coreml.operators(package))
    mutants.run(package)


READER = Reader(_seeds, packages.mutate, packages.parse, _read, ".mlpackage.zip")
