"""The sub-commands, one module each, imported when called: they parse, call the library and return a Result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import Parameter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from rich.console import RenderableType
    from rich.table import Table

    from hydra_export.bundle import ArtifactEntry
    from hydra_export.commands.console import Console
    from hydra_export.parity import ParityRecord

Row = TypeVar("Row")
Flag = Annotated[bool, Parameter(negative="", show_default=False)]


@dataclass(frozen=True)
class Result:
    """What a command found: *document* is the ``--json`` output, *shown* what a person reads instead.

    Attributes:
        then: what it does after that, until it is interrupted.
    """

    document: dict[str, Any]
    shown: RenderableType
    then: Callable[[], None] | None = None


def examples(*lines: str) -> str:
    """The examples below the help of a command."""
    return "\n".join(["Examples:", *(f"  {line}" for line in lines)])


def talk() -> Console:
    """Where progress, notes and warnings go: standard error, so that standard output has only results."""
    from hydra_export.commands.console import Console

    return Console(stderr=True)


def tell(console: Console, notes: tuple[str, ...], warning: str) -> None:
    """What was assumed while a checkpoint was read, and a warning, if there is one."""
    for note in notes:
        say(console, f"note: {note}")
    if warning:
        say(console, f"warning: {warning}")


def say(console: Console, text: str) -> None:
    """A note or a warning, which is what *text* begins with."""
    console.print(text, style="yellow" if text.startswith("warning:") else None, soft_wrap=True)


def table(*columns: str) -> Table:
    """A table whose first column is text, kept whole, and whose others are numbers."""
    from rich import box
    from rich.table import Table

    empty = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        empty.add_column(column, justify="right" if index else "left", no_wrap=True)
    return empty


def filled(columns: Mapping[str, Callable[[Row], str] | None], rows: Iterable[Row]) -> Table:
    """A table of *rows*; a column that is None is left out."""
    present = {name: tell for name, tell in columns.items() if tell is not None}
    shown = table(*present)
    for row in rows:
        shown.add_row(*(tell(row) for tell in present.values()))
    return shown


def titled(title: str, shown: RenderableType, *notes: str) -> RenderableType:
    """*shown* under a line that says what it is and above lines that say more, none wrapped to its width."""
    from rich.console import Group
    from rich.styled import Styled

    return Group(Styled(title, "bold"), shown, *notes)


def experimental(artifacts: Iterable[ArtifactEntry]) -> list[str]:
    """Notes on artifacts that were verified as files but never run on their own platform."""
    from hydra_export import targets

    notes = []
    for name, graph in dict.fromkeys((artifact.target, artifact.graph) for artifact in artifacts):
        if why := targets.get(name).experimental.get(graph):
            notes.append(f"{name} {graph} is experimental: {why}.")
    return notes


def allowed(record: ParityRecord) -> str:
    """The bound that an artifact was verified against."""
    if record.bound is not None:
        return f"{record.bound:.1e}"
    agrees = f"agrees {record.top1_agreement:.1%}"
    if record.accuracy is None or record.accuracy_fp32 is None:
        return agrees
    top1 = f"top-1 {record.accuracy - record.accuracy_fp32:+.2f}"
    if record.class_drop is not None:
        top1 += f", one class {-record.class_drop + 0:+.1f}"
    return f"{top1}, {agrees}" if "agreement" in record.judged_by else top1


def size(count: int) -> str:
    """Bytes for a person: decimal, as file managers and app stores count."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def percent(accuracy: float | None) -> str:
    """An accuracy that is already in percent."""
    return "-" if accuracy is None else f"{accuracy:.1f}"
