"""Writing a package's weight file so that everything lies in it once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from hydra_export.mil.weights import ALIGNMENT, HEADER, RECORD, SENTINEL, VERSION

_CHUNK_BYTES = 2**24  # that a disk is given at once


class WeightFileWriter:
    """Takes over the records of other weight files. Equal ones are one, and whatever uses them points there."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._file.write(bytes(HEADER.size))
        self._offsets: dict[bytes, int] = {}  # by a hash of the record

    def take(self, function: Any, source: Path) -> None:
        """Adds all that a Function message has in *source*, and lets it point here instead."""
        content = np.memmap(source, np.uint8, mode="r")
        for value in _values(function):
            if value.WhichOneof("value") == "blobFileValue":
                value.blobFileValue.offset = self._offset(content, value.blobFileValue.offset)

    def _offset(self, content: np.memmap[Any, np.dtype[np.uint8]], offset: int) -> int:
        """Where the record at *offset* of *content* lies here."""
        header = content[offset : offset + RECORD.size].tobytes()
        sentinel, dtype, size, start, padding_bits = RECORD.unpack(header)
        assert sentinel == SENTINEL
        data = content[start : start + size]
        key = hashlib.sha256(RECORD.pack(SENTINEL, dtype, size, 0, padding_bits))
        key.update(data.data)
        if key.digest() not in self._offsets:
            self._file.write(bytes(-self._file.tell() % ALIGNMENT))
            here = self._offsets[key.digest()] = self._file.tell()
            self._file.write(RECORD.pack(SENTINEL, dtype, size, here + RECORD.size, padding_bits))
            for at in range(0, size, _CHUNK_BYTES):
                self._file.write(data[at : at + _CHUNK_BYTES].data)
        return self._offsets[key.digest()]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            self._file.seek(0)
            self._file.write(HEADER.pack(len(self._offsets), VERSION))


def _values(function: Any) -> Iterator[Any]:
    """Every Value message of every operation, in the order in which they are used."""
    for block in function.block_specializations.values():
        for operation in block.operations:
            for name in sorted(operation.attributes):
                yield operation.attributes[name]
            for name in sorted(operation.inputs):
                yield from (binding.value for binding in operation.inputs[name].arguments if binding.HasField("value"))
