"""Standard input, output and error, whatever the process was started with."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from hydra_export.errors import OutputRefused

# What stands on a terminal until something else is said: its stream, as progress takes over sys.stderr, and its length.
_announced: tuple[TextIO, int] | None = None


def open_all() -> None:
    """Opens what is closed, else the next file would take its place, and libraries would print into that.

    Standard output that was closed stays None, as Python has it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number that is free
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 (as long as the process)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # what the locale has no letters for is shown, not an error
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def check_open() -> None:
    """Raises OutputRefused where standard output was closed."""
    if sys.stdout is None:
        raise OutputRefused("Standard output is closed.", "Leave it open, or send it to /dev/null.")


@contextlib.contextmanager
def results() -> Iterator[None]:
    """What is printed on standard output within arrives there.

    Raises:
        BrokenPipeError: the reader has seen enough.
        OutputRefused: it cannot be written.
    """
    check_open()
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        abandon(sys.stdout)
        sys.stdout = None  # closed, for whoever wants to print an error there
        reason = os.strerror(error.errno or 0)
        raise OutputRefused(
            f"Cannot write to standard output: {reason}.", "Redirect it to a place with free space."
        ) from error


def announce(line: str) -> None:
    """Shows *line* on a terminal until it is withdrawn, such as while PyTorch is imported; a log gets nothing."""
    global _announced
    if sys.stderr.isatty():
        _announced = sys.stderr, len(line)
        _write(sys.stderr, f"{line}\r")


def withdraw() -> None:
    """Clears the line that was announced: something else is about to be said."""
    global _announced
    if _announced:
        (stream, letters), _announced = _announced, None
        _write(stream, f"{' ' * letters}\r")


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        abandon(stream)


def abandon(stream: TextIO) -> None:
    """Throws away what *stream* holds and cannot write: Python would try again when it ends, and complain."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        stream.flush()
