"""The parent's side: a process that runs functions of ours, and the errors that describe how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from types import TracebackType
from typing import Any, Self

from hydra_export.errors import BadInput, CheckFailed, HydraExportError, LimitExceeded
from hydra_export.interruption import Held, uninterrupted
from hydra_export.refusal import OUT_OF_MEMORY
from hydra_export.worker.memory import own_limit_mib
from hydra_export.worker.messages import ErrorReport, Progress, ProgressUpdate, Request, ReturnValue, receive, send

# sys.path comes first, so that the child finds the same packages as the parent, an editable install's too.
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from hydra_export.worker import child; child.serve()"
)
_POLL_MS = 200
_EXIT_SECONDS = 2.0  # a process that closed its pipes is about to end
_TAIL_BYTES = 4096
_KEPT_OUTPUT_BYTES = 64 * 2**20


class _GoneError(Exception):
    """The child no longer answers."""


class _LateError(Exception):
    """The child has not answered in time."""


class Worker:
    """A process that runs functions of ours one after the other and keeps what they imported.

    It starts with the first call. After it died, the next call starts another. Its temporary files go to a folder of
    its own, which is deleted with it.
    """

    def __init__(
        self, memory_mib: int = 0, *, package: str = "hydra_export", untyped: type[Exception] = CheckFailed
    ) -> None:
        """Starts nothing yet.

        Args:
            memory_mib: what it may allocate, 0 for no limit but this process's own. Held on Linux alone (RLIMIT_DATA:
                private writable memory); macOS does not enforce such limits.
            package: the one whose functions it may run.
            untyped: what an error becomes that is none of ours; a converter's is a failed check.
        """
        self.memory_mib, self._untyped = memory_mib or own_limit_mib(), untyped
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
            BadInput: no process can be started.
            LimitExceeded: it needs more memory than the worker has, or more than *seconds*.
            CheckFailed: its process died, or by default: it raised something else.
        """
        if not self._callable.fullmatch(function):
            raise ValueError(f"{function!r} is not a function that a worker may run")
        what = what or function
        child = self._running_child()
        try:
            answer = child.ask(Request(function, arguments), progress, seconds)
        except _GoneError:
            status = child.status()
            self.close()
            raise self._death(what, status) from None
        except _LateError:
            self.close()
            late = f"{what} was stopped: it took longer than {seconds:g} s.{self._last_output_lines()}"
            raise LimitExceeded(late, resource="seconds") from None
        except BaseException:  # the caller's own, Ctrl-C among them: what the child says next is nobody's answer
            self.close()
            raise
        if isinstance(answer, ErrorReport):
            raise self._rebuild(answer, what, function)
        return answer.value

    def start(self) -> None:
        """Starts the process, if there is none; a call does so too.

        Raises:
            BadInput: the system starts none.
        """
        self._running_child()

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

    @uninterrupted
    def close(self) -> None:
        """Ends the process, if there is one, and deletes its temporary files."""
        child, self._child = self._child, None
        if child:
            self._last_output = child.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _running_child(self) -> _Child:
        with self._starting:
            if self._killed:
                raise CheckFailed("The worker was stopped.")
            try:
                self._child = self._child or _Child(self.memory_mib)
            except OSError as error:
                remedy = "Free memory, allow more files or processes, or set TMPDIR to a writable folder."
                raise BadInput(f"No process can be started: {error}.", remedy) from error
            return self._child

    def _death(self, what: str, status: int | None) -> CheckFailed:
        name = _signal_name(status)
        if self._killed:
            return CheckFailed(f"{what} was stopped.")
        if status is None:
            how, remedy = "closed the pipe that it answers on", ""
        elif name == "SIGKILL":
            how = "was killed by SIGKILL"
            remedy = "The system may have run out of memory: free some, or do less at once."
        elif name:
            how, remedy = f"crashed with {name}", ""
        else:
            how, remedy = f"ended with exit status {status} before it was done", ""
        if self.memory_mib and status:
            how, remedy = f"{how}; its memory limit is {self.memory_mib} MiB", "Allow more, or do less at once."
        short = self.memory_mib and OUT_OF_MEMORY.search(self._last_output)
        error = (LimitExceeded if short else CheckFailed)(f"{what} {how}.{self._last_output_lines()}", remedy)
        error.add_note(f"The end of the worker's output:\n{self._last_output}")
        return error

    def _rebuild(self, report: ErrorReport, what: str, function: str) -> Exception:
        reason = ": ".join(filter(None, ["" if report.codes else report.kind, report.message.strip(" .\n")]))
        if report.out_of_memory and self.memory_mib:
            message = f"{what} needs more than its limit of {self.memory_mib} MiB of memory: {reason}"
            error: Exception = LimitExceeded(f"{message}.", "Allow more, or do less at once.")
        elif report.codes:
            known = {kind.code: kind for kind in _family(HydraExportError)}
            kind = next(known[code] for code in report.codes if code in known)
            ours = kind.__new__(kind)
            HydraExportError.__init__(ours, report.message, report.remedy)  # subclasses take other arguments
            if isinstance(ours, BadInput):
                ours.field = report.field
            error = ours
        else:
            place = "" if what == function else f" in {function}"
            error = self._untyped(f"{what} failed{place}: {reason}.")
        error.add_note(f"In the worker:\n{report.trace}")
        return error

    def _last_output_lines(self) -> str:
        """The last lines of the output, as part of a message."""
        lines = [re.sub(r"[^\x20-\x7e\u00a0-\uffff]", "", line).strip() for line in self._last_output.splitlines()]
        shown = " | ".join([line for line in lines if line][-3:])
        return f" Its last output: {shown[-400:]}" if shown else ""


