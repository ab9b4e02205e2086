"""Files that are read only where they are regular and small enough, and written whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path

import platformdirs

from hydra_export.errors import OutputRefused, SystemRefused, Unreadable
from hydra_export.interruption import Held, uninterrupted

_REFUSALS = {
    errno.ENOSPC: "Free some space, or choose another place.",
    errno.EDQUOT: "Free some of your quota, or choose another place.",
    errno.EFBIG: "Choose a file system that takes larger files.",
    errno.EACCES: "Give yourself write permission, or choose another place.",
    errno.EPERM: "Give yourself write permission, or choose another place.",
    errno.EROFS: "Choose a place that is not read-only.",
    errno.ENOTDIR: "Choose a path whose parents are folders.",
    errno.EEXIST: "Choose a path whose parents are folders.",
    errno.EISDIR: "Choose a path that is not a folder.",
    errno.EBUSY: "Choose a folder inside that mount point.",
    errno.ELOOP: "Choose a path that is not a loop of links.",
    errno.ENAMETOOLONG: "Choose a shorter path.",
}


MIB = 2**20
_APP = "hydra-export"
_POLL_SECONDS = 0.002
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read(path: Path | str, limit_bytes: int, name: str = "", remedy: str = "", links: bool = True) -> bytes:
    """All of a file that somebody else may have written.

    Args:
        path, limit_bytes, name, remedy, links: as for ``opened``.

    Raises:
        Unreadable: as ``opened`` does, or the file grew meanwhile.
    """
    name = name or str(path)
    with opened(path, limit_bytes, name, remedy, links) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            content = file.read(size + 1)
        except OSError as error:
            raise Unreadable(name, os.strerror(error.errno or 0), remedy) from error
    if len(content) > size:
        raise Unreadable(name, "it grew while it was read", remedy or "Pass a file that nothing writes to.")
    return content


@contextlib.contextmanager
def opened(
    path: Path | str, limit_bytes: int | None = None, name: str = "", remedy: str = "", links: bool = True
) -> Iterator[BufferedReader]:
    """A file that somebody else may have written, open for reading; nothing is waited for, whatever lies there.

    Args:
        limit_bytes: the largest size that is read; None where the caller checks sizes itself.
        name: what the message calls it; by default its path.
        remedy: what to do instead; by default it follows from the reason.
        links: whether a link to a regular file is followed.

    Raises:
        Unreadable: there is no such file, it must not be read, it is no regular file, or it is larger than that.
    """
    name = name or str(path)
    try:
        _check_regular(Path(path).stat(follow_symlinks=links), name, remedy)  # first: opening a device may do something
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW))
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        missing = isinstance(error, FileNotFoundError)
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
        remedy = remedy or ("Check the path." if missing else "Pass a file that you may read.")
        raise Unreadable(name, reason, remedy, missing) from error
    with open(handle, "rb") as file:  # noqa: PTH123 (a descriptor)
        status = os.fstat(handle)
        _check_regular(status, name, remedy)
        if limit_bytes is not None and status.st_size > limit_bytes:
            allowed = f"at most {_size(limit_bytes)}"
            reason = f"it has {status.st_size:,} bytes; allowed: {allowed}"
            raise Unreadable(name, reason, remedy or f"Pass a file of {allowed}.")
        yield file


def _check_regular(status: os.stat_result, name: str, remedy: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "a link")
        raise Unreadable(name, f"it is {kind}, not a file", remedy or "Pass a regular file.")


def _size(num_bytes: int) -> str:
    return f"{num_bytes // MIB} MiB" if num_bytes % MIB == 0 else f"{num_bytes:,} bytes"


_LONGEST_PATH, _LONGEST_NAME, _DEEPEST_PATH = 1024, 255, 32  # letters, bytes, names
_FORBIDDEN = frozenset('\\:*?"<>|')  # in names of files on Windows, or separators there
_PORTS = (f"{port}{number}" for port in ("COM", "LPT") for number in "0123456789\u00b9\u00b2\u00b3")
_DEVICES = frozenset(("CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", *_PORTS))  # of Windows


def unportable(path: str) -> str:
    """Why the relative POSIX *path* cannot name a file on every system that we know, "" where it can.

    Windows: learn.microsoft.com, "Naming Files, Paths, and Namespaces".
    """
    names = path.split("/", _DEEPEST_PATH)
    if len(path) > _LONGEST_PATH or len(names) > _DEEPEST_PATH:
        return f"a path may have at most {_LONGEST_PATH} characters and {_DEEPEST_PATH} names"
    for name in names:
        if name in ("", ".", ".."):
            return "it is outside the folder, or is not a plain path"
        if len(name.encode(errors="surrogatepass")) > _LONGEST_NAME:
            return f"a name may have at most {_LONGEST_NAME} bytes"
        if any(letter < " " or letter in _FORBIDDEN or "\ud800" <= letter <= "\udfff" for letter in name):
            return "it contains characters that some systems do not allow in file names"
        if name.endswith((".", " ")) or name.partition(".")[0].rstrip(" ").upper() in _DEVICES:
            return f"Windows does not allow the name {name[:40]!r}"
    return ""


def settings() -> Path:
    """The folder of the user's own files, by the conventions of the system."""
    with _home_needed():
        return platformdirs.user_config_path(_APP, appauthor=False, roaming=True)


