"""The messages between parent and child: the length of a message, msgpack, and the bytes of each array in it."""

from __future__ import annotations

import ast
import os
import struct
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Progress = Callable[[str, int, int], None]  # what is being done, steps done, steps in all

_ARRAY = 1  # the msgpack extension that stands for an array
_LENGTH = struct.Struct("<Q")


class Request(msgspec.Struct):
    function: str
    arguments: dict[str, Any]


class ProgressUpdate(msgspec.Struct, tag=True):
    what: str
    done: int
    total: int


class ReturnValue(msgspec.Struct, tag=True):
    value: Any


class ErrorReport(msgspec.Struct, tag=True):
    """*codes* are those of our own error and its bases, the nearest first; none for any other exception."""

    codes: list[str]
    kind: str
    message: str
    remedy: str
    field: str
    trace: str
    out_of_memory: bool


def send(descriptor: int, message: msgspec.Struct) -> None:
    """Writes *message*; TypeError, ValueError or OverflowError before the first byte where it cannot be encoded."""
    arrays: list[NDArray[Any]] = []

    def as_extension(value: object) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        if not isinstance(value, np.ndarray) or value.dtype.hasobject or value.dtype.isbuiltin == 2:
            kind = f"array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
            raise TypeError(f"a worker does not take or return a {kind}")
        arrays.append(np.ascontiguousarray(value))
        layout = (repr(np.lib.format.dtype_to_descr(value.dtype)), value.shape)
        return msgspec.msgpack.Ext(_ARRAY, msgspec.msgpack.encode(layout))

    encoded = msgspec.msgpack.encode(message, enc_hook=as_extension)
    _write(descriptor, memoryview(_LENGTH.pack(len(encoded)) + encoded))
    for array in arrays:
        _write(descriptor, _bytes_of(array))


def receive(read: Callable[[memoryview], None], kind: Any) -> Any:
    """Reads one message of *kind* with *read*, which fills a buffer."""
    arrays: list[NDArray[Any]] = []

    def as_array(_code: int, layout: memoryview) -> NDArray[Any]:
        descr, shape = msgspec.msgpack.decode(layout)
        arrays.append(np.empty(shape, np.lib.format.descr_to_dtype(ast.literal_eval(descr))))
        return arrays[-1]

    length = bytearray(_LENGTH.size)
    read(memoryview(length))
    encoded = bytearray(_LENGTH.unpack(length)[0])
    read(memoryview(encoded))
    message = msgspec.msgpack.decode(encoded, type=kind, ext_hook=as_array)
    for array in arrays:
        read(_bytes_of(array))
    return message


def _bytes_of(array: NDArray[Any]) -> memoryview:
    """The storage of a contiguous array."""
    return array.reshape(-1).view(np.uint8).data if array.nbytes else memoryview(b"")


def _write(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
