"""Zip archives that others made, as torch.save and numpy.savez write them, checked before anything is unpacked."""

from __future__ import annotations

import os
import struct
import zipfile
from typing import BinaryIO

from hydra_export.errors import BadInput

# What zipfile raises over damage: they share no base.
_DAMAGED = (
    zipfile.BadZipFile,
    struct.error,
    ValueError,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OSError,
    KeyError,
)
_END = b"PK\x05\x06"
_LARGEST_COMMENT = 2**16
_MOST_ENTRIES = 50_000  # one per tensor; zipfile needs some hundred bytes for each


def entries(file: BinaryIO) -> list[zipfile.ZipInfo]:
    """The entries of an archive that holds no more than its own size.

    Raises:
        BadInput: it is damaged, has more entries than any model has tensors, or unpacks to more than it is.
    """
    size = os.fstat(file.fileno()).st_size
    if (count := _num_entries(file, size)) is None:
        raise _damaged()
    if count > _MOST_ENTRIES:
        raise BadInput(f"its archive has {count} entries.", f"At most {_MOST_ENTRIES} are read.")
    try:
        with zipfile.ZipFile(file) as archive:
            found = archive.infolist()
    except _DAMAGED as error:
        raise _damaged() from error
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in found):
        raise BadInput("its archive is compressed.", "Save it again with torch.save, or numpy.savez.")
    if (total := sum(entry.file_size for entry in found)) > size:
        raise BadInput(f"its archive claims {total} bytes in a file of {size}.", "Copy or download it again.")
    return found


def member(file: BinaryIO, name: str) -> bytes:
    """One entry whole, of an archive whose ``entries`` were looked at.

    Raises:
        BadInput: it is damaged.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.read(name)
    except _DAMAGED as error:
        raise _damaged() from error


def _damaged() -> BadInput:
    return BadInput("its archive is damaged.", "Copy or download it again.")


def _num_entries(file: BinaryIO, size: int) -> int | None:
    """What the end of the archive says, read before zipfile makes an object of each."""
    file.seek(max(0, size - _LARGEST_COMMENT - 98))  # with the records of zip64 before the end
    tail = file.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) < at + 22:
        return None
    count: int = struct.unpack_from("<H", tail, at + 10)[0]
    wide = tail.rfind(b"PK\x06\x06", 0, at)
    if count == 0xFFFF and wide >= 0 and len(tail) >= wide + 40:
        count = struct.unpack_from("<Q", tail, wide + 32)[0]
    return count
