"""A converter in its own process: request in, progress and result out, memory cap, its stdout kept off ours.

The child is spawned, never forked, and talks over pipes of its own. A message is its length, msgpack, and the bytes of
each array in it. It dies with its parent, in whatever way that one ends.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import fcntl
import functools
import importlib
import inspect
import json
import os
import queue
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from hydra_export.errors import CheckFailed, HydraExportError

Progress = Callable[[str, int, int], None]  # what is being done, steps done, steps in all

# sys.path comes first, so that the child finds the same packages as the parent, an editable install's too.
_PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from hydra_export import worker; worker._serve()"
_ARRAY = 1  # the msgpack extension that stands for an array
_LENGTH = struct.Struct("<Q")
_POLL_MS = 200
_EXIT_SECONDS = 2.0  # a process that closed its pipes is about to end
_TAIL_BYTES = 4096
_KEPT_OUTPUT_BYTES = 64 * 2**20
# How torch, libstdc++, the dynamic linker and Python say it; they share no type.
_ALLOCATION_FAILED = re.compile(
    r"(can't|cannot|unable to|failed to) allocate|bad_alloc|out of memory|failed to map segment|can't start new thread",
    re.IGNORECASE,
)


class _Request(msgspec.Struct):
    function: str
    arguments: dict[str, Any]


class _Step(msgspec.Struct, tag=True):
    what: str
    done: int
    total: int


class _Returned(msgspec.Struct, tag=True):
    value: Any


class _Raised(msgspec.Struct, tag=True):
    """*codes* are those of our own error and its bases, the nearest first; none for any other exception."""

    codes: list[str]
    kind: str
    message: str
    remedy: str
    trace: str
    out_of_memory: bool


class _GoneError(Exception):
    """The child answers no more."""


class _LateError(Exception):
    """The child has not answered in time."""


class Worker:
    """A process that runs functions of ours one after the other and keeps what they imported.

    It starts with the first call. After it died, the next call starts another. Its temporary files go to a folder of
    its own, which is deleted with it.
    """

    def __init__(self, memory_mib: int = 0, *, package: str = "hydra_export") -> None:
        """Starts nothing yet.

        Args:
            memory_mib: what it may allocate, 0 for no limit. Held on Linux alone (RLIMIT_DATA: private writable
                memory); macOS does not enforce such limits.
            package: the one whose functions it may run.
        """
        self.memory_mib = memory_mib
        self._callable = re.compile(rf"{re.escape(package)}(\.\w+)+:\w+")
        self._child: _Child | None = None
        self._killed = False
        self._starting = threading.Lock()
        self._last_output = ""

    def call(
        self,
        function: str,
        /,
        *,
        what: str = "",
        progress: Progress | None = None,
        seconds: float | None = None,
        **arguments: Any,
    ) -> Any:
        """Runs ``package.module:function`` with *arguments* in the worker and returns what it returns.

        Arguments and results are None, bool, int, float, str, bytes, arrays of any plain dtype, and lists and
        dicts of these; tuples arrive as lists, NumPy scalars as Python's.

        Args:
            what: is being done, as errors name it, such as "The Core ML converter for k = 3".
            progress: called in this thread with what the function says to its own argument ``progress``, if it
                declares one.
            seconds: after which the worker is killed.

        Raises:
            HydraExportError: what the function raised, as the same class.
            CheckFailed: it raised something else, or its process died, ran out of memory or out of time.
        """
        if not self._callable.fullmatch(function):
            raise ValueError(f"{function!r} is no function that a worker may run")
        what = what or function
        child = self._started()
        try:
            answer = child.ask(_Request(function, arguments), progress, seconds)
        except _GoneError:
            status = child.status()
            self.close()
            raise self._death(what, status) from None
        except _LateError:
            self.close()
            raise CheckFailed(f"{what} was stopped: it took longer than {seconds:g} s.{self._said()}") from None
        except BaseException:  # the caller's own, Ctrl-C among them: what the child says next is nobody's answer
            self.close()
            raise
        if isinstance(answer, _Raised):
            raise self._rebuilt(answer, what, function)
        return answer.value

    def output_tail(self) -> str:
        """The end of what the worker, or the last one that died, wrote to its standard output and error."""
        return self._child.output_tail() if self._child else self._last_output

    def kill(self) -> None:
        """Ends the worker for good, from any thread; a call in progress raises CheckFailed."""
        with self._starting:
            self._killed = True
            child = self._child
        if child:
            child.kill()

    def close(self) -> None:
        """Ends the process, if there is one, and deletes its temporary files."""
        child, self._child = self._child, None
        if child:
            child.end()
            self._last_output = child.output_tail()
            child.forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _started(self) -> _Child:
        with self._starting:
            if self._killed:
                raise CheckFailed("The worker was stopped.")
            self._child = self._child or _Child(self.memory_mib)
            return self._child

    def _death(self, what: str, status: int | None) -> CheckFailed:
        name = _signal_name(status)
        if self._killed:
            return CheckFailed(f"{what} was stopped.")
        if status is None:
            how, remedy = "closed the pipe that it answers on", ""
        elif name == "SIGKILL":
            how, remedy = (
                "was killed by SIGKILL",
                "The system may have run out of memory: free some, or do less at once.",
            )
        elif name:
            how, remedy = f"crashed with {name}", ""
        else:
            how, remedy = f"ended with exit status {status} before it was done", ""
        if self.memory_mib and status:
            how, remedy = f"{how}; it was given {self.memory_mib} MiB of memory", "Give it more, or do less at once."
        error = CheckFailed(f"{what} {how}.{self._said()}", remedy)
        error.add_note(f"The end of the worker's output:\n{self._last_output}")
        return error

    def _rebuilt(self, raised: _Raised, what: str, function: str) -> HydraExportError:
        said = f"{raised.kind}: {raised.message}" if raised.message else raised.kind
        if raised.out_of_memory and self.memory_mib:
            message = f"{what} needs more than the {self.memory_mib} MiB of memory that it was given: {said}"
            error: HydraExportError = CheckFailed(f"{message}.", "Give it more, or do less at once.")
        elif raised.codes:
            known = {kind.code: kind for kind in _family(HydraExportError)}
            kind = next(known[code] for code in raised.codes if code in known)
            error = kind.__new__(kind)
            HydraExportError.__init__(error, raised.message, raised.remedy)  # subclasses take other arguments
        else:
            place = "" if what == function else f" in {function}"
            error = CheckFailed(f"{what} failed{place}: {said}.")
        error.add_note(f"In the worker:\n{raised.trace}")
        return error

    def _said(self) -> str:
        """The last lines of the output, as part of a message."""
        lines = [re.sub(r"[^\x20-\x7e\u00a0-\uffff]", "", line).strip() for line in self._last_output.splitlines()]
        shown = " | ".join([line for line in lines if line][-3:])
        return f" The last that it said: {shown[-400:]}" if shown else ""


class _Child:
    """The process behind a Worker, with its pipes, its output and its temporary files."""

    def __init__(self, memory_mib: int) -> None:
        with contextlib.ExitStack() as stack:
            self._files = tempfile.TemporaryDirectory(prefix="hydra-export-worker-", ignore_cleanup_errors=True)
            stack.callback(self._files.cleanup)
            # Appending: so that the file can be cut while the child writes.
            self._output = stack.enter_context(tempfile.TemporaryFile("a+b", buffering=0))
            pipes = [os.pipe() for _ in range(3)]
            (requests, self._requests), (self._answers, answers), (lifeline, self._lifeline) = pipes
            for end in (self._requests, self._answers, self._lifeline):
                stack.callback(os.close, end)
            given = (requests, answers, lifeline)
            try:
                self.process = subprocess.Popen(
                    [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), *map(str, given), str(memory_mib)],
                    stdin=subprocess.DEVNULL,
                    stdout=self._output,
                    stderr=self._output,
                    env={**os.environ, "TMPDIR": self._files.name},
                    pass_fds=given,
                    start_new_session=True,  # Ctrl-C is ours; and what it starts itself ends with it
                )
            finally:
                for end in given:
                    os.close(end)
            self._poll = select.poll()
            self._poll.register(self._answers, select.POLLIN)
            self._deadline = float("inf")
            self._owned = stack.pop_all()

    def ask(self, request: _Request, progress: Progress | None, seconds: float | None) -> _Returned | _Raised:
        """The answer to one request.

        Raises:
            _GoneError: the process died, or closed its pipes.
            _LateError: it has not answered in *seconds*.
        """
        self._deadline = float("inf") if seconds is None else time.monotonic() + seconds
        try:
            _send(self._requests, request)
        except BrokenPipeError:
            raise _GoneError from None
        while True:
            message: _Step | _Returned | _Raised = _receive(self._read, _Step | _Returned | _Raised)
            if not isinstance(message, _Step):
                return message
            if progress is not None:
                progress(message.what, message.done, message.total)

    def output_tail(self) -> str:
        size = os.fstat(self._output.fileno()).st_size
        tail = os.pread(self._output.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        return tail.decode(errors="replace").strip()

    def status(self) -> int | None:
        """How it ended, as subprocess counts; None where it runs on."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(_EXIT_SECONDS)
        return None

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # gone already; macOS says so of zombies
            os.killpg(self.process.pid, signal.SIGKILL)

    def end(self) -> None:
        self.kill()
        self.process.wait()

    def forget(self) -> None:
        self._owned.close()

    def _read(self, into: memoryview) -> None:
        while into:
            self._wait()
            count = os.readv(self._answers, [into])
            if not count:
                raise _GoneError
            into = into[count:]

    def _wait(self) -> None:
        """Until there is something to read."""
        while True:
            ended = self.process.poll() is not None  # looked at first: what it wrote before is still read
            if self._poll.poll(0 if ended else _POLL_MS):
                return
            if ended:  # and something that it started holds the pipe open
                raise _GoneError
            if time.monotonic() > self._deadline:
                raise _LateError
            if os.fstat(self._output.fileno()).st_size > _KEPT_OUTPUT_BYTES:
                os.ftruncate(self._output.fileno(), 0)


