"""The sub-commands, one module each, imported when called: they parse, call the library and return a Result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


@dataclass(frozen=True)
class Result:
    """What a command found: *document* is the ``--json`` output, *shown* what a person reads instead."""

    document: dict[str, Any]
    shown: RenderableType


def talk() -> Console:
    """Where progress, notes and warnings go: standard error, so that standard output is results alone."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)
