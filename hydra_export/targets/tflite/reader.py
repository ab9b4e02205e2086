"""Reads a .tflite file that nobody vouches for: whatever it says lies inside of it, or is refused.

No interpreter verifies a file by default, and a damaged one makes it crash. Known here is what our own files have; a
table with any other field is refused, so that no interpreter sees anything that was not looked at.
Source of the encoding: flatbuffers.dev, "FlatBuffers Internals"; of the tables: tensorflow/lite/schema/schema.fbs.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydra_export import files
from hydra_export.errors import CheckFailed, Unreadable

IDENTIFIER = b"TFL3"
VERSION = 3  # of the schema, since 2017

_LARGEST_BYTES = 2**31 - 1  # of a file, and of a tensor: larger ones do not fit the offsets and sizes of the format
# Entries of lists, with tables for eight and letters for less: seconds' work. A ViT of 256 blocks has a fifth of it.
_MOST_ITEMS = 2_000_000
# A small file may say less: a table of 600 bytes in memory needs four in a file where another one is named again.
_FEW_ITEMS, _BYTES_PER_ITEM = 600_000, 64
_TABLE_ITEMS = 8
_LETTERS_PER_ITEM = _NUMBERS_PER_ITEM = 16
_MOST_SLOTS = 32
_CONTENT_ALIGNMENT = 16
ALIGNMENT = 64  # of the content that we write, in bytes: a cache line
_SIZES = {"?": 1, "b": 1, "B": 1, "H": 2, "i": 4, "I": 4, "f": 4, "q": 8, "Q": 8}
_DTYPES: dict[int, np.dtype[Any]] = {  # of TensorType
    0: np.dtype("<f4"),
    1: np.dtype("<f2"),
    2: np.dtype("<i4"),
    3: np.dtype("u1"),
    6: np.dtype("?"),
    7: np.dtype("<i2"),
    9: np.dtype("i1"),
}


_ZERO_POINTS = {"int8": (-128, 127), "uint8": (0, 255)}


@dataclass(frozen=True)
class Extent:
    """Where the content of a buffer lies; *behind* the flatbuffer, where several may begin at one place."""

    start: int = 0
    size: int = 0
    behind: bool = False


@dataclass(frozen=True)
class Tensor:
    """One tensor of a graph.

    Attributes:
        shape: with -1 where a size is chosen at run time.
        scales: of what its integers count: none, one, or one for each row.
        zero_point: of all of them.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    buffer: int
    scales: tuple[float, ...] = ()
    zero_point: int = 0

    @property
    def grid(self) -> tuple[str, tuple[float, ...], int]:
        """How its numbers are counted."""
        return self.dtype, self.scales, self.zero_point


@dataclass(frozen=True)
class Node:
    """One operator at work; *options* are those of its table, whose number in the schema's union is *options_type*."""

    opcode: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options_type: int
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Graph:
    """One subgraph."""

    name: str
    tensors: tuple[Tensor, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    operations: tuple[Node, ...]


@dataclass(frozen=True)
class SignatureDef:
    """What callers use: names for the inputs and outputs of a graph."""

    key: str
    graph: int
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]


@dataclass(frozen=True)
class ModelFile:
    """What a file says.

    Attributes:
        opcodes: code and version of each operator that is used.
        metadata: the buffer of each entry.
        end: where the flatbuffer ends and an archive of labels may begin.
    """

    opcodes: tuple[tuple[int, int], ...]
    graphs: tuple[Graph, ...]
    buffers: tuple[Extent, ...]
    metadata: Mapping[str, int]
    signatures: tuple[SignatureDef, ...]
    end: int
    data: mmap.mmap = field(repr=False)

    def content(self, buffer: int) -> bytes:
        """What a buffer holds."""
        extent = self.buffers[buffer]
        return self.data[extent.start : extent.start + extent.size]

    def numbers(self, tensor: Tensor) -> NDArray[np.int32] | None:
        """The numbers of a constant of int32."""
        if tensor.dtype != "int32" or not tensor.buffer:
            return None
        return np.frombuffer(self.content(tensor.buffer), "<i4").reshape(tensor.shape)