# Several at once


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
            for worker in workers:
                worker.kill()
    return results


def _num_at_once(num_calls: int, jobs: int, memory_mib_each: int, available_mib: int | None) -> int:
    fitting = num_calls if available_mib is None or not memory_mib_each else available_mib // memory_mib_each
    return max(1, min(num_calls, jobs, fitting))


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


# The child's side


def _serve() -> NoReturn:
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
            _send(answers, _Step(what, done, total))

    while True:
        request = _receive(read, _Request)
        answer = _answer(request, progress)
        try:
            with sending:
                _send(answers, answer)
        except (TypeError, ValueError, OverflowError) as error:  # before the first byte: it cannot be encoded
            _send(answers, _raised(error))
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


def _answer(request: _Request, progress: Progress) -> _Returned | _Raised:
    try:
        module, name = request.function.split(":")
        function = getattr(importlib.import_module(module), name)
        wants = {"progress": progress} if "progress" in inspect.signature(function).parameters else {}
        return _Returned(function(**request.arguments, **wants))
    except BaseException as error:  # noqa: BLE001 (whatever it is, the parent is told; sys.exit too)
        return _raised(error)


def _raised(error: BaseException) -> _Raised:
    ours = isinstance(error, HydraExportError)
    out_of_memory = (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or bool(_ALLOCATION_FAILED.search(str(error)))
    )
    return _Raised(
        codes=[kind.code for kind in type(error).__mro__ if issubclass(kind, HydraExportError)],
        kind=type(error).__name__,
        message=error.message if isinstance(error, HydraExportError) else str(error),
        remedy=error.remedy if isinstance(error, HydraExportError) else "",
        trace="".join(traceback.format_exception(error)),
        out_of_memory=out_of_memory and not ours,
    )


