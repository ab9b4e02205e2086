"""What the operating system refuses, as an error of ours: the cause in one line, and what to do about it."""

from __future__ import annotations

import errno
import os
import re
import resource
from pathlib import Path

from hydra_export.errors import SystemRefused, chain
from hydra_export.text import in_utf8

# How torch, libstdc++, the dynamic linker and Python say it; they share no type.
OUT_OF_MEMORY = re.compile(
    r"(can't|cannot|unable to|failed to) allocate|bad_?alloc|out of memory|failed to map segment"
    r"|can't start new thread",
    re.IGNORECASE,
)
_TOO_MANY_FILES = os.strerror(errno.EMFILE)
_REMEDIES = {
    errno.ENOSPC: "Free some space.",
    errno.EDQUOT: "Free some of your quota.",
    errno.EACCES: "Grant yourself permission.",
    errno.EPERM: "Grant yourself permission.",
}


def of(error: BaseException) -> SystemRefused | None:
    """What to say of an error that something else than a bug of ours may have caused; None where nothing says so."""
    known = next((refused for each in chain(error) if (refused := _of(each))), None)
    return known or (_short_of_memory(f"{type(error).__name__}: {error}") if _is_near_limit() else None)


def check_working_directory() -> None:
    """Raises SystemRefused where it was deleted, when paths mean nothing and MKL ends the process, or is no UTF-8."""
    try:
        check_utf8(os.getcwd())  # noqa: PTH109 (Path.cwd() is this)
    except FileNotFoundError as error:
        raise SystemRefused("The working directory was deleted.", "Change into one that exists.") from error


def check_utf8(path: str) -> None:
    """Raises SystemRefused for a path that is not: onnx, onnxruntime and safetensors cannot open it."""
    if in_utf8(path) != path:
        raise SystemRefused(f"'{path}' is not UTF-8, so libraries cannot open it.", "Rename it, or choose another.")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether *error* says that memory could not be had, whoever raised it."""
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or bool(OUT_OF_MEMORY.search(str(error)))
    )


def _of(error: BaseException) -> SystemRefused | None:
    if is_out_of_memory(error):
        return _short_of_memory(str(error))
    if _TOO_MANY_FILES in str(error):
        return SystemRefused(f"The system refuses to open more files: {error}.", "Raise the limit: ulimit -n 1024.")
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        return SystemRefused(f"'{error.object}' is not UTF-8, so it cannot be written.", "Rename it.")
    if isinstance(error, OSError):
        return _refused(error)
    return None


def _short_of_memory(said: str) -> SystemRefused:
    what = f": {said.rstrip('.')}" if said else ""
    return SystemRefused(f"There is not enough memory{what}.", "Raise the limit (ulimit -v), or do less at once.")


def _is_near_limit() -> bool:
    """Whether this process has most of the address space that it may have: libraries fail in all words then."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return False
    try:
        num_pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:  # not Linux
        return False
    return num_pages * resource.getpagesize() > 0.8 * limit


def _refused(error: OSError) -> SystemRefused:
    reason = error.strerror or str(error)
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes | os.PathLike) else ""
    remedy = _REMEDIES.get(error.errno or 0, "Run it again with `debug` to see where.")
    return SystemRefused(f"The system refused: {where}{reason}.", remedy)
