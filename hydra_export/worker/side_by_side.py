"""Several calls at once, each in a worker of its own."""

from __future__ import annotations

import functools
import queue
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NoReturn

from hydra_export.interruption import uninterrupted
from hydra_export.worker.memory import available_memory_mib
from hydra_export.worker.messages import Progress
from hydra_export.worker.process import Worker


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of ``package.module:function``, as Worker.call takes it; *what* names it in errors and progress."""

    function: str
    arguments: Mapping[str, Any]
    what: str


def run_side_by_side(
    calls: Sequence[Call],
    *,
    jobs: int,
    memory_mib_each: int = 0,
    memory_cap_mib: int = 0,
    progress: Progress | None = None,
    package: str = "hydra_export",
) -> list[Any]:
    """Runs each of *calls* in a worker of its own; returns what they returned, in the same order.

    The first failure, or Ctrl-C, kills the others.

    Args:
        jobs: at most so many at once.
        memory_mib_each: what one is expected to need: no more run at once than there is memory for now, and at least
            one; 0 where that is no concern.
        memory_cap_mib: what one may allocate (see Worker), 0 for no limit.
        progress: called in this thread with what one of them does, how many are done, and how many there are.

    Raises:
        HydraExportError: what Worker.call raised first.
    """
    if not calls:
        return []
    workers = [Worker(memory_cap_mib, package=package) for _ in calls]
    events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    results: list[Any] = [None] * len(calls)
    num_done = 0

    def tell(what: str) -> None:
        if progress is not None:
            progress(what, num_done, len(calls))

    def fail(error: BaseException) -> NoReturn:
        raise error

    def finish(index: int, result: Any) -> None:
        nonlocal num_done
        results[index], num_done = result, num_done + 1
        tell(calls[index].what)

    def run(index: int) -> None:
        call = calls[index]
        try:
            with workers[index] as worker:
                result = worker.call(
                    call.function,
                    what=call.what,
                    progress=lambda what, _done, _total: events.put(lambda: tell(f"{call.what}: {what}")),
                    **call.arguments,
                )
        except BaseException as error:  # noqa: BLE001 (raised again in the thread that waits for it)
            events.put(functools.partial(fail, error))
        else:
            events.put(functools.partial(finish, index, result))

    with ThreadPoolExecutor(_num_at_once(len(calls), jobs, memory_mib_each, available_memory_mib())) as pool:
        try:
            for index in range(len(calls)):
                pool.submit(run, index)
            while num_done < len(calls):
                events.get()()
        finally:
            _kill(workers)
    return results


@uninterrupted
def _kill(workers: Sequence[Worker]) -> None:
    for worker in workers:
        worker.kill()


def _num_at_once(num_calls: int, jobs: int, memory_mib_each: int, available_mib: int | None) -> int:
    fitting = num_calls if available_mib is None or not memory_mib_each else available_mib // memory_mib_each
    return max(1, min(num_calls, jobs, fitting))
