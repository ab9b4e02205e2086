"""What was read of a file or folder, kept for as long as that stays as it was."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")

# File systems date changes by a clock of a few milliseconds: a younger file may change once more and look the same.
_SETTLED_NS = 50_000_000


class Latest(Generic[T]):
    """*read*, whose last result stands until its file changes or another one is asked for."""

    def __init__(self, read: Callable[[Path], T]) -> None:
        self._read = read
        self._kept: tuple[object, T] | None = None

    def __call__(self, path: Path) -> T:
        """What *read* returns of *path*, read now or before."""
        kept = self._kept
        return kept[1] if kept is not None and kept[0] == (path, stamps(path)) else self.afresh(path)

    def afresh(self, path: Path) -> T:
        """What *read* returns of *path*, read now."""
        self._kept = None
        now, found = time.time_ns(), stamps(path)
        result = self._read(path)
        if found and max(changed for *_, changed in found) < now - _SETTLED_NS:
            self._kept = (path, found), result
        return result


def stamps(path: Path) -> tuple[tuple[int, ...], ...]:
    """Which files lie at *path* and below it, and when each changed last; nothing where that cannot be told."""
    try:
        all_of_it = [path, *sorted(path.rglob("*"))] if path.is_dir() else [path]
        return tuple((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in map(Path.stat, all_of_it))
    except OSError:
        return ()
