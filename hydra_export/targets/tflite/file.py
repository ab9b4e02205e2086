"""The file: a flatbuffer that is packed without its weights, then gets them appended one at a time.

What several graphs share lies behind the flatbuffer, as version 3c of the schema allows (2023, Buffer.offset):
there the buffer of a subnetwork's weight is the beginning of the largest one's. Overlapping buffers were run by LiteRT
and TensorFlow on x86 alone; without overlap every buffer has bytes of its own, inside the flatbuffer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
from ai_edge_litert import schema_py_generated as schema  # type: ignore[import-untyped]
from numpy.typing import NDArray

from hydra_export.errors import BadInput
from hydra_export.network import Span
from hydra_export.stored_weight import StoredWeight
from hydra_export.targets.tflite.builder import ConstantTensor, TFLiteGraphBuilder, Value
from hydra_export.targets.tflite.operators import Operator
from hydra_export.targets.tflite.reader import ALIGNMENT, IDENTIFIER, VERSION

# Offsets are signed 32-bit numbers in parts of the format (flatbuffers.dev, "FlatBuffers Internals").
_LARGEST_FILE_BYTES = 2**31 - 1
# Where a Buffer's vtable tells of its fields (flatbuffers.dev, "FlatBuffers Internals").
_BUFFER_DATA, _BUFFER_OFFSET = 4, 6


@dataclass(frozen=True)
class Chunk:
    """The content of one buffer, made when it is written."""

    size: int
    content: Callable[[], NDArray[Any]]


@dataclass(frozen=True)
class _Beginning:
    """So many bytes of a region that lies behind the flatbuffer."""

    region: str
    size: int


class FileBuilder:
    """Collects what a file holds; buffer 0 is the empty one that tensors without content name."""

    def __init__(self) -> None:
        self.graphs: list[Any] = []
        self.signatures: list[Any] = []
        self.operators: list[Operator] = []
        self._chunks: list[Chunk | _Beginning] = []
        self._stored: dict[bytes, int] = {}
        self._weights: dict[tuple[str, tuple[int, ...]], int] = {}
        self._regions: dict[str, Chunk] = {}
        self._beginnings: dict[_Beginning, int] = {}
        self._metadata: list[Any] = []

    @property
    def lies_behind(self) -> bool:
        """Whether something lies behind the flatbuffer."""
        return bool(self._regions)

    def opcode(self, operator: Operator) -> int:
        """The place of *operator* in the file's list."""
        if operator not in self.operators:
            self.operators.append(operator)
        return self.operators.index(operator)

    def store(self, content: NDArray[Any]) -> ConstantTensor:
        """Puts a small constant into the file; equal ones once."""
        found = content.tobytes()
        if found not in self._stored:
            self._stored[found] = self._buffer(Chunk(content.nbytes, lambda: content))
        return ConstantTensor(content.shape, self._stored[found])

    def weight(self, name: str, weight: StoredWeight, heads: int) -> ConstantTensor:
        """Puts what subnetwork *heads* uses of *weight* into the file, once; it is cut when it is written."""
        spans = weight.cut.spans(heads)
        if (name, weight.shape(spans)) not in self._weights:
            buffer = self._buffer(Chunk(weight.num_bytes(spans), lambda: weight.part(spans)))
            self._weights[name, weight.shape(spans)] = buffer
        buffer = self._weights[name, weight.shape(spans)]
        return _constant(weight, spans, buffer)

    def shared_weight(
        self, name: str, weight: StoredWeight, heads: int, largest: int, columns: Span | None
    ) -> ConstantTensor:
        """The same of a part that subnetwork *largest* uses as a whole, and *heads* the beginning of."""
        spans, whole = weight.cut.spans(heads, columns), weight.cut.spans(largest, columns)
        label = f"{name}{columns or ''}"
        if label not in self._regions:
            self._regions[label] = Chunk(weight.num_bytes(whole), lambda: weight.part(whole))
        beginning = _Beginning(label, weight.num_bytes(spans))
        if beginning not in self._beginnings:
            self._beginnings[beginning] = self._buffer(beginning)
        return _constant(weight, spans, self._beginnings[beginning])

    def metadata(self, name: str, content: bytes) -> None:
        """Adds a named entry."""
        entry = schema.MetadataT()
        entry.name = name
        entry.buffer = self._buffer(Chunk(len(content), lambda: np.frombuffer(content, np.uint8)))
        self._metadata.append(entry)

    def graph(
        self, name: str, g: TFLiteGraphBuilder, inputs: Mapping[str, Value], outputs: Mapping[str, Value], key: str = ""
    ) -> None:
        """Adds a finished graph, and with *key* the signature that names its inputs and outputs."""
        if key:
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
        inside = {i: chunk for i, chunk in enumerate(self._chunks, start=1) if isinstance(chunk, Chunk)}
        at, places, regions = len(skeleton), dict[int, int](), dict[str, int]()
        for buffer, chunk in inside.items():
            places[buffer] = at = at + -(at + 4) % ALIGNMENT
            at += 4 + chunk.size
        for label, chunk in self._regions.items():
            regions[label] = at = at + -at % ALIGNMENT
            at += chunk.size
        if at > _LARGEST_FILE_BYTES:
            raise BadInput(
                f"{description} needs {at / 1e9:.1f} GB; a TFLite file is limited to 2 GB.",
                "List smaller head counts.",
            )
        model = schema.Model.GetRootAs(skeleton, 0)
        for buffer, place in places.items():
            slot = _slot(model, buffer, _BUFFER_DATA)
            skeleton[slot : slot + 4] = (place - slot).to_bytes(4, "little")
        for beginning, buffer in self._beginnings.items():
            slot = _slot(model, buffer, _BUFFER_OFFSET)
            skeleton[slot : slot + 8] = regions[beginning.region].to_bytes(8, "little")
        file.write(skeleton)
        for buffer, chunk in inside.items():
            file.write(b"\0" * (places[buffer] - file.tell()) + chunk.size.to_bytes(4, "little"))
            file.write(chunk.content().data)
        for label, chunk in self._regions.items():
            file.write(b"\0" * (regions[label] - file.tell()))
            file.write(chunk.content().data)

    def _buffer(self, chunk: Chunk | _Beginning) -> int:
        self._chunks.append(chunk)
        return len(self._chunks)

    def _skeleton(self, description: str) -> bytes:
        model = schema.ModelT()
        model.version, model.description = VERSION, description
        if len(self.graphs) > 1:  # tools such as ai-edge-quantizer know a tensor by its name in the whole file
            for i, graph in enumerate(self.graphs):
                for tensor in graph.tensors:
                    tensor.name = f"{i}/{tensor.name}"
        model.operatorCodes = [_operator_code(operator) for operator in self.operators]
        model.subgraphs, model.signatureDefs, model.metadata = self.graphs, self.signatures, self._metadata
        model.buffers = [schema.BufferT() for _ in range(len(self._chunks) + 1)]
        for buffer, chunk in zip(model.buffers[1:], self._chunks, strict=True):
            if isinstance(chunk, _Beginning):
                buffer.offset, buffer.size = 2, chunk.size  # the place is known later
            else:
                buffer.data = np.empty(0, np.uint8)  # its place is taken by what is appended
        builder = _Builder(1 << 16)
        builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
        return bytes(builder.Output())


