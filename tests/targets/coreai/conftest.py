"""Assets of a tiny checkpoint, and what is needed to change them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hydra_export import targets
from hydra_export.checkpoint import Checkpoint
from hydra_export.errors import BadInput
from hydra_export.target import Artifact, GraphKind, Precision
from tests.targets.conftest import Case, MakeCheckpoint

COREAI = targets.get("coreai")
Write = Callable[..., tuple[Checkpoint, Artifact, Path]]


def case(precision: Precision = "fp32", graph: GraphKind = "separate") -> Case:
    """The target with one graph kind and one precision."""
    return Case(COREAI, graph, precision)


def sign(path: Path) -> None:
    """Makes main.hash that of the program again."""
    (path / "main.hash").write_bytes(hashlib.sha256((path / "main.mlirb").read_bytes()).digest())


@pytest.fixture
def needs_coreai() -> None:
    try:
        COREAI.requires()
    except BadInput as error:
        pytest.skip(str(error))


_written: dict[str, tuple[Checkpoint, Artifact, Path]] = {}  # for all tests of this process


@pytest.fixture
def write(
    needs_coreai: None, make_checkpoint: MakeCheckpoint, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Write:
    """A copy of an asset of a tiny checkpoint, of subnetwork 2 or of several in one."""

    def written(
        precision: Precision = "fp32", heads: tuple[int, ...] = (2,), graph: GraphKind = "separate", **choices: Any
    ) -> tuple[Checkpoint, Artifact, Path]:
        key = repr((precision, heads, graph, sorted(choices.items())))
        if key not in _written:
            checkpoint, out = make_checkpoint(), tmp_path_factory.mktemp("written") / "out"
            (artifact,) = case(precision, graph).write(checkpoint, heads, out, **choices)
            _written[key] = checkpoint, artifact, out / artifact.path
        checkpoint, artifact, path = _written[key]
        return checkpoint, artifact, Path(shutil.copytree(path, tmp_path / path.name))

    return written
