"""NumPy archives that somebody else may have made: names, types and shapes are known before anything is read."""

from __future__ import annotations

import math
import tokenize
import warnings
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from hydra_export import files, zips

DAMAGED = (*zips.DAMAGED, OSError, SyntaxError, TypeError, KeyError, MemoryError, tokenize.TokenError)
_PIECE = 2**20
# An array of numbers has 128 bytes; numpy's own limit, 10,000, has room for types that take it seconds to make.
_LONGEST_HEADER = 1024


class Header(NamedTuple):
    """What an array is."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


@dataclass(frozen=True)
class Archive:
    """An open archive; *headers* by the names of its arrays."""

    headers: dict[str, Header]
    _zip: zipfile.ZipFile

    def read(self, name: str) -> NDArray[Any]:
        """One array."""
        header = self.headers[name]
        num_bytes = header.dtype.itemsize * math.prod(header.shape)
        if num_bytes > self._zip.getinfo(f"{name}.npy").compress_size:
            raise ValueError(f"{name} is shorter than its header states")
        content = np.empty(num_bytes, np.uint8)
        with self._zip.open(f"{name}.npy") as member:
            _header(member)
            place = content.data
            while place and (piece := member.read(min(_PIECE, len(place)))):
                place[: len(piece)] = piece
                place = place[len(piece) :]
            if place or member.read(1):  # which checks its sum
                raise ValueError(f"{name} has another length than its header states")
        return content.view(header.dtype).reshape(header.shape)


@contextmanager
def opened(path: Path, limit_bytes: int, names: Collection[str]) -> Iterator[Archive]:
    """The archive at *path*, which must hold the arrays *names* and nothing else, uncompressed.

    Raises:
        Unreadable: it is no regular file, or larger than *limit_bytes*.
        ValueError, or another of DAMAGED: it is no such archive.
    """
    with files.opened(path, limit_bytes) as file, zips.opened(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        expected = {f"{name}.npy" for name in names}
        if len(entries) < len(archive.infolist()):
            raise ValueError("an array is in it twice")
        if missing := expected - entries.keys():
            raise ValueError(f"{min(missing).removesuffix('.npy')} is not in it")
        if unknown := entries.keys() - expected:
            raise ValueError(f"{min(unknown)[:80]!r} does not belong in it")
        if packed := [name for name in entries if entries[name].compress_type != zipfile.ZIP_STORED]:
            raise ValueError(f"{min(packed)} is compressed")
        headers = {}
        for name in names:
            with archive.open(f"{name}.npy") as member:
                headers[name] = _header(member)
        yield Archive(headers, archive)


def _header(member: Any) -> Header:
    version = npy.read_magic(member)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its format has version {version}")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    with warnings.catch_warnings(action="ignore"):  # of headers that Python 2 wrote
        try:
            shape, is_fortran, dtype = read(member, max_header_size=_LONGEST_HEADER)
        except Exception as error:  # of numpy, of literals and of types: they share no base
            raise ValueError(f"a header cannot be read: {error}") from error
    if is_fortran or dtype.hasobject or any(size < 0 for size in shape):
        raise ValueError(f"it contains {dtype} {list(shape)} in an unsupported layout")
    return Header(dtype, shape)