# Messages

_Message = TypeVar("_Message")


def _send(descriptor: int, message: msgspec.Struct) -> None:
    """Writes *message*; TypeError, ValueError or OverflowError before the first byte where it cannot be encoded."""
    arrays: list[NDArray[Any]] = []

    def as_extension(value: object) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        if not isinstance(value, np.ndarray) or value.dtype.hasobject or value.dtype.isbuiltin == 2:
            kind = f"array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
            raise TypeError(f"a worker neither takes nor returns a {kind}")
        arrays.append(np.ascontiguousarray(value))
        layout = (repr(np.lib.format.dtype_to_descr(value.dtype)), value.shape)
        return msgspec.msgpack.Ext(_ARRAY, msgspec.msgpack.encode(layout))

    encoded = msgspec.msgpack.encode(message, enc_hook=as_extension)
    _write(descriptor, memoryview(_LENGTH.pack(len(encoded)) + encoded))
    for array in arrays:
        _write(descriptor, _bytes_of(array))


def _receive(read: Callable[[memoryview], None], kind: Any) -> Any:
    """Reads one message of *kind* with *read*, which fills a buffer."""
    arrays: list[NDArray[Any]] = []

    def as_array(_code: int, layout: memoryview) -> NDArray[Any]:
        descr, shape = msgspec.msgpack.decode(layout)
        arrays.append(np.empty(shape, np.lib.format.descr_to_dtype(ast.literal_eval(descr))))
        return arrays[-1]

    length = bytearray(_LENGTH.size)
    read(memoryview(length))
    encoded = bytearray(_LENGTH.unpack(length)[0])
    read(memoryview(encoded))
    message = msgspec.msgpack.decode(encoded, type=kind, ext_hook=as_array)
    for array in arrays:
        read(_bytes_of(array))
    return message


def _bytes_of(array: NDArray[Any]) -> memoryview:
    """The storage of a contiguous array."""
    return array.reshape(-1).view(np.uint8).data if array.nbytes else memoryview(b"")


def _write(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _family(kind: type[HydraExportError]) -> list[type[HydraExportError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _family(child))]


def _signal_name(status: int | None) -> str:
    if status is None or status >= 0:
        return ""
    try:
        return signal.Signals(-status).name
    except ValueError:  # a real-time signal
        return f"signal {-status}"