def read(path: Path) -> ModelFile:
    """Everything but the weights of the file at *path*.

    Raises:
        CheckFailed: it is no file, or something in it points outside, contradicts itself or is never written by us.
    """
    try:
        with files.opened(path, _LARGEST_BYTES) as file:
            size = file.seek(0, 2)
            if size < 8:
                raise _Refused(f"it has {size} bytes")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _model(_Walker(data))
    except OSError as error:
        raise CheckFailed(f"{path} cannot be read: {error.strerror}.") from error
    except Unreadable as error:
        raise CheckFailed(error.message, error.remedy) from error
    except _Refused as refused:
        raise CheckFailed(
            f"{path} is not a TFLite file that hydra-export wrote: {refused}.", "Export it again."
        ) from refused


class _Refused(Exception):
    """What is wrong with a file."""


def _need(condition: bool, what: str) -> None:
    if not condition:
        raise _Refused(what)


# How fields are encoded.


@dataclass(frozen=True)
class _Scalar:
    code: str  # of struct
    default: float = 0


@dataclass(frozen=True)
class _Text:
    """UTF-8."""


@dataclass(frozen=True)
class _Content:
    """A vector of bytes that is not looked at."""


@dataclass(frozen=True)
class _TableType:
    name: str
    fields: Mapping[int, tuple[str, _Kind]]  # by slot


@dataclass(frozen=True)
class _Vector:
    item: _Scalar | _TableType


@dataclass(frozen=True)
class _Union:
    """A table whose kind is the number in the slot before its own."""

    tables: Mapping[int, _TableType]


_Kind = _Scalar | _Text | _Content | _TableType | _Vector | _Union

_BYTE, _BOOL, _INT, _UINT, _FLOAT, _LONG, _ULONG = (_Scalar(code) for code in "b?iIfqQ")
_INTS = _Vector(_INT)
_OPTIONS = _Union(
    {
        1: _TableType(
            "Conv2DOptions",
            {0: ("padding", _BYTE), 1: ("stride_w", _INT), 2: ("stride_h", _INT), 6: ("quantized_bias_type", _BYTE)},
        ),
        8: _TableType("FullyConnectedOptions", {2: ("keep_num_dims", _BOOL), 4: ("quantized_bias_type", _BYTE)}),
        9: _TableType("SoftmaxOptions", {0: ("beta", _FLOAT)}),
        10: _TableType("ConcatenationOptions", {0: ("axis", _INT)}),
        11: _TableType("AddOptions", {1: ("pot_scale_int16", _Scalar("?", True))}),
        17: _TableType("ReshapeOptions", {}),
        21: _TableType("MulOptions", {}),
        22: _TableType("PadOptions", {}),
        23: _TableType("GatherOptions", {0: ("axis", _INT)}),
        26: _TableType("TransposeOptions", {}),
        27: _TableType("ReducerOptions", {0: ("keep_dims", _BOOL)}),
        28: _TableType("SubOptions", {1: ("pot_scale_int16", _Scalar("?", True))}),
        32: _TableType("StridedSliceOptions", {0: ("begin_mask", _INT), 1: ("end_mask", _INT)}),
        41: _TableType("LessOptions", {}),
        53: _TableType("EqualOptions", {}),
        92: _TableType("IfOptions", {0: ("then_subgraph_index", _INT), 1: ("else_subgraph_index", _INT)}),
        37: _TableType("CastOptions", {0: ("in_data_type", _BYTE), 1: ("out_data_type", _BYTE)}),
        101: _TableType("BatchMatMulOptions", {0: ("adj_x", _BOOL), 1: ("adj_y", _BOOL)}),
        116: _TableType("GeluOptions", {0: ("approximate", _BOOL)}),
    }
)
OPTIONS_TABLES = {number: table.name for number, table in _OPTIONS.tables.items()}
_OPERATOR_CODE = _TableType(
    "OperatorCode", {0: ("deprecated", _BYTE), 2: ("version", _Scalar("i", 1)), 3: ("code", _INT)}
)
_QUANTIZATION = _TableType("QuantizationParameters", {2: ("scale", _Vector(_FLOAT)), 3: ("zero_point", _Vector(_LONG))})
_TENSOR = _TableType(
    "Tensor",
    {
        0: ("shape", _INTS),
        1: ("type", _BYTE),
        2: ("buffer", _UINT),
        3: ("name", _Text()),
        4: ("quantization", _QUANTIZATION),
        7: ("signature", _INTS),
        8: ("has_rank", _BOOL),
    },
)
_OPERATOR = _TableType(
    "Operator",
    {
        0: ("opcode", _UINT),
        1: ("inputs", _INTS),
        2: ("outputs", _INTS),
        3: ("type", _Scalar("B")),
        4: ("options", _OPTIONS),
    },
)
_SUBGRAPH = _TableType(
    "SubGraph",
    {
        0: ("tensors", _Vector(_TENSOR)),
        1: ("inputs", _INTS),
        2: ("outputs", _INTS),
        3: ("operators", _Vector(_OPERATOR)),
        4: ("name", _Text()),
    },
)
_BUFFER = _TableType("Buffer", {0: ("data", _Content()), 1: ("offset", _ULONG), 2: ("size", _ULONG)})
_METADATA = _TableType("Metadata", {0: ("name", _Text()), 1: ("buffer", _UINT)})
_TENSOR_MAPS = _Vector(_TableType("TensorMap", {0: ("name", _Text()), 1: ("tensor", _UINT)}))
_SIGNATURE = _TableType(
    "SignatureDef",
    {0: ("inputs", _TENSOR_MAPS), 1: ("outputs", _TENSOR_MAPS), 2: ("key", _Text()), 4: ("graph", _UINT)},
)
_MODEL = _TableType(
    "Model",
    {
        0: ("version", _UINT),
        1: ("opcodes", _Vector(_OPERATOR_CODE)),
        2: ("graphs", _Vector(_SUBGRAPH)),
        3: ("description", _Text()),
        4: ("buffers", _Vector(_BUFFER)),
        6: ("metadata", _Vector(_METADATA)),
        7: ("signatures", _Vector(_SIGNATURE)),
    },
)


