"""Packages written in a process of its own, and what is needed to change them."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hydra_export import parity, targets
from hydra_export.checkpoint import Checkpoint
from hydra_export.errors import MissingExtra
from hydra_export.mil.proto import model_class
from hydra_export.parity import ParityRecord
from hydra_export.target import Artifact, Precision
from tests.targets.conftest import Case, MakeCheckpoint, given, pixels

COREML = targets.get("coreml")
MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
Write = Callable[..., tuple[Checkpoint, Artifact, Path]]


@pytest.fixture(autouse=True)
def _installed() -> None:
    try:
        COREML.requires()
    except MissingExtra as error:
        pytest.skip(str(error))


_written: dict[str, tuple[Checkpoint, Artifact, Path]] = {}  # for all tests of this process


@pytest.fixture
def write(make_checkpoint: MakeCheckpoint, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Write:
    """A copy of subnetwork 2 of a tiny checkpoint; *architecture* is HydraConfig's, the rest ExportSpec's."""

    def written(
        architecture: dict[str, Any] | None = None, precision: Precision = "fp16", heads: int = 2, **choices: Any
    ) -> tuple[Checkpoint, Artifact, Path]:
        key = repr((architecture, precision, heads, sorted(choices.items())))
        if key not in _written:
            checkpoint = make_checkpoint(**{"head_dim": 16, "num_classes": 11, **(architecture or {})})
            out = tmp_path_factory.mktemp("written") / "out"
            (artifact,) = Case(COREML, "separate", precision).write(checkpoint, (heads,), out, **choices)
            _written[key] = checkpoint, artifact, out / artifact.path
        checkpoint, artifact, path = _written[key]
        return checkpoint, artifact, Path(shutil.copytree(path, tmp_path / path.name))

    return written


class Proof:
    """Parity in every runtime, as an export does it; what torch computes is computed once."""

    def __init__(self, checkpoint: Checkpoint, artifact: Artifact) -> None:
        config, data = checkpoint.info.config, checkpoint.info.preprocessing
        self.precision, (self.heads,) = artifact.spec.precision, artifact.heads
        self.image = given(checkpoint, artifact.spec)
        self.expected = {
            kind: parity.reference(checkpoint.model, self.heads, pixels(config), data, kind)
            for kind in dict.fromkeys((self.precision, "fp32"))
        }

    def of(self, path: Path) -> ParityRecord:
        """The record of the package at *path*; ParityFailed where it computes something else."""
        run = lambda session: session.run(self.image)  # noqa: E731
        return parity.prove(COREML, path, self.heads, self.precision, self.expected, run)[0]


class Opened:
    """The model and the weights of a package, to change and save."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model: Any = model_class()()
        self.model.ParseFromString((path / MODEL).read_bytes())
        self.weights = bytearray((path / WEIGHTS).read_bytes())

    def save(self) -> None:
        (self.path / MODEL).write_bytes(self.model.SerializeToString(deterministic=True))
        (self.path / WEIGHTS).write_bytes(self.weights)

    @property
    def block(self) -> Any:
        """Of the function ``main``."""
        return self.model.mlProgram.functions[0].value.block_specializations[0].value

    def operation(self, output: str) -> Any:
        """The operation that gives *output*."""
        return next(each for each in self.block.operations if each.outputs[0].name == output)

    def kinds(self) -> list[str]:
        """Of every operation but const, in order."""
        return [each.type for each in self.block.operations if each.type != "const"]

    def constant(self, name: str) -> Any:
        """The Value message of a const operation."""
        return next(each.value for each in self.operation(name).attributes if each.key == "val")

    def named(self, *names: str) -> str:
        """The first of *names* that there is."""
        present = {each.outputs[0].name for each in self.block.operations}
        return next(name for name in names if name in present)

    def array(self, name: str) -> NDArray[Any]:
        """A weight, as a view of the weight file: writing to it changes the file that is saved."""
        value = self.constant(name)
        assert value.WhichOneof("value") == "blobFileValue"
        kind = value.type.tensorType
        shape = [each.constant.size for each in kind.dimensions]
        dtype = np.dtype({10: "<f2", 11: "<f4"}[kind.dataType])
        start = struct.unpack_from("<Q", self.weights, value.blobFileValue.offset + 16)[0]
        raw = np.frombuffer(self.weights, dtype, int(np.prod(shape)), start)
        return raw.reshape(shape)

    def numbers(self, name: str) -> Any:
        """The list of numbers of a small constant."""
        tensor = self.constant(name).immediateValue.tensor
        return getattr(tensor, tensor.WhichOneof("value")).values
