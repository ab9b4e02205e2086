"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hydra_export.errors import OutputRefused

_REFUSALS = {
    errno.ENOSPC: "Free some space, or choose another place.",
    errno.EDQUOT: "Free some of your quota, or choose another place.",
    errno.EFBIG: "Choose a file system that takes larger files.",
    errno.EACCES: "Give yourself write permission, or choose another place.",
    errno.EPERM: "Give yourself write permission, or choose another place.",
    errno.EROFS: "Choose a place that is not read-only.",
    errno.ENOTDIR: "Choose a path whose parents are folders.",
    errno.ENAMETOOLONG: "Choose a shorter path.",
}


def sha256(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def refusing(out: Path) -> Iterator[None]:
    """Turns what the operating system says about writing *out* into OutputRefused."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        reason = os.strerror(error.errno)
        raise OutputRefused(f"Cannot write {out}: {reason}.", _REFUSALS[error.errno]) from error


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """A temporary sibling to write, renamed to *path* at the end: a kill leaves the old file or the new one."""
    with refusing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        os.close(handle)
        partial = Path(name)
        try:
            yield partial
            partial.chmod(0o666 & ~_umask())  # mkstemp makes 0600, whatever the umask
            _sync(partial)
            partial.replace(path)
            _sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """A temporary sibling folder to fill, exchanged with *path* at the end; what was at *path* is then deleted.

    A kill leaves the old folder or the new one at *path*. The next call deletes what the killed one left beside it.
    """
    with refusing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _delete_abandoned(path)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
        try:
            with _locked(partial):
                partial.chmod(0o777 & ~_umask())
                yield partial
                if path.exists():
                    _exchange(partial, path)
                else:
                    partial.rename(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _delete_abandoned(path: Path) -> None:
    for partial in path.parent.glob(f".{_glob_escaped(path.name)}.*.partial"):
        if partial.is_dir() and not partial.is_symlink():
            with contextlib.suppress(BlockingIOError), _locked(partial):
                shutil.rmtree(partial, ignore_errors=True)


def _glob_escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds a lock that the system drops when the process dies; BlockingIOError where another process has it."""
    if sys.platform == "win32":  # no locks on folders there: what a killed run left stays until deleted by hand
        raise BlockingIOError(folder)
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _exchange(new: Path, old: Path) -> None:
    """Swaps two folders, in one step where the system can."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(new), os.fsencode(old)
    if sys.platform == "linux" and hasattr(libc, "renameat2"):
        at_cwd, rename_exchange = -100, 2
        status = libc.renameat2(at_cwd, names[0], at_cwd, names[1], rename_exchange)
    elif sys.platform == "darwin":
        rename_swap = 2
        status = libc.renamex_np(*names, rename_swap)
    else:
        status = -1
    if status:  # a file system without exchange: a kill between the two renames leaves none at *old*
        aside = new.with_name(new.name.removesuffix(".partial") + ".old.partial")
        old.rename(aside)
        new.rename(old)
        aside.rename(new)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
