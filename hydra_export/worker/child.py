"""The child's side: it limits its memory, dies with its parent, and answers requests."""

from __future__ import annotations

import fcntl
import importlib
import inspect
import os
import signal
import sys
import threading
import traceback
from typing import NoReturn

from hydra_export import refusal
from hydra_export.errors import HydraExportError
from hydra_export.worker.messages import ErrorReport, Progress, ProgressUpdate, Request, ReturnValue, receive, send


def serve() -> NoReturn:
    """What the child runs: requests, one after the other, until the parent is gone."""
    requests, answers, lifeline, memory_mib = map(int, sys.argv[2:])
    for descriptor in (requests, answers, lifeline):
        os.set_inheritable(descriptor, False)
    _die_with_parent(lifeline)
    if memory_mib:
        _limit_memory(memory_mib)
    for stream in (sys.stdout, sys.stderr):  # whatever the locale, and nothing kept back when it crashes
        stream.reconfigure(errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    sending = threading.Lock()

    def read(into: memoryview) -> None:
        while into:
            count = os.readv(requests, [into])
            if not count:
                os._exit(0)
            into = into[count:]

    def progress(what: str, done: int, total: int) -> None:
        with sending:
            send(answers, ProgressUpdate(what, done, total))

    while True:
        request = receive(read, Request)
        answer = _answer(request, progress)
        try:
            with sending:
                send(answers, answer)
        except (TypeError, ValueError, OverflowError) as error:  # before the first byte: it cannot be encoded
            send(answers, _error_report(error))
        del request, answer


def _die_with_parent(lifeline: int) -> None:
    """Ends this process when the parent's end of *lifeline* closes."""
    if sys.platform == "linux":  # by the kernel: a native call that holds the GIL would stop the thread below
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)

    def watch() -> None:
        os.read(lifeline, 1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _limit_memory(mib: int) -> None:
    """On Linux; RLIMIT_AS would count the tens of GiB that CUDA builds of torch map and never use."""
    if sys.platform == "linux":
        import resource

        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        limit = mib * 2**20 if hard == resource.RLIM_INFINITY else min(mib * 2**20, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _answer(request: Request, progress: Progress) -> ReturnValue | ErrorReport:
    try:
        module, name = request.function.split(":")
        function = getattr(importlib.import_module(module), name)
        wants = {"progress": progress} if "progress" in inspect.signature(function).parameters else {}
        return ReturnValue(function(**request.arguments, **wants))
    except BaseException as error:  # noqa: BLE001 (whatever it is, the parent is told; sys.exit too)
        return _error_report(error)


def _error_report(error: BaseException) -> ErrorReport:
    return ErrorReport(
        codes=[kind.code for kind in type(error).__mro__ if issubclass(kind, HydraExportError)],
        kind=type(error).__name__,
        message=error.message if isinstance(error, HydraExportError) else str(error),
        remedy=error.remedy if isinstance(error, HydraExportError) else "",
        field=getattr(error, "field", ""),
        trace="".join(traceback.format_exception(error)),
        out_of_memory=_is_out_of_memory(error),
    )


def _is_out_of_memory(error: BaseException | None) -> bool:
    if isinstance(error, HydraExportError):  # which says in words of ours what a runtime said
        return _is_out_of_memory(error.__cause__)
    return error is not None and refusal.is_out_of_memory(error)