class _Child:
    """The process behind a Worker, with its pipes, its output and its temporary files."""

    @uninterrupted
    def __init__(self, memory_mib: int) -> None:
        with contextlib.ExitStack() as stack:
            folder = tempfile.mkdtemp(prefix="hydra-export-worker-")
            stack.callback(Held().release)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            # Appending: so that the file can be cut while the child writes.
            self._output = stack.enter_context(tempfile.TemporaryFile("a+b", buffering=0))
            pipes = [os.pipe() for _ in range(3)]
            (requests, self._requests), (self._answers, answers), (lifeline, self._lifeline) = pipes
            for end in (self._requests, self._answers, self._lifeline):
                stack.callback(os.close, end)
            child_ends = (requests, answers, lifeline)
            try:
                self.process = subprocess.Popen(
                    [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), *map(str, child_ends), str(memory_mib)],
                    stdin=subprocess.DEVNULL,
                    stdout=self._output,
                    stderr=self._output,
                    env={**os.environ, "TMPDIR": folder},
                    pass_fds=child_ends,
                    start_new_session=True,  # Ctrl-C is ours; and what it starts itself ends with it
                )
            finally:
                for end in child_ends:
                    os.close(end)
            self._poll = select.poll()
            self._poll.register(self._answers, select.POLLIN)
            self._deadline = float("inf")
            # Also for a Worker that nobody closes, when it is collected or Python ends.
            self._end = weakref.finalize(self, _end, self.process, os.getpid(), stack.pop_all())

    def ask(self, request: Request, progress: Progress | None, seconds: float | None) -> ReturnValue | ErrorReport:
        """The answer to one request.

        Raises:
            _GoneError: the process died, or closed its pipes.
            _LateError: it has not answered in *seconds*.
        """
        self._deadline = float("inf") if seconds is None else time.monotonic() + seconds
        try:
            send(self._requests, request)
        except BrokenPipeError:
            raise _GoneError from None
        while True:
            message: ProgressUpdate | ReturnValue | ErrorReport = receive(
                self._read, ProgressUpdate | ReturnValue | ErrorReport
            )
            if not isinstance(message, ProgressUpdate):
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
        _kill(self.process)

    @uninterrupted
    def end(self) -> str:
        """Ends it, if it has not ended, and forgets everything of it but the end of its output."""
        self.kill()
        self.process.wait()
        tail = self.output_tail()
        self._end()
        return tail

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
            if time.monotonic() > self._deadline:
                raise _LateError
            ended = self.process.poll() is not None  # looked at first: what it wrote before is still read
            if self._poll.poll(0 if ended else _POLL_MS):
                return
            if ended:  # and something that it started holds the pipe open
                raise _GoneError
            if os.fstat(self._output.fileno()).st_size > _KEPT_OUTPUT_BYTES:
                os.ftruncate(self._output.fileno(), 0)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends *process* and what it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # gone already; macOS says so of zombies
        os.killpg(process.pid, signal.SIGKILL)


@uninterrupted
def _end(process: subprocess.Popen[bytes], owner: int, owned: contextlib.ExitStack) -> None:
    if os.getpid() != owner:  # a fork of the owner: none of it is its own
        return
    _kill(process)
    process.wait()
    owned.close()


def _family(kind: type[HydraExportError]) -> list[type[HydraExportError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _family(child))]


def _signal_name(status: int | None) -> str:
    if status is None or status >= 0:
        return ""
    try:
        return signal.Signals(-status).name
    except ValueError:  # a real-time signal
        return f"signal {-status}"
