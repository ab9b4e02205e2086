"""Packages written in a process of its own, and what is needed to change them."""

from __future__ import annotations

import itertools
import math
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
from hydra_export.model import assembled
from hydra_export.parity import ParityRecord
from hydra_export.target import Artifact, GraphKind, Precision
from hydra_export.targets.coreml.weights import Quantized, Weights
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
        architecture: dict[str, Any] | None = None,
        precision: Precision = "fp16",
        heads: int | tuple[int, ...] = 2,
        graph: GraphKind = "separate",
        **choices: Any,
    ) -> tuple[Checkpoint, Artifact, Path]:
        key = repr((architecture, precision, heads, graph, sorted(choices.items())))
        if key not in _written:
            checkpoint = make_checkpoint(**{"head_dim": 16, "num_classes": 11, **(architecture or {})})
            out = tmp_path_factory.mktemp("written") / "out"
            listed = (heads,) if isinstance(heads, int) else heads
            (artifact,) = Case(COREML, graph, precision).write(checkpoint, listed, out, **choices)
            _written[key] = checkpoint, artifact, out / artifact.path
        checkpoint, artifact, path = _written[key]
        return checkpoint, artifact, Path(shutil.copytree(path, tmp_path / path.name))

    return written


class Proof:
    """Parity in every runtime, as an export does it; what torch computes is computed once.

    An int8 package is held to float32's own noise as well: of torch with the weights that it is to hold.
    """

    def __init__(self, checkpoint: Checkpoint, artifact: Artifact, heads: int = 0) -> None:
        config, data = checkpoint.info.config, checkpoint.info.preprocessing
        self.precision, self.heads = artifact.spec.precision, heads or artifact.heads[0]
        self.image = given(checkpoint, artifact.spec)
        expected = {
            kind: parity.reference(checkpoint.model, self.heads, pixels(config), data, kind)
            for kind in dict.fromkeys((self.precision, "fp32"))
        }
        if self.precision == "int8":
            expected["int8"] = _of_quantized(checkpoint, artifact, self.heads)
        size = math.prod(config.output_shape(self.heads))  # timm gives the tokens before those of patches as well
        self.expected = {
            kind: parity.Reference(_flat(reference.exact)[:, -size:], _flat(reference.torch_fp32)[:, -size:])
            for kind, reference in expected.items()
        }

    def of(self, path: Path) -> ParityRecord:
        """The record of the package at *path*; ParityFailed where it computes something else."""
        if self.precision == "int8":
            record = parity.compare(_flat(COREML.load(path, self.heads).run(self.image)), self.expected["int8"])
            parity.check(str(path), self.heads, record)
            return record
        run = lambda session: _flat(session.run(self.image))  # noqa: E731
        return parity.verify(COREML, path, self.heads, self.precision, self.expected, run)[0]


def _flat(outputs: NDArray[Any]) -> NDArray[Any]:
    """[B, ...] as [B, all]."""
    return outputs.reshape(len(outputs), -1)


def dequantized(checkpoint: Checkpoint, artifact: Artifact, heads: int) -> dict[str, NDArray[np.float32]]:
    """The normalised form of subnetwork *heads* as an int8 package is to hold it, put together from its shells."""
    listed = artifact.heads if artifact.spec.graph == "universal" else (heads,)
    spans = list(itertools.pairwise((0, *(k for k in listed if k <= heads))))
    stored = Weights(checkpoint, artifact.spec)
    whole = {name: np.zeros(tensor.shape, np.float32) for name, tensor in checkpoint.model.weights(heads).items()}
    config = checkpoint.info.config
    classifiers = dict(zip(config.classifier_names, config.classifiers(heads), strict=True))
    for name, full in whole.items():
        layer, dot, kind = name.partition(".")
        source = f"{classifiers.get(layer, layer)}{dot}{kind}"
        cut = stored.cut(source)
        grows = [bool(unit) for unit in cut.units]
        if full.ndim not in (2, 4) or layer == "rope":
            full[:] = stored.vector(source, (0, heads)).astype(np.float32)
            continue
        for high in spans if any(grows[:2]) else [(0, heads)]:
            blocks = [(high, (0, high[1]) if grows[1] else high)]
            if all(grows[:2]) and high[0]:
                blocks.append(((0, high[0]), high))
            elif not grows[0]:
                blocks = [((0, heads), high)]
            for rows, columns in blocks:
                block = stored.matrix(source, rows, columns)
                assert isinstance(block, Quantized)
                place = tuple(
                    slice(*(cut.place(axis, k) for k in span)) if grows[axis] else slice(None)
                    for axis, span in enumerate((rows, columns))
                )
                scale = block.scale.astype(np.float32).reshape(-1, *(1,) * (full.ndim - 1))
                full[place] = block.data.astype(np.float32) * scale
    return whole


def _of_quantized(checkpoint: Checkpoint, artifact: Artifact, heads: int) -> parity.Reference:
    import torch

    weights = {name: torch.from_numpy(full) for name, full in dequantized(checkpoint, artifact, heads).items()}
    data = checkpoint.info.preprocessing
    dense = assembled(checkpoint.info.config, heads, weights)
    with torch.inference_mode():
        normalised = (data.normalise(pixels(checkpoint.info.config), kind) for kind in (np.float32, np.float64))
        torch_fp32 = dense(torch.from_numpy(next(normalised))).numpy()
        return parity.Reference(dense.double()(torch.from_numpy(next(normalised))).numpy(), torch_fp32)


class Opened:
    """The model and the weights of a package, to change and save; operations and constants are those of *function*."""

    def __init__(self, path: Path, function: str = "main") -> None:
        self.path, self.function = path, function
        self.model: Any = model_class()()
        self.model.ParseFromString((path / MODEL).read_bytes())
        self.weights = bytearray((path / WEIGHTS).read_bytes())

    def save(self) -> None:
        (self.path / MODEL).write_bytes(self.model.SerializeToString(deterministic=True))
        (self.path / WEIGHTS).write_bytes(self.weights)

    @property
    def block(self) -> Any:
        functions = {entry.key: entry.value for entry in self.model.mlProgram.functions}
        return functions[self.function].block_specializations[0].value

    def operation(self, output: str) -> Any:
        """The operation that gives *output*."""
        return next(each for each in self.block.operations if each.outputs[0].name == output)

    def kinds(self) -> list[str]:
        """Of every operation but const, in order."""
        return [each.type for each in self.block.operations if each.type != "const"]

    def constant(self, name: str) -> Any:
        """The Value message of a const operation, or of what is written inside another: ``operation.parameter``."""
        name, _, parameter = name.partition(".")
        operation = self.operation(name)
        for each in operation.inputs:
            if each.key == parameter:
                return each.value.arguments[0].value
        known = {each.key: each.value for each in operation.attributes}
        return known["quantized_data" if parameter == "data" else parameter or "val"]  # iOS 16 calls it that

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
        dtype = np.dtype({10: "<f2", 11: "<f4", 21: "i1"}[kind.dataType])
        start = struct.unpack_from("<Q", self.weights, value.blobFileValue.offset + 16)[0]
        raw = np.frombuffer(self.weights, dtype, int(np.prod(shape)), start)
        return raw.reshape(shape)

    def numbers(self, name: str) -> Any:
        """The list of numbers of a small constant."""
        tensor = self.constant(name).immediateValue.tensor
        return getattr(tensor, tensor.WhichOneof("value")).values
