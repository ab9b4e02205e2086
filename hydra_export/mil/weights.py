"""The weight file of a package: records of raw numbers, found by their offsets."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydra_export.mil.types import NAMED, InvalidProgram, TensorType

# Storage format 2: a header of 64 bytes (number of records, version), then records, each a header of 64 bytes
# (sentinel, data type, size and place of its data, unused bits at its end) and its data, everything at multiples of 64.
ALIGNMENT = 64
HEADER = struct.Struct("<II56x")
RECORD = struct.Struct("<IIQQQ32x")
VERSION = 2
SENTINEL = 0xDEADBEEF


class WeightFile:
    """A weight file, mapped: nothing is read before it is used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if path.stat().st_size < HEADER.size:
                raise InvalidProgram(f"{path.name} is too short for a weight file")
            self._bytes: NDArray[np.uint8] = np.memmap(path, np.uint8, mode="r")
        except OSError as error:
            raise InvalidProgram(f"{path.name} cannot be read: {error}") from error
        self.num_records, version = HEADER.unpack(self._bytes[: HEADER.size].tobytes())
        if version != VERSION:
            raise InvalidProgram(f"{path.name} has storage version {version}; {VERSION} is supported")

    def check(self, offset: int, declared: TensorType) -> int:
        """Where the data of the record at *offset* begins, after checking that it is what *declared* says."""
        what = f"the weight at {offset} of {self.path.name}"
        if offset % ALIGNMENT or not HEADER.size <= offset <= len(self._bytes) - RECORD.size:
            raise InvalidProgram(f"{what} is not at a valid position of the file")
        header = self._bytes[offset : offset + RECORD.size].tobytes()
        sentinel, number, size, start, padding_bits = RECORD.unpack(header)
        dtype = NAMED[declared.dtype]
        if sentinel != SENTINEL:
            raise InvalidProgram(f"{what} is not a weight: its sentinel is {sentinel:#x}")
        if number != dtype.blob_number:
            raise InvalidProgram(f"{what} contains data of type {number}, declared as {declared}")
        if start % ALIGNMENT or start < offset + RECORD.size or start > len(self._bytes) or size > len(self._bytes):
            raise InvalidProgram(f"{what} has its data at {start}, which is not a valid position")
        if start + size > len(self._bytes):
            raise InvalidProgram(f"{what} goes beyond the end of the file")
        if declared.size * dtype.bits + padding_bits != size * 8 or not 0 <= padding_bits < 8:
            raise InvalidProgram(f"{what} has {size} bytes, declared as {declared}")
        return int(start)

    def read(self, offset: int, declared: TensorType) -> NDArray[Any]:
        """The record at *offset* as *declared*; a view of the file unless its elements are smaller than a byte."""
        start = self.check(offset, declared)
        num_bytes = -(-declared.size * NAMED[declared.dtype].bits // 8)
        return unpacked(self._bytes[start : start + num_bytes], declared)


def unpacked(raw: NDArray[np.uint8], declared: TensorType) -> NDArray[Any]:
    """Bytes as a tensor; elements smaller than a byte begin at the lowest bit."""
    dtype = NAMED[declared.dtype]
    if dtype.bits >= 8:
        whole: NDArray[Any] = raw.view(dtype.storage).reshape(declared.shape)
        return whole
    count = math.prod(declared.shape)
    bits = np.unpackbits(raw, count=count * dtype.bits, bitorder="little").reshape(count, dtype.bits)
    numbers: NDArray[Any] = (bits << np.arange(dtype.bits, dtype=np.uint8)).sum(axis=1, dtype=np.uint8)
    if dtype.name.startswith("int"):  # two's complement of fewer bits
        sign = np.uint8(1 << dtype.bits - 1)
        numbers = ((numbers ^ sign).astype(np.int16) - sign).astype(np.int8)
    return numbers.reshape(declared.shape)
