"""The files of a bundle: their sizes and hashes, and SHA256SUMS, which lists these."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Annotated

import msgspec
from msgspec import Meta

from hydra_export import files

SUMS = "SHA256SUMS"
_SUMS_LINE = re.compile(r"(?P<sha256>[0-9a-f]{64})  (?P<path>[^\r\n]+)")
_SUMS_BYTES = 8 * files.MIB
ByteCount = Annotated[int, Meta(ge=0, le=2**53)]  # the largest whole number that every JSON reader takes
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the bundle; *path* is relative to it, POSIX."""

    path: str
    bytes: ByteCount
    sha256: Sha256


def sums(entries: Iterable[FileEntry]) -> bytes:
    """The content of SHA256SUMS, as ``sha256sum -c`` reads it."""
    return "".join(f"{entry.sha256}  {entry.path}\n" for entry in sorted(entries, key=lambda e: e.path)).encode()


def read_sums(folder: Path) -> dict[str, str]:
    """The hashes in SHA256SUMS by path.

    Raises:
        Unreadable: it is no regular file, or too large.
        ValueError: it is none of ours.
    """
    text = files.read(folder / SUMS, _SUMS_BYTES).decode()
    lines = [_SUMS_LINE.fullmatch(line) for line in text.removesuffix("\n").split("\n")]
    if not text.endswith("\n") or not all(lines):
        raise ValueError("a line is not a hash, two spaces and a path")
    digests = {line["path"]: line["sha256"] for line in lines if line}
    if len(digests) < len(lines):
        raise ValueError("a path is in it twice")
    return digests


def file_entry(folder: Path, path: str) -> FileEntry:
    """Size and hash of one file of *folder*."""
    return FileEntry(path=path, bytes=(folder / path).stat().st_size, sha256=files.sha256(folder / path))


def hashed(folder: Path, known: Iterable[FileEntry] = ()) -> tuple[FileEntry, ...]:
    """Every file of *folder*; those that are *known* are not read again."""
    there = {entry.path: entry for entry in known}
    return tuple(there.get(path) or file_entry(folder, path) for path in sorted(tree(folder)))


def artifact_entry(path: str, entries: Iterable[FileEntry]) -> FileEntry:
    """Size and hash of an artifact, a file of *entries* or a folder such as an .mlpackage."""
    own = [entry for entry in entries if entry.path == path or entry.path.startswith(f"{path}/")]
    return own[0] if own[0].path == path else package_entry(path, own)


def package_entry(path: str, inside: list[FileEntry]) -> FileEntry:
    """The hash is that of the SHA256SUMS which the package itself would have."""
    own = [msgspec.structs.replace(file, path=file.path.removeprefix(f"{path}/")) for file in inside]
    digest = hashlib.sha256(sums(own)).hexdigest()
    return FileEntry(path=path, bytes=sum(file.bytes for file in inside), sha256=digest)


def tree(folder: Path) -> list[str]:
    """Every file below *folder* as a relative POSIX path; links and special files are listed, never followed."""
    paths = []
    for parent, folders, names in os.walk(folder, onerror=_raise):
        links = [name for name in folders if Path(parent, name).is_symlink()]
        paths += [PurePosixPath(Path(parent, name).relative_to(folder)).as_posix() for name in [*names, *links]]
    return paths


def _raise(error: OSError) -> None:
    raise error
