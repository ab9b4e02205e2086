"""Writing a package's weight file so that everything lies in it once."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from hydra_export.mil.types import NAMED
from hydra_export.mil.weights import ALIGNMENT, HEADER, RECORD, SENTINEL, VERSION
from hydra_export.targets.coreml.folder import WEIGHTS_NAME

_CHUNK_BYTES = 2**24  # that a disk is given at once
_NUMBERS = {np.dtype(dtype.storage): dtype.blob_number for dtype in map(NAMED.get, ("fp16", "fp32", "int8")) if dtype}


class WeightFileWriter:
    """Takes arrays; equal ones are one record."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._file.write(bytes(HEADER.size))
        self._offsets: dict[bytes, int] = {}  # by a hash of the record

    def store(self, array: Any) -> tuple[str, int]:
        """Where *array* lies: what programs call this file, and the offset of its record."""
        dtype, data = array.dtype, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        key = hashlib.sha256(f"{dtype} {len(data)} ".encode())
        key.update(data)
        if key.digest() not in self._offsets:
            self._file.write(bytes(-self._file.tell() % ALIGNMENT))
            here = self._offsets[key.digest()] = self._file.tell()
            self._file.write(RECORD.pack(SENTINEL, _NUMBERS[dtype], len(data), here + RECORD.size, 0))
            for at in range(0, len(data), _CHUNK_BYTES):
                self._file.write(data[at : at + _CHUNK_BYTES])
        return WEIGHTS_NAME, self._offsets[key.digest()]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            self._file.seek(0)
            self._file.write(HEADER.pack(len(self._offsets), VERSION))
