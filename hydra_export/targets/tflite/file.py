"""The file: a flatbuffer that is packed without its weights, then gets them appended one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
from ai_edge_litert import schema_py_generated as schema  # type: ignore[import-untyped]
from numpy.typing import NDArray

from hydra_export.errors import BadInput
from hydra_export.model import Weight, array
from hydra_export.targets.tflite.graph import Constant, GraphBuilder, Value
from hydra_export.targets.tflite.operators import Operator
from hydra_export.targets.tflite.reader import IDENTIFIER, VERSION

# Offsets are signed 32-bit numbers in parts of the format (flatbuffers.dev, "FlatBuffers Internals").
_LARGEST_FILE_BYTES = 2**31 - 1
_ALIGNMENT = 64  # bytes: a cache line; the schema asks for 16
_BUFFER_DATA = 4  # where a Buffer's vtable tells of its first field (flatbuffers.dev, "FlatBuffers Internals")


@dataclass(frozen=True)
class Chunk:
    """The content of one buffer, made when it is written."""

    size: int
    content: Callable[[], NDArray[Any]]


class FileBuilder:
    """Collects what a file holds; buffer 0 is the empty one that tensors without content name."""

    def __init__(self) -> None:
        self.graphs: list[Any] = []
        self.signatures: list[Any] = []
        self.operators: list[Operator] = []
        self._chunks: list[Chunk] = []
        self._metadata: list[Any] = []

    def opcode(self, operator: Operator) -> int:
        """The place of *operator* in the file's list."""
        if operator not in self.operators:
            self.operators.append(operator)
        return self.operators.index(operator)

    def store(self, content: NDArray[Any]) -> Constant:
        """Puts a small constant into the file."""
        return Constant(content.shape, self._buffer(Chunk(content.nbytes, lambda: content)))

    def weight(self, weight: Weight, heads: int) -> Constant:
        """Puts what subnetwork *heads* uses of *weight* into the file; it is cut when it is written."""
        shape = weight.shape(heads)
        size = 4 * int(np.prod(shape, dtype=np.int64))
        return Constant(shape, self._buffer(Chunk(size, lambda: array(weight.first(heads)))))

    def metadata(self, name: str, content: bytes) -> None:
        """Adds a named entry."""
        entry = schema.MetadataT()
        entry.name = name
        entry.buffer = self._buffer(Chunk(len(content), lambda: np.frombuffer(content, np.uint8)))
        self._metadata.append(entry)

    def graph(
        self, key: str, g: GraphBuilder, inputs: Mapping[str, Value], outputs: Mapping[str, Value], name: str
    ) -> None:
        """Adds a finished graph, and the signature *key* that names its inputs and outputs."""
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = key, len(self.graphs)
        signature.inputs, signature.outputs = _tensor_maps(inputs), _tensor_maps(outputs)
        self.signatures.append(signature)
        self.graphs.append(g.finish(name, list(inputs.values()), list(outputs.values())))

    def write(self, description: str, file: BinaryIO) -> None:
        """Writes everything; at most one chunk is in memory besides the graphs.

        Raises:
            BadInput: it would be larger than the format allows; nothing was written then.
        """
        skeleton = bytearray(self._skeleton(description))
        slots = _data_slots(skeleton, len(self._chunks))
        at, gaps = len(skeleton), []
        for slot, chunk in zip(slots, self._chunks, strict=True):
            gaps.append(-(at + 4) % _ALIGNMENT)
            vector = at + gaps[-1]
            if vector + 4 + chunk.size > _LARGEST_FILE_BYTES:
                total = len(skeleton) + sum(chunk.size for chunk in self._chunks)
                raise BadInput(
                    f"{description} needs {total / 1e9:.1f} GB; one TFLite file holds at most 2 GB.",
                    "List smaller head counts.",
                )
            skeleton[slot : slot + 4] = (vector - slot).to_bytes(4, "little")
            at = vector + 4 + chunk.size
        file.write(skeleton)
        for gap, chunk in zip(gaps, self._chunks, strict=True):
            file.write(b"\0" * gap + chunk.size.to_bytes(4, "little"))
            file.write(chunk.content().data)

    def _buffer(self, chunk: Chunk) -> int:
        self._chunks.append(chunk)
        return len(self._chunks)

    def _skeleton(self, description: str) -> bytes:
        model = schema.ModelT()
        model.version, model.description = VERSION, description
        model.operatorCodes = [_operator_code(operator) for operator in self.operators]
        model.subgraphs, model.signatureDefs, model.metadata = self.graphs, self.signatures, self._metadata
        model.buffers = [schema.BufferT() for _ in range(len(self._chunks) + 1)]
        for buffer in model.buffers[1:]:
            buffer.data = np.empty(0, np.uint8)  # its place is taken by what is appended
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
        return bytes(builder.Output())


def _operator_code(operator: Operator) -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode, code.version = operator.code, operator.version
    # Older runtimes read this field of one byte alone; it holds a placeholder for operators that came later.
    placeholder = schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES
    code.deprecatedBuiltinCode = min(operator.code, placeholder)
    return code


def _tensor_maps(values: Mapping[str, Value]) -> list[Any]:
    maps = []
    for name, value in values.items():
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, value.index
        maps.append(entry)
    return maps


def _data_slots(skeleton: bytearray, num_chunks: int) -> Sequence[int]:
    """Where the offset of each buffer's data lies."""
    model = schema.Model.GetRootAs(skeleton, 0)
    tables = [model.Buffers(i + 1)._tab for i in range(num_chunks)]
    return [table.Pos + table.Offset(_BUFFER_DATA) for table in tables]
