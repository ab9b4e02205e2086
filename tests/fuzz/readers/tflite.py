"""The reader and the lint of TFLite files, without which a damaged one makes the interpreter crash."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

from hydra_export import targets
from hydra_export.target import ExportSpec
from hydra_export.targets.tflite import reader
from tests.fuzz import checkpoints, objects, trees
from tests.fuzz.reader import Random, Reader
from tests.targets.tflite import conftest, test_mutants

_SHARE_OF_TREES = 0.5  # slower, and further past the parser


class _Values(test_mutants.Surveyor):
    """Notes where fields lie, and not what says where they lie."""

    def _field(self, at: int, kind: Any, union_type: int) -> Any:
        if isinstance(kind, reader._Scalar):
            self.values.add(("value", at, reader._SIZES[kind.code]))
        return super()._field(at, kind, union_type)

    values: set[test_mutants.Site]


def _seeds() -> list[bytes]:
    universal = ExportSpec(graph="universal", precision="int8")
    files = [
        checkpoints.artifact("tflite", (1,), ExportSpec()),
        checkpoints.artifact("tflite", (2,), ExportSpec(input="image", batch="dynamic", precision="fp16")),
        checkpoints.artifact("tflite", (1, 2), universal),
    ]
    return [path.read_bytes() for path in files]


@functools.lru_cache(maxsize=64)
def _sites(content: bytes) -> tuple[list[test_mutants.Site], list[test_mutants.Site]]:
    """Every place where structure lies, and those of them that hold what it says."""
    path = checkpoints.folder() / "surveyed.tflite"
    path.write_bytes(content)
    surveyor = _Values(content)
    surveyor.values = set()
    reader._model(surveyor)
    values = surveyor.values | {site for site in surveyor.sites if site[0] == "index or size"}
    return test_mutants.survey(path), sorted(values)


def _mutate(random: Random, content: bytes) -> bytes:
    if _is_whole(content) and random.random() < _SHARE_OF_TREES:
        return trees.bruise(random, _changed(random, content), 0.03)
    everything, values = _sites(content)
    return test_mutants.mutant(content, values if random.random() < 0.8 else everything, random.getrandbits(32))


@functools.lru_cache(maxsize=64)
def _is_whole(content: bytes) -> bool:
    """Whether all that the file says lies within the flatbuffer: the schema's classes write nothing behind it."""
    return not any(buffer.offset for buffer in _tree(content).buffers)


@functools.lru_cache(maxsize=64)
def _tree(content: bytes) -> Any:
    path = checkpoints.folder() / "tree.tflite"
    path.write_bytes(content)
    return conftest.loaded(path)


def _changed(random: Random, content: bytes) -> bytes:
    path = checkpoints.folder() / "changed.tflite"
    while True:
        model = copy.deepcopy(_tree(content))
        objects.mutate(random, model)
        try:
            conftest.save(model, path)
        except (TypeError, ValueError, AttributeError, OverflowError):
            continue  # not every number fits its field
        return path.read_bytes()


def _read(path: Path) -> None:
    tflite = targets.get("tflite")
    tflite.lint(path)
    tflite.metadata(path)
    tflite.signature(path)
    list(tflite.operators(path))


READER = Reader(_seeds, _mutate, _tree, _read, ".tflite")
