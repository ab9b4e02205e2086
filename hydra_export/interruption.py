"""Ctrl-C and the other signals that ask to end: one exception, raised once and where it does no harm.

Python raises KeyboardInterrupt wherever the program stands: within the import of a library, which swallows it, turns it
into another error or aborts in C++, or between the making of a file and its clearing away. Here the process ends at
once within an import, if nothing is `held` that has to be cleared away; else the exception waits for the end of the
import, or of what is `uninterrupted`, and comes again if a library swallowed it. A second signal of the same kind ends
the process without any of this.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing takes longer to import than all of this
    from collections.abc import Callable
    from types import CodeType, FrameType, TracebackType
    from typing import Any, NoReturn, TypeVar

    Function = TypeVar("Function", bound=Callable[..., Any])

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # of a person, a CI's time limit, a terminal that was closed
_AGAIN_S = 0.02
_TWIN_S = 0.1  # GNU timeout, for one, sends its signal to the process and to its group: the two are one
_uninterrupted: set[CodeType] = set()
_held: set[Held] = set()


class Interruption(KeyboardInterrupt):
    """A signal asked to end; *number* is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def uninterrupted(function: Function) -> Function:
    """A function within which no Interruption is raised; of a generator, the parts that are its own."""
    _uninterrupted.add(function.__code__)
    return function


class Held:
    """While it is entered, or until it is released, something is there that has to be cleared away."""

    def __init__(self) -> None:
        _held.add(self)

    def release(self) -> None:
        """It was cleared away."""
        _held.discard(self)

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Watch:
    """What the signals of this process do, from `start` to `stop`."""

    def __init__(self, leave: Callable[[Interruption], int]) -> None:
        """*leave* says why the process ends at once, and returns its exit status."""
        self._leave = leave
        self._asked = 0
        self._asked_at = 0.0
        self._stopped = False
        self._raised: weakref.ref[Interruption] | None = None

    def start(self) -> None:
        """Takes over the signals that nobody else did; nohup, for one, has SIGHUP ignored."""
        for number in _SIGNALS:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, self._ask)
        os.register_at_fork(after_in_child=self._let_go)
        before = sys.unraisablehook
        sys.unraisablehook = lambda what: None if isinstance(what.exc_value, Interruption) else before(what)

    def stop(self) -> None:
        """From here on the process is ending by itself: a first signal changes nothing more."""
        self._stopped = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        if self._asked:
            signal.signal(signal.SIGALRM, signal.SIG_IGN)  # one may be on its way

    def _let_go(self) -> None:
        """A fork ends as its parent tells it."""
        for number in _SIGNALS:
            if signal.getsignal(number) == self._ask:
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self._asked:
            self._asked, self._asked_at = number, now
            signal.signal(signal.SIGALRM, self._end)
            self._end(signal.SIGALRM, frame)
        elif number == self._asked and now - self._asked_at > _TWIN_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _end(self, _number: int, frame: FrameType | None) -> None:
        if self._stopped:
            return
        uninterrupted, importing = _within(frame)
        if uninterrupted or (importing and _held):
            self._later()
        elif importing:
            self._at_once()
        else:
            self._raise()

    def _at_once(self) -> None:
        try:
            status = self._leave(Interruption(self._asked))
        except (AttributeError, ImportError):  # what it needs is just being imported
            self._later()
        else:
            os._exit(status)

    def _raise(self) -> NoReturn:
        error = Interruption(self._asked)
        self._raised = weakref.ref(error, lambda _gone: self._later())  # gone before stop: swallowed
        try:
            raise error
        finally:
            del error  # else its own traceback would keep it

    def _later(self) -> None:
        if not self._stopped:
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)


def _within(frame: FrameType | None) -> tuple[bool, bool]:
    """Whether *frame* is called, however deep, from what is uninterrupted, a finaliser among it, and from an import."""
    importing = False
    while frame is not None:
        code = frame.f_code
        if code in _uninterrupted or code.co_name == "__del__":
            return True, importing
        importing = importing or code.co_filename.startswith("<frozen importlib")
        frame = frame.f_back
    return False, importing