class _Walker:
    """Follows offsets; every read is checked against the file's size, and all of them together against a limit."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.size = data, len(data)
        self.end = 8
        self._most_items = self._items_left = min(_MOST_ITEMS, _FEW_ITEMS + self.size // _BYTES_PER_ITEM)
        self._lists: dict[tuple[int, str], tuple[Any, ...]] = {}

    def number(self, code: str, at: int) -> Any:
        """One little-endian number."""
        size = _SIZES[code]
        if at % size:
            raise _Refused(f"the number at byte {at} is not aligned")
        if not 0 <= at <= self.size - size:
            raise _Refused(f"the number at byte {at} is outside the file")
        (value,) = struct.unpack_from(f"<{code}", self.data, at)
        if code == "?" and self.data[at] > 1:
            raise _Refused(f"the truth value at byte {at} is {self.data[at]}")
        return value

    def follow(self, at: int) -> int:
        """Where the offset at *at* points to."""
        target = at + int(self.number("I", at))
        if target <= at or target % 4:
            raise _Refused(f"the offset at byte {at} points to byte {target}")
        return target

    def table(self, at: int, table: _TableType) -> dict[str, Any]:
        """The fields of a table, those that it leaves out with their defaults."""
        self._spend(_TABLE_ITEMS)
        slots = self._slots(at, table)
        fields: dict[str, Any] = {}
        for slot, (name, kind) in table.fields.items():
            fields[name] = (
                self._field(at + slots[slot], kind, fields.get("type", 0)) if slot in slots else _default(kind)
            )
        return fields

    def _slots(self, at: int, table: _TableType) -> dict[int, int]:
        """Where the fields lie that the table has, seen from it."""

        def need(condition: bool, what: str) -> None:
            if not condition:
                raise _Refused(f"the {table.name} at byte {at} {what}")

        vtable = at - int(self.number("i", at))
        need(vtable >= 4, "has its fields listed before the file")
        listed, inline = int(self.number("H", vtable)), int(self.number("H", vtable + 2))
        need(4 <= listed <= 4 + 2 * _MOST_SLOTS and listed % 2 == 0, "has a list of fields of another length")
        need(inline >= 4, "is shorter than its head")
        self._inside(vtable, listed, "a list of fields")
        self._inside(at, inline, "a table")
        offsets = struct.unpack_from(f"<{listed // 2 - 2}H", self.data, vtable + 4)
        slots = {slot: offset for slot, offset in enumerate(offsets) if offset}
        for slot, offset in slots.items():
            if slot not in table.fields:
                need(False, f"has field {slot}, which these files do not have")
            kind = table.fields[slot][1]
            size = _SIZES[kind.code] if isinstance(kind, _Scalar) else 4
            need(4 <= offset <= inline - size, "has a field outside the table")
        return slots

    def _field(self, at: int, kind: _Kind, union_type: int) -> Any:
        if isinstance(kind, _Scalar):
            return self.number(kind.code, at)
        at = self.follow(at)
        if isinstance(kind, _TableType):
            return self.table(at, kind)
        if isinstance(kind, _Union):
            _need(
                union_type in kind.tables,
                f"the table at byte {at} is of kind {union_type}, which these files do not have",
            )
            return self.table(at, kind.tables[union_type])
        length = int(self.number("I", at))
        if isinstance(kind, _Text):
            return self._text(at + 4, length)
        if isinstance(kind, _Content):
            _need((at + 4) % _CONTENT_ALIGNMENT == 0, f"the content at byte {at + 4} is not aligned")
            self._inside(at + 4, length, "content")
            return Extent(at + 4, length)
        item = kind.item
        if isinstance(item, _Scalar):
            return self._numbers(at + 4, length, item.code)
        self._inside(at + 4, length * 4, "a list")
        self._spend(length)
        return tuple(self.table(self.follow(at + 4 + 4 * index), item) for index in range(length))

    def _numbers(self, at: int, length: int, code: str) -> tuple[Any, ...]:
        """A list; many tensors have the same one, which is read once."""
        self._spend(1)
        if (at, code) not in self._lists:
            self._spend(length // _NUMBERS_PER_ITEM)
            _need(at % _SIZES[code] == 0, f"the list at byte {at} is not aligned")
            self._inside(at, length * _SIZES[code], "a list")
            self._lists[at, code] = struct.unpack_from(f"<{length}{code}", self.data, at)
        return self._lists[at, code]

    def _text(self, at: int, length: int) -> str:
        self._spend(1 + length // _LETTERS_PER_ITEM)
        self._inside(at, length + 1, "a text")
        _need(self.data[at + length] == 0, f"the text at byte {at} does not end in 0")
        try:
            return self.data[at : at + length].decode()
        except UnicodeDecodeError as error:
            raise _Refused(f"the text at byte {at} is not UTF-8") from error

    def _inside(self, at: int, size: int, what: str) -> None:
        if not 0 <= at <= self.size - size:
            raise _Refused(f"{what} of {size} bytes at byte {at} is outside the file")
        self.end = max(self.end, at + size)

    def _spend(self, items: int) -> None:
        self._items_left -= items
        if self._items_left < 0:
            raise _Refused(f"it lists more than {self._most_items} things")


def _default(kind: _Kind) -> Any:
    if isinstance(kind, _Scalar):
        return kind.default
    return {_Text: "", _Vector: ()}.get(type(kind))


def _model(walker: _Walker) -> ModelFile:
    _need(walker.data[4:8] == IDENTIFIER, "it does not start like one")
    root = walker.table(walker.follow(0), _MODEL)
    _need(root["version"] == VERSION, f"its schema has version {root['version']}")
    inside = walker.end
    buffers = tuple(_extent(buffer, inside, walker) for buffer in root["buffers"])
    _need(bool(buffers) and not buffers[0].size, "its first buffer is not empty")
    opcodes = tuple(_opcode(code) for code in root["opcodes"])
    graphs = tuple(_graph(graph, buffers, len(opcodes)) for graph in root["graphs"])
    return ModelFile(
        opcodes=opcodes,
        graphs=graphs,
        buffers=buffers,
        metadata=_named(root["metadata"], "buffer", len(buffers)),
        signatures=tuple(_signature(signature, graphs) for signature in root["signatures"]),
        end=walker.end,
        data=walker.data,
    )


def _extent(fields: dict[str, Any], flatbuffer_end: int, walker: _Walker) -> Extent:
    """Inside of the flatbuffer, or behind it; sums of what a file says could wrap where runtimes add them."""
    data, offset, size = fields["data"], fields["offset"], fields["size"]
    if not offset and not size:
        return data or Extent()
    _need(data is None, f"a buffer has content and an offset, {offset}")
    _need(offset % ALIGNMENT == 0, f"the content at byte {offset} is not aligned")
    _need(
        flatbuffer_end <= offset and 0 < size <= walker.size and offset <= walker.size - size,
        f"content of {size} bytes at byte {offset} is not after the flatbuffer",
    )
    walker.end = max(walker.end, offset + size)
    return Extent(offset, size, behind=True)


def _opcode(fields: dict[str, Any]) -> tuple[int, int]:
    code = fields["code"]
    _need(fields["deprecated"] == min(code, 127), f"operator {code} is also called {fields['deprecated']}")
    return code, fields["version"]


def _graph(fields: dict[str, Any], buffers: tuple[Extent, ...], num_opcodes: int) -> Graph:
    tensors = tuple(_tensor(tensor, buffers) for tensor in fields["tensors"])
    operations = tuple(_operation(operator, len(tensors), num_opcodes) for operator in fields["operators"])
    inputs, outputs = (_indices(fields[name], len(tensors), "tensor") for name in ("inputs", "outputs"))
    return Graph(fields["name"], tensors, inputs, outputs, operations)


def _tensor(fields: dict[str, Any], buffers: tuple[Extent, ...]) -> Tensor:
    name, shape, signature = fields["name"], fields["shape"], fields["signature"]
    _need(fields["type"] in _DTYPES, f"tensor {name} is of type {fields['type']}")
    dtype = _DTYPES[fields["type"]]
    _need(fields["has_rank"], f"tensor {name} has no rank")
    _need(all(size > 0 for size in shape), f"tensor {name} has shape {list(shape)}")
    num_bytes = dtype.itemsize * math.prod(shape)
    _need(num_bytes <= _LARGEST_BYTES, f"tensor {name} has {num_bytes} bytes")
    if signature:
        _need(-1 in signature, f"tensor {name} has shape {list(shape)} and {list(signature)}")
        _need(shape == tuple(1 if size == -1 else size for size in signature), f"tensor {name} has two shapes")
    _need(fields["buffer"] < len(buffers), f"tensor {name} names buffer {fields['buffer']} of {len(buffers)}")
    if fields["buffer"]:
        size = buffers[fields["buffer"]].size
        _need(size == num_bytes and not signature, f"tensor {name} of {num_bytes} bytes has {size} bytes of content")
    scales, zero_point = _counted(fields, dtype.name, shape) if fields["quantization"] else ((), 0)
    return Tensor(name, dtype.name, signature or shape, fields["buffer"], scales, zero_point)


def _counted(fields: dict[str, Any], dtype: str, shape: tuple[int, ...]) -> tuple[tuple[float, ...], int]:
    """The scale of a tensor, or those of a constant's rows, and the zero point."""
    name, scales, zero_points = fields["name"], fields["quantization"]["scale"], fields["quantization"]["zero_point"]
    lengths = (1, shape[0]) if fields["buffer"] and shape else (1,)
    _need(len(scales) == len(zero_points) and len(scales) in lengths, f"tensor {name} has {len(scales)} scales")
    usable = np.isfinite(scales) & (np.array(scales) >= np.finfo(np.float32).tiny)  # XNNPACK takes no smaller ones
    _need(bool(usable.all()), f"tensor {name} has a scale that is not valid")
    lowest, highest = _ZERO_POINTS.get(dtype, (0, 0))
    is_point = len(scales) == 1 and lowest <= zero_points[0] <= highest
    _need(is_point or not any(zero_points), f"tensor {name} of {dtype} has an invalid zero point")
    return scales, zero_points[0]


