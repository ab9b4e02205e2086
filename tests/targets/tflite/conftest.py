"""Written files, and what is needed to change them: the schema's own classes, which our reader does not use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hydra_export import targets
from hydra_export.errors import MissingExtra
from hydra_export.target import ExportSpec
from tests.targets.conftest import MakeCheckpoint

TFLITE = targets.get("tflite")
Change = Callable[[Any], object]
MakeFile = Callable[..., Path]


@pytest.fixture(autouse=True)
def _installed() -> None:
    try:
        TFLITE.requires()
    except MissingExtra as error:
        pytest.skip(str(error))


@pytest.fixture
def written(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> MakeFile:
    """The path of subnetwork *heads*, or of several, of a tiny checkpoint; other arguments are ExportSpec's."""

    def write(heads: int | tuple[int, ...] = 2, **choices: Any) -> Path:
        (tmp_path / "written").mkdir(exist_ok=True)
        listed = (heads,) if isinstance(heads, int) else heads
        (artifact,) = TFLITE.write(make_checkpoint(), listed, ExportSpec(**choices), tmp_path / "written")
        return tmp_path / "written" / artifact.path

    return write


def loaded(path: Path) -> Any:
    """The file as the schema's ModelT."""
    from ai_edge_litert import schema_py_generated as schema  # type: ignore[import-untyped]

    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))


def save(model: Any, path: Path, alignment: int = 16) -> None:
    """Writes a ModelT as a program of the format's makers would, without what stands behind the model."""
    import flatbuffers  # type: ignore[import-untyped]

    for buffer in model.buffers:
        buffer.Pack = _aligned(buffer, alignment)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path.write_bytes(builder.Output())


def _aligned(buffer: Any, alignment: int) -> Callable[[Any], int]:
    """The schema's own Python classes align content to nothing, where schema.fbs asks for 16 bytes."""

    def pack(builder: Any) -> int:
        data = None
        if buffer.data is not None and len(buffer.data):
            content = bytes(np.asarray(buffer.data, np.uint8))
            builder.StartVector(1, len(content), alignment)
            builder.head -= len(content)
            builder.Bytes[builder.head : builder.head + len(content)] = content
            builder.vectorNumElems = len(content)
            data = builder.EndVector()
        builder.StartObject(3)
        if data is not None:
            builder.PrependUOffsetTRelativeSlot(0, data, 0)
        builder.PrependUint64Slot(1, buffer.offset, 0)
        builder.PrependUint64Slot(2, buffer.size, 0)
        return int(builder.EndObject())

    return pack


def changed(path: Path, change: Change) -> Path:
    """Changes the file at *path* through ModelT; its labels are taken out, as where they stand would change."""
    model = loaded(path)
    without_labels(model)
    change(model)
    save(model, path)
    return path


def changed_universal(path: Path, change: Change) -> Path:
    """The same for a file with content behind the flatbuffer, which stays as it is."""
    content, model = path.read_bytes(), loaded(path)
    without_labels(model)
    behind = [buffer for buffer in model.buffers if buffer.offset]
    start, end = min(b.offset for b in behind), max(b.offset + b.size for b in behind)
    change(model)
    save(model, path)
    moved = path.stat().st_size + -path.stat().st_size % 64 - start
    for buffer in behind:
        buffer.offset = min(buffer.offset + moved, 2**64 - 64)
    save(model, path)
    with path.open("ab") as file:
        file.write(bytes(start + moved - file.tell()) + content[start:end])
    return path


def without_labels(model: Any) -> None:
    """Takes the labels' entry out, and its buffer, which is the model's last but for those after it."""
    names = [entry.name.decode() for entry in model.metadata]
    if "hydra_export.labels" not in names:
        return
    at = names.index("hydra_export.labels")
    buffer = model.metadata.pop(at).buffer
    del model.buffers[buffer]
    for entry in model.metadata:
        entry.buffer -= entry.buffer > buffer


def tensor(model: Any, name: str) -> Any:
    """The tensor called *name*."""
    (found,) = [tensor for tensor in model.subgraphs[0].tensors if tensor.name.decode() == name]
    return found


def operator(model: Any, output: str) -> Any:
    """The operator that makes the tensor called *output*."""
    index = [tensor.name.decode() for tensor in model.subgraphs[0].tensors].index(output)
    (found,) = [operator for operator in model.subgraphs[0].operators if list(operator.outputs) == [index]]
    return found


def weight(model: Any, name: str) -> NDArray[np.float32]:
    """A copy of the content of a weight."""
    found = tensor(model, name)
    content: NDArray[np.float32] = np.asarray(model.buffers[found.buffer].data, np.uint8).view("<f4")
    return content.reshape(tuple(found.shape)).copy()


def set_weight(model: Any, name: str, array: NDArray[Any]) -> None:
    """Replaces the content of a weight."""
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    model.buffers[tensor(model, name).buffer].data = content
