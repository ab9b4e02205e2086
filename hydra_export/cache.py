"""What was written before: files by what they were made from, and by their hashes.

    <folder>/writes/<key>.json     the hash of each file of one write
    <folder>/files/<sha256>        a file's content

Everything is copied in and out, never linked, and hashed on the way: what was damaged meanwhile is made anew. What an
entry may restore is said by who asks, and nothing that comes out is trusted further: an export verifies it like
what it wrote. What does not belong into a cache, such as a link or a device, is never opened: it counts as missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import msgspec

from hydra_export import files
from hydra_export.errors import BadInput, HydraExportError, Unreadable
from hydra_export.target import Artifact

DEFAULT_LIMIT = 8 * 2**30
_MARK = "CACHEDIR.TAG"  # by which backups know that they may leave it out: https://bford.info/cachedir/
_SIGNATURE = (
    b"Signature: 8a477f597d28d172789f06886806bc55\n# Artifacts that hydra-export wrote; delete it when you like.\n"
)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LARGEST_ENTRY = 2**20
_PIECE = 2**20


class _MissingError(Exception):
    """What is asked for is not in the cache, or not as it was put there."""


@dataclass(frozen=True)
class Cache:
    """A folder of writes; several processes may use it at once.

    Attributes:
        limit: bytes of files that ``prune`` leaves, those that were used last.
        reused: the artifacts that came out of it, by the path that they were copied to, and the key of each.
    """

    folder: Path
    limit: int = DEFAULT_LIMIT
    reused: dict[Path, str] = field(default_factory=dict)

    def check(self) -> None:
        """Makes the folder.

        Raises:
            BadInput: something else is there, or others may change what is in it.
            OutputRefused: it cannot be made.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise BadInput(f"The cache {self.folder} is not a folder.", "Choose another `cache`.")
        mark = self.folder / _MARK
        if not os.path.lexists(mark):
            if self.folder.exists() and any(self.folder.iterdir()):
                raise BadInput(
                    f"{self.folder} exists and is not a cache.",
                    "Choose an empty folder, or one that does not exist.",
                )
            with files.replaced_file(mark) as partial:
                partial.write_bytes(_SIGNATURE)
        for folder in (self.folder.resolve(), self.folder / "writes", self.folder / "files"):
            if os.path.lexists(folder):
                _check_own(folder)

    def fetch(self, key: str, artifacts: Sequence[Artifact], out: Path, most_bytes: int | None = None) -> bool:
        """Copies the files of the write *key* into the folder *out*; where one is missing or damaged, none.

        Args:
            artifacts: what that write makes: an entry of other files is none of ours.
            most_bytes: that one file can have.
        """
        names = _names(artifacts)
        try:
            sha256 = self._read_entry(key)
            if sorted(sha256) != names:
                raise _MissingError
            for name in names:
                self._copy_out(sha256[name], out / name, most_bytes)
        except _MissingError:
            self.discard(key, artifacts, out)
            return False
        self.reused.update({out / artifact.path: key for artifact in artifacts})
        return True

    def discard(self, key: str, artifacts: Sequence[Artifact], out: Path) -> None:
        """Takes the write *key* back out of the folder *out*, and drops it."""
        for name in _names(artifacts):
            (out / name).unlink(missing_ok=True)
            for folder in [*PurePosixPath(name).parents][:-1]:
                with contextlib.suppress(OSError):  # not empty yet, or not there
                    (out / folder).rmdir()
        for artifact in artifacts:
            self.reused.pop(out / artifact.path, None)
        self._drop(key)

    def drop_reused(self) -> bool:
        """Drops every write that came out of it, and says whether there was one."""
        keys = set(self.reused.values())
        for key in keys:
            self._drop(key)
        self.reused.clear()
        return bool(keys)

    def keep(self, key: str, artifacts: Sequence[Artifact], out: Path) -> None:
        """Copies the files of *artifacts* out of the folder *out*; where that cannot be done, nothing is kept."""
        with contextlib.suppress(OSError, HydraExportError, _MissingError):
            document = msgspec.json.encode({name: self._copy_in(out / name) for name in _names(artifacts)})
            with files.replaced_file(_cleared(self._entry(key))) as partial:
                partial.write_bytes(hashlib.sha256(document).hexdigest().encode() + b"\n" + document)

    def prune(self) -> None:
        """Deletes files beyond the limit, those first that were not used for longest."""
        with contextlib.suppress(OSError, _MissingError):
            found = [path for path in self._folder("files").iterdir() if _SHA256.fullmatch(path.name)]
            stored = [(path, path.lstat()) for path in found]
            left = self.limit
            for path, status in sorted(stored, key=lambda each: each[1].st_mtime_ns, reverse=True):
                left -= status.st_size
                if left < 0:
                    _cleared(path)

    def _folder(self, name: str) -> Path:
        """The folder *name* of the cache, there or not; what is no folder, a link to one elsewhere too, has nothing."""
        path = self.folder / name
        if os.path.lexists(path) and not stat.S_ISDIR(path.lstat().st_mode):
            raise _MissingError
        return path

    def _entry(self, key: str) -> Path:
        return self._folder("writes") / f"{key}.json"

    def _file(self, sha256: str) -> Path:
        return self._folder("files") / sha256

    def _read_entry(self, key: str) -> dict[str, str]:
        """The hash of each file of the write *key*."""
        with _opened(self._entry(key), _LARGEST_ENTRY) as file:
            content = b"".join(_pieces(file))
        digest, _, document = content.partition(b"\n")
        try:
            sha256 = msgspec.json.decode(document, type=dict[str, str])
        except (msgspec.DecodeError, ValueError, RecursionError) as error:  # of another release, or damaged
            raise _MissingError from error
        if digest != hashlib.sha256(document).hexdigest().encode() or not all(map(_SHA256.fullmatch, sha256.values())):
            raise _MissingError
        return sha256

    def _drop(self, key: str) -> None:
        with contextlib.suppress(_MissingError):
            _cleared(self._entry(key))

    def _copy_out(self, sha256: str, out: Path, most_bytes: int | None) -> None:
        stored, digest = self._file(sha256), hashlib.sha256()
        out.parent.mkdir(parents=True, exist_ok=True)
        with _opened(stored, most_bytes) as source, out.open("xb") as target:
            for piece in _pieces(source):
                digest.update(piece)
                target.write(piece)
            if digest.hexdigest() != sha256:
                _cleared(stored)
                raise _MissingError
            with contextlib.suppress(OSError):
                os.utime(source.fileno())

    def _copy_in(self, path: Path) -> str:
        sha256 = files.sha256(path)
        stored = self._file(sha256)
        if not _is_whole(stored, sha256, path.stat().st_size):
            with files.replaced_file(_cleared(stored)) as partial:
                shutil.copyfile(path, partial)
        return sha256