class _Builder(flatbuffers.Builder):  # type: ignore[misc]
    """Writes equal names, shapes and scales once: those of subnetworks are alike."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._written: dict[tuple[str, bytes], int] = {}

    def CreateString(self, s: str, encoding: str = "utf-8", errors: str = "strict") -> int:  # noqa: N802 (its name)
        """Where the text lies."""
        key = ("text", s.encode(encoding, errors))
        if key not in self._written:
            self._written[key] = cast(int, super().CreateString(s, encoding, errors))
        return self._written[key]

    def CreateNumpyVector(self, x: NDArray[Any]) -> int:  # noqa: N802 (its name)
        """Where the list lies."""
        key = (x.dtype.str, x.tobytes())
        if key not in self._written:
            self._written[key] = cast(int, super().CreateNumpyVector(x))
        return self._written[key]


def _constant(weight: StoredWeight, spans: Sequence[Span], buffer: int) -> ConstantTensor:
    scales = weight.scales(spans)
    return ConstantTensor(
        weight.shape(spans), buffer, weight.dtype, None if scales is None else scales.contiguous().numpy()
    )


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


def _slot(model: Any, buffer: int, field: int) -> int:
    """Where a field of a buffer lies."""
    table = model.Buffers(buffer)._tab
    return int(table.Pos + table.Offset(field))
