"""Every error that a user can act on.

HydraExportError                    base; the CLI prints it and exits with its status
├── BadInput                        status 2: an argument or a file is wrong
│   ├── Unreadable                  a file that is missing, not a regular file, or too large
│   ├── UnknownName                 an unknown name, with the nearest known one
│   ├── BadCheckpoint               a checkpoint that cannot be read or is not supported
│   ├── BadData                     images or labels that cannot be used
│   ├── OutputRefused               an output path that will not or cannot be written
│   ├── SystemRefused               a limit of the operating system: memory, open files, a folder that is gone
│   └── MissingExtra                a target or command whose packages are not installed
└── CheckFailed                     status 1: everything was read and run, but a check failed
    ├── LimitExceeded               an artifact or a worker exceeds its memory or time limit
    ├── ParityFailed                an artifact does not compute what the PyTorch model computes
    └── VerificationFailed          a bundle does not match its manifest
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal

# How messages name an argument, and give it a value: `opset` or `opset=17`. The command line shows its option instead.
ARGUMENT = re.compile(r"`([a-z][a-z0-9_.]*)(?:=([^`]*))?`")


class HydraExportError(Exception):
    """Base of all errors of hydra-export: *message* states what was wrong and with which value, *remedy* what to do."""

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message} {remedy}".strip())
        self.message = message
        self.remedy = remedy

    def rename(self, place: str, called: str) -> None:
        """Calls *place* in the texts what the user calls it."""
        self.message, self.remedy = (text.replace(place, called) for text in (self.message, self.remedy))
        self.args = (f"{self.message} {self.remedy}".strip(),)


class BadInput(HydraExportError):
    """An argument or a file is wrong; *field* is the argument, by default the first in backticks in the text.

    Attributes:
        field: its name in Python; empty if no particular one is wrong.
    """

    code = "bad_input"
    exit_status = 2

    def __init__(self, message: str, remedy: str = "", *, field: str = "") -> None:
        super().__init__(message, remedy)
        named = ARGUMENT.search(f"{message} {remedy}")
        self.field = field or (named[1] if named else "")


class Unreadable(BadInput):
    """A file that cannot be read; *reason* says why, and *missing* that there is none."""

    code = "unreadable_file"

    def __init__(self, name: str, reason: str, remedy: str, missing: bool = False) -> None:
        super().__init__(f"{name} cannot be read: {reason}.", remedy)
        self.reason, self.missing = reason, missing


class UnknownName(BadInput):
    """An unknown name; the remedy suggests the nearest known one, or lists all. *field* is *kind* by default."""

    code = "unknown_name"

    def __init__(self, kind: str, name: str, known: Iterable[str], *, field: str = "") -> None:
        import difflib

        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1)
        remedy = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(known)}."
        super().__init__(f"No {kind} '{name}'.", remedy, field=field or (kind if kind.isidentifier() else ""))


class BadCheckpoint(BadInput):
    """A checkpoint that cannot be read, contradicts itself or is not supported."""

    code = "bad_checkpoint"


class BadData(BadInput):
    """Images or labels that cannot be used."""

    code = "bad_data"


class OutputRefused(BadInput):
    """An output path that will not or cannot be written."""

    code = "output_refused"


class SystemRefused(BadInput):
    """The operating system refuses what a command needs: memory, open files, a folder."""

    code = "system_refused"


class MissingExtra(BadInput):
    """Packages that a target or a command needs are not installed.

    Args:
        why: the reason that they cannot be installed on this system; *remedy* then states where they can.
    """

    code = "missing_extra"

    def __init__(self, what: str, package: str, extra: str, *, why: str = "", remedy: str = "") -> None:
        from hydra_export.installation import install_command

        super().__init__(f"{what} needs {package}. {why}".strip(), remedy or f"Run: {install_command(extra)}")


class CheckFailed(HydraExportError):
    """Everything was read and run, but a check failed."""

    code = "check_failed"
    exit_status = 1


class LimitExceeded(CheckFailed):
    """An artifact or a worker exceeds its memory or time limit; *resource* says which."""

    code = "limit_exceeded"
    resource: Literal["memory", "seconds"] = "memory"

    def __init__(self, message: str, remedy: str = "", resource: Literal["memory", "seconds"] = "memory") -> None:
        super().__init__(message, remedy)
        self.resource = resource


class ParityFailed(CheckFailed):
    """An artifact does not compute what the PyTorch subnetwork computes."""

    code = "parity_failed"


class VerificationFailed(CheckFailed):
    """A bundle does not match its manifest."""

    code = "verification_failed"


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """*error*, what caused it or was being handled when it was raised, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
