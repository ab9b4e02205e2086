"""How much memory new processes could have."""

from __future__ import annotations

import contextlib
import re
import resource
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def available_memory_mib(root: Path = Path("/")) -> int | None:
    """Memory that new processes could have now: the machine's, or what a cgroup leaves of it; None where unknown.

    Args:
        root: of the file system that holds Linux's proc and sys.
    """
    try:
        found = re.search(r"^MemAvailable: +(\d+) kB", (root / "proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    left = [int(found[1]) * 1024] if found else []
    left += _left_in_cgroups(root)
    return max(0, min(left)) // 2**20 if left else None


def own_limit_mib() -> int:
    """What this process may allocate, and those that it starts: its RLIMIT_DATA; 0 without one."""
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    return 0 if limit == resource.RLIM_INFINITY else limit // 2**20


def _left_in_cgroups(root: Path) -> Iterator[int]:
    """Bytes that each limit over this process leaves (cgroups v1 and v2); idle file cache counts as free."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mount, limit, usage, cache = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            mount, cache = root / "sys/fs/cgroup/memory", "total_inactive_file"
            limit, usage = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        own = PurePosixPath(path.lstrip("/"))
        for folder in (own, *own.parents):  # a limit may sit on any of them; a container may see the top one alone
            # Not there: no such controller, or the top, which has no limit. "max": no limit.
            with contextlib.suppress(OSError, ValueError):
                bytes_allowed = int((mount / folder / limit).read_text())
                bytes_used = int((mount / folder / usage).read_text())
                idle = re.search(rf"^{cache} (\d+)$", (mount / folder / "memory.stat").read_text(), re.MULTILINE)
                yield bytes_allowed - bytes_used + (int(idle[1]) if idle else 0)