def _operation(fields: dict[str, Any], num_tensors: int, num_opcodes: int) -> Node:
    _indices((fields["opcode"],), num_opcodes, "operator")
    inputs, outputs = (_indices(fields[name], num_tensors, "tensor") for name in ("inputs", "outputs"))
    has_options = fields["options"] is not None
    _need(
        has_options == (fields["type"] > 0), f"an operator has options of kind {fields['type']}, but they are missing"
    )
    return Node(fields["opcode"], inputs, outputs, fields["type"], fields["options"] or {})


def _signature(fields: dict[str, Any], graphs: tuple[Graph, ...]) -> SignatureDef:
    (index,) = _indices((fields["graph"],), len(graphs), "graph")
    num_tensors = len(graphs[index].tensors)
    inputs, outputs = (_named(fields[name], "tensor", num_tensors) for name in ("inputs", "outputs"))
    return SignatureDef(fields["key"], index, inputs, outputs)


def _named(entries: tuple[dict[str, Any], ...], what: str, count: int) -> dict[str, int]:
    named = {entry["name"]: entry[what] for entry in entries}
    _need(len(named) == len(entries), f"two entries of {sorted(named)} have one name")
    _indices(tuple(named.values()), count, what)
    return named


def _indices(given: tuple[int, ...], count: int, what: str) -> tuple[int, ...]:
    for index in given:
        _need(0 <= index < count, f"it refers to {what} {index} of {count}")
    return given