def default_folder() -> Path:
    """Where the cache is by default; what else is kept lies beside it."""
    return files.caches() / "artifacts"


def _check_own(folder: Path) -> None:
    status = folder.lstat()
    if status.st_uid != os.geteuid():
        raise BadInput(
            f"The cache {folder} belongs to another user, who could change its contents.",
            "Choose another `cache`.",
        )
    if stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_IWOTH:
        raise BadInput(
            f"Every user can write into the cache {folder} and change its contents.",
            "Choose another `cache`, or delete this one; it is created again, writable only by you.",
        )


def _names(artifacts: Sequence[Artifact]) -> list[str]:
    return sorted({name for artifact in artifacts for name in artifact.files})


@contextlib.contextmanager
def _opened(path: Path, most_bytes: int | None) -> Iterator[BinaryIO]:
    """A file of the cache. One that has another name elsewhere was not put there by us."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(files.opened(path, most_bytes, links=False))
        except Unreadable as error:
            raise _MissingError from error
        if os.fstat(file.fileno()).st_nlink > 1:
            raise _MissingError
        yield file


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    try:
        while piece := file.read(_PIECE):
            yield piece
    except OSError as error:  # of a failing disk
        raise _MissingError from error


def _is_whole(stored: Path, sha256: str, num_bytes: int) -> bool:
    """Whether it is there, and not damaged: it costs a look to know, and a fetch would only find out too late."""
    digest = hashlib.sha256()
    try:
        with _opened(stored, num_bytes) as file:
            for piece in _pieces(file):
                digest.update(piece)
    except _MissingError:
        return False
    return digest.hexdigest() == sha256


def _cleared(path: Path) -> Path:
    """*path*, whose name is free now: a link or a device goes, and nothing happens to what it names."""
    with contextlib.suppress(OSError):  # a folder, in whose place nothing is kept
        path.unlink()
    return path
