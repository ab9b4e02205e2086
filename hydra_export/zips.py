"""Zip archives that somebody else may have made: how much they list is known before the list is read."""

from __future__ import annotations

import struct
import zipfile
import zlib
from typing import IO, BinaryIO

# Of the list of entries. zipfile reads it whole, and makes of each entry, of which this holds 90,000, about 700 bytes.
_LISTING_BYTES = 4 * 2**20

# What zipfile raises over a damaged archive: these share no base.
DAMAGED = (
    zipfile.BadZipFile,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    struct.error,
    zlib.error,
)


def opened(file: BinaryIO) -> zipfile.ZipFile:
    """The archive in *file*, its entries listed.

    Raises:
        zipfile.BadZipFile, or another of DAMAGED: there is none, its list is too long, or its entries overlap.
    """
    archive = zipfile.ZipFile(_Frugal(file))
    listed = sum(entry.compress_size for entry in archive.infolist())
    size = file.seek(0, 2)
    if listed > size:
        raise zipfile.BadZipFile(f"its entries take {listed:,} bytes, but it has {size:,}")
    return archive


class _PointsOutside(zipfile.BadZipFile, OSError):
    """A place before the beginning of a file; of a short archive zipfile tries one, and expects an OSError."""


class _Frugal:
    """A file that gives no more at once than a list of entries may have."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.tell, self.seekable = file.tell, file.seekable

    def seek(self, place: int, whence: int = 0) -> int:
        try:
            return self._file.seek(place, whence)
        except (OSError, OverflowError) as error:
            raise _PointsOutside(f"it points to byte {place}") from error

    def read(self, size: int = -1) -> bytes:
        if size > _LISTING_BYTES:
            raise zipfile.BadZipFile(f"its list of entries has {size:,} bytes; at most {_LISTING_BYTES:,} are allowed")
        return self._file.read(_LISTING_BYTES if size < 0 else size)  # without a size: the end, of 64 KiB at most
