"""A bundle as one .zip file that is the same wherever it is made, and reading one that may have been made by anybody.

Nothing is compressed: weights hardly shrink, what zlib makes of them differs between its versions, and an archive whose
entries are stored cannot unpack to more than it is.
"""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from hydra_export import bundle, files, zips
from hydra_export.errors import BadInput, HydraExportError, OutputRefused, Unreadable, VerificationFailed
from hydra_export.interruption import uninterrupted

SUFFIX = ".zip"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest that the format can say
_MODE = stat.S_IFREG | 0o644
_UNIX = 3
_MOST_ENTRIES = 10_000
_PIECE = 2**20


@contextmanager
@uninterrupted
def written(out: Path, file: Path, name: str) -> Iterator[Path]:
    """``bundle.written``, whose archive *file* comes with it: a kill leaves both old, both new, or no archive."""
    check_replaceable(file)
    with files.replaced_file(file) as partial, ExitStack() as stack, bundle.written(out) as folder:
        yield folder
        write(folder, partial, name)
        check_replaceable(file)  # again: what came there meanwhile is not ours either
        stack.enter_context(files.set_aside(file))


def beside(out: Path) -> Path:
    """Where the archive of a bundle in the folder *out* goes: ``OUT.zip``."""
    whole = Path.cwd() / out
    whole = whole.resolve() if whole.name in ("", "..") else whole
    return (out.parent if out.name == whole.name else whole.parent) / f"{whole.name}{SUFFIX}"


def check_replaceable(file: Path) -> None:
    """Refuses a path that holds anything but nothing or an archive of a bundle."""
    if not os.path.lexists(file):
        return
    try:
        with files.opened(file) as stream, zips.opened(stream) as old:
            ours = any(name.partition("/")[2] == bundle.MANIFEST for name in old.namelist())
    except (Unreadable, OSError, *zips.DAMAGED):
        ours = False
    if not ours:
        raise OutputRefused(
            f"{file} exists and is not a bundle's archive.", "Choose another `out`, or move it away yourself."
        )


def write(folder: Path, file: Path, name: str) -> None:
    """Writes every file of the bundle *folder* into the archive *file*, below a folder *name*."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(bundle.tree(folder)):
            with (folder / path).open("rb") as source:
                _add(archive, f"{name}/{path}", source, (folder / path).stat().st_size)


def _add(archive: zipfile.ZipFile, name: str, source: BinaryIO, size: int) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.create_system, entry.external_attr, entry.file_size = _UNIX, _MODE << 16, size
    with archive.open(entry, "w") as target:
        shutil.copyfileobj(source, target, _PIECE)


@contextmanager
def unpacked(file: Path) -> Iterator[Path]:
    """The bundle in the archive *file*, in a temporary folder.

    Raises:
        BadInput: *file* is no archive, or cannot be read.
        VerificationFailed: it is one, and is damaged or not as ``write`` writes it; nothing was written outside of the
            temporary folder. That it says nothing else than its files is checked last, when the caller is done.
    """
    with files.temporary_folder() as place:
        remedy = "Pass a bundle's folder or archive."
        try:
            with files.opened(file, remedy=remedy) as stream:
                folder = _unpack(stream, file, place)
        except OSError as error:
            raise BadInput(f"{file} cannot be unpacked: {error.strerror}.", remedy) from error
        try:
            yield folder
        except HydraExportError as error:  # nobody knows the temporary folder
            error.rename(str(folder), str(file))
            raise
        check_nothing_else(file, folder)


def _unpack(stream: BinaryIO, file: Path, place: Path) -> Path:
    try:
        archive = zips.opened(stream)
    except zips.DAMAGED as error:
        if stream.seek(0) or stream.read(4) != b"PK\x03\x04":
            raise BadInput(f"{file} is not an archive.", "Pass a bundle's folder or archive.") from error
        raise _failed(file, f"its list of files is damaged: {error}") from error
    with archive:
        entries = archive.infolist()
        if problem := next(_problems(entries), None):
            raise _failed(file, problem)
        for entry in entries:
            path = place / entry.filename
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with archive.open(entry) as source, path.open("xb") as target:
                    shutil.copyfileobj(source, target, _PIECE)
            except zips.DAMAGED as error:
                raise _failed(file, f"{entry.filename} is damaged: {error}") from error
        (name,) = {PurePosixPath(entry.filename).parts[0] for entry in entries}
    return place / name


def _problems(entries: list[zipfile.ZipInfo]) -> Iterator[str]:
    """What keeps entries from being unpacked as plain files below one folder."""
    if not entries:
        yield "it is empty"
    if len(entries) > _MOST_ENTRIES:
        yield f"it has {len(entries)} entries; at most {_MOST_ENTRIES} are allowed"
    seen: dict[str, str] = {}
    for entry in entries:
        name, shown = entry.filename, repr(entry.filename[:200])
        if "\0" in entry.orig_filename:
            yield f"{shown} is outside the archive, or is not a plain path"
        elif problem := files.unportable(name):
            yield f"{shown} cannot be unpacked: {problem}"
        elif "/" not in name:
            yield f"{shown} is not in the bundle's folder"
        elif not stat.S_ISREG(entry.external_attr >> 16):
            yield f"{shown} is a link, a folder or a special file"
        elif entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            yield f"{shown} is compressed or encrypted"
        twin = seen.setdefault(name.casefold(), name)
        if twin is not name:
            yield f"{shown} is in it twice" if twin == name else f"{shown} and {twin!r} differ only in capitals"
    parents = {str(parent) for name in seen.values() for parent in PurePosixPath(name).parents}
    for name in sorted(parents.intersection(seen.values())):
        yield f"{name!r} is a file and a folder"
    if len(roots := {name.partition("/")[0] for name in seen.values()}) > 1:
        yield f"it has {len(roots)} folders"


def check_nothing_else(file: Path, folder: Path) -> None:
    """The archive that ``write`` makes of what was unpacked is the same to the last byte: it says nothing else."""
    again = folder.parent / f"{folder.name}{SUFFIX}"
    write(folder, again, folder.name)
    if files.sha256(again) != files.sha256(file):
        raise _failed(file, "its headers are not those that go with its files")
    again.unlink()


def _failed(file: Path, problem: str) -> VerificationFailed:
    return VerificationFailed(
        f"{file} failed: {problem}.",
        "Copy or bundle it again; if another tool packed it, unpack it and pass the folder.",
    )