def caches() -> Path:
    """The folder of what this program can make again, by the conventions of the system."""
    with _home_needed():
        return platformdirs.user_cache_path(_APP, appauthor=False)


@contextlib.contextmanager
def _home_needed() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # neither HOME nor an entry among the system's users
        raise SystemRefused("There is no home folder for settings and caches.", "Set HOME.") from error


def sha256(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with opened(path) as file:
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
@uninterrupted
def replaced_file(path: Path) -> Iterator[Path]:
    """A temporary sibling to write, renamed to *path* at the end: a kill leaves the old file or the new one.

    A link at *path* stays, and the file that it names is replaced.
    """
    with refusing(path):
        path = Path(os.path.realpath(path))
        with _partial(path, _new_file) as partial:
            yield partial
            partial.chmod(0o666 & ~_umask())  # mkstemp makes 0600, whatever the umask
            _sync(partial)
            partial.replace(path)
            _sync(path.parent)


@contextlib.contextmanager
@uninterrupted
def replaced_folder(path: Path) -> Iterator[Path]:
    """A temporary sibling folder to fill, exchanged with *path* at the end; what was at *path* is then deleted.

    A kill leaves the old folder or the new one at *path*. The next call deletes what the killed one left beside it.
    A link at *path* stays, and the folder that it names is replaced.
    """
    with refusing(path):
        path = Path(os.path.realpath(path))
        with _partial(path, _new_folder) as partial:
            partial.chmod(0o777 & ~_umask())
            yield partial
            try:
                partial.rename(path)  # also where path is an empty folder
            except OSError:
                if not path.exists():
                    raise
                _exchange(partial, path)


@contextlib.contextmanager
@uninterrupted
def set_aside(path: Path) -> Iterator[None]:
    """Takes the file *path*, if there is one, away; it comes back where the caller fails, and is else deleted."""
    path = Path(os.path.realpath(path))
    if not path.exists():
        yield
        return
    with _partial(path, _new_file) as aside:
        path.replace(aside)
        try:
            yield
        except BaseException:
            aside.replace(path)
            raise


@contextlib.contextmanager
def alone_in(folder: Path, patience_seconds: float) -> Iterator[None]:
    """Holds *folder*, which is made where there is none, against every other process that asks for it with this.

    What is read inside is still so when it is written. The system lets go of it when the process dies.

    Raises:
        OutputRefused: another process has it for longer than *patience_seconds*, or it cannot be made.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    handle = _held(folder, time.monotonic() + patience_seconds)
    try:
        yield
    finally:
        for each in made:  # where nothing came of it
            with contextlib.suppress(OSError):
                each.rmdir()
        fcntl.flock(handle, fcntl.LOCK_UN)  # processes that were forked meanwhile, and live on, would keep it
        os.close(handle)
        time.sleep(5 * _POLL_SECONDS)  # or who asks again at once would leave the others no moment


def _held(folder: Path, deadline: float) -> int:
    """The descriptor of the folder that is now held."""
    while True:
        with refusing(folder), _makeable(folder):
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        with contextlib.suppress(BlockingIOError, FileNotFoundError):  # another one's, or gone meanwhile
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), folder.stat()):
                return handle
        os.close(handle)
        if time.monotonic() > deadline:
            remedy = "Wait until it has ended, or choose another folder."
            raise OutputRefused(f"Another process is writing into {folder}.", remedy)
        time.sleep(_POLL_SECONDS)


@contextlib.contextmanager
@uninterrupted
def temporary_folder(prefix: str = "hydra-export-") -> Iterator[Path]:
    """An empty folder among the system's temporary files, deleted at the end."""
    with Held(), tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextlib.contextmanager
@uninterrupted
def _partial(path: Path, make: Callable[[str, str, Path], Path]) -> Iterator[Path]:
    """A new sibling of *path*, locked while in use, and deleted at the end if it is still there."""
    parents_made = [parent for parent in path.parents if not parent.exists()]
    with _makeable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    _delete_abandoned(path)
    while True:
        with _makeable(path):
            partial = make(f".{path.name}.", ".partial", path.parent)
        with Held(), contextlib.ExitStack() as stack:
            try:
                stack.enter_context(_locked(partial))
            except (BlockingIOError, FileNotFoundError):
                continue  # another process took it for abandoned before it was locked
            try:
                yield partial
            finally:
                _delete(partial)
                for parent in parents_made:  # where nothing came of it
                    with contextlib.suppress(OSError):
                        parent.rmdir()
            return


@contextlib.contextmanager
def _makeable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:  # in /proc, for one
        raise OutputRefused(f"Cannot write {path}: nothing can be made there.", "Choose another place.") from error


def _new_file(prefix: str, suffix: str, parent: Path) -> Path:
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=parent)
    os.close(handle)
    return Path(name)


def _new_folder(prefix: str, suffix: str, parent: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=prefix, suffix=suffix, dir=parent))


def _delete_abandoned(path: Path) -> None:
    for partial in path.parent.glob(f".{_glob_escaped(path.name)}.*.partial"):
        with contextlib.suppress(OSError), _locked(partial):  # in use, gone by now, or another user's
            _delete(partial)


def _delete(partial: Path) -> None:
    if partial.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
    else:
        partial.unlink(missing_ok=True)


def _glob_escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock that the system drops when the process dies.

    Raises:
        BlockingIOError: another process has it.
        FileNotFoundError: *path* is gone, or was replaced before it was locked.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(handle), path.lstat()):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
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
