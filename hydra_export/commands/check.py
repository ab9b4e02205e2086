"""``hydra-export check BUNDLE --for DELEGATE``: what of a bundle will run where, by what makers say?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from hydra_export.commands import Result, candidates, table, talk, titled
from hydra_export.commands.candidates import some_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType
    from rich.table import Table

    from hydra_export.checking import CheckedArtifact
    from hydra_export.delegates.judging import Judged

_CELLS = {"refused": "no", "falls back": "part", "unknown": "?", "taken": "all"}  # the worst first
_LEGEND = (
    "all: every operator is accepted; part: some run on the CPU; no: some are refused; ?: some are unknown.",
    "--for NAME lists the operators, reasons and sources. Nothing was compiled or run.",
)
_MOST_NAMED = 3


def check(
    bundle: Path,
    *,
    for_: Annotated[str | None, some_of(candidates.delegates)] = None,
    limit_memory: int | None = None,
    limit_seconds: float | None = None,
) -> Result:
    """Show which operators of each artifact a delegate or an NPU compiler accepts, according to its maker's tables.

    Args:
        bundle: Its folder, or its archive.
        for_: Comma-separated delegates and compilers; if one refuses an artifact, the exit status is 1. By default a
            summary of all.
        limit_memory: Memory limit in MiB of the process that opens artifacts; by default as for verify.
        limit_seconds: Time limit for opening an artifact, in seconds; by default as for verify.
    """
    from hydra_export import checking
    from hydra_export.commands.choices import listed_names
    from hydra_export.commands.progress import shown_progress

    names = listed_names("for_", for_)
    with shown_progress(talk()) as progress:
        checked = checking.check(bundle, names, progress, limit_memory_mib=limit_memory, limit_seconds=limit_seconds)
    shown = _details(bundle, checked, names) if names else _summary(bundle, checked)
    return Result({"folder": str(bundle), "artifacts": checked}, shown, _failure(bundle, checked) if names else None)


def _summary(bundle: Path, checked: Sequence[CheckedArtifact]) -> RenderableType:
    """A table for each target, with a column for each delegate that takes its artifacts."""
    from rich.console import Group

    by_target: dict[str, list[CheckedArtifact]] = {}
    for each in checked:
        by_target.setdefault(each.target, []).append(each)
    parts: list[RenderableType] = []
    for target, artifacts in by_target.items():
        names = [name for name, judged in artifacts[0].judged.items() if judged is not None]
        shown = table(target, "k")
        for name in names:  # on as many lines as it has words
            words = name.replace("-", "- ")
            shown.add_column(words, justify="right", width=max(map(len, words.split())))
        _add_rows(shown, artifacts, lambda each, names=names: [_cell(each.judged[name]) for name in names])  # type: ignore[misc]
        parts.append(shown if names else f"{target}: no known delegate accepts these artifacts.")
    return titled(_title(bundle), Group(*parts), *_LEGEND)


def _title(bundle: Path) -> str:
    return f"Where {bundle} will run, according to the makers' tables"


def _cell(judged: Sequence[Judged] | None) -> str:
    verdicts = {each.verdict for each in judged or ()}
    return next((cell for verdict, cell in _CELLS.items() if verdict in verdicts), "all")


def _add_rows(
    shown: Table, checked: Iterable[CheckedArtifact], tell: Callable[[CheckedArtifact], Sequence[str]]
) -> None:
    """One row for all artifacts of one kind of which the same is to be told."""
    rows = dict[tuple[str, ...], list[int]]()
    for each in checked:
        heads = rows.setdefault((each.kind, *tell(each)), [])
        heads += [k for k in each.heads if k not in heads]
    for (kind, *cells), heads in rows.items():
        shown.add_row(kind, ",".join(map(str, sorted(heads))), *cells)


def _details(bundle: Path, checked: Sequence[CheckedArtifact], names: Sequence[str]) -> RenderableType:
    from rich.console import Group

    parts = [part for name in names for part in (*_of_delegate(name, checked), "")]
    judged = [each for each in checked if any(one is not None for one in each.judged.values())]
    return titled(_title(bundle), Group("", *parts, _noticed(judged)))


def _of_delegate(name: str, checked: Sequence[CheckedArtifact]) -> list[RenderableType]:
    """How many operators each verdict is for, why, and who says so."""
    from hydra_export.checking import counts
    from hydra_export.delegates import VERDICTS, get

    delegate, of_it = get(name), [each for each in checked if each.judged[name] is not None]
    parts: list[RenderableType] = [f"{name}: {delegate.title}. {delegate.about}"]
    if others := dict.fromkeys(each.target for each in checked if each.judged[name] is None):
        parts += [f"It does not take artifacts of {', '.join(others)}."]
    if of_it:
        shown = table("operators", "k", *VERDICTS)
        _add_rows(shown, of_it, lambda each: [str(count or "-") for count in counts(each.judged[name] or ()).values()])
        parts += [shown, *_reasons([one for each in of_it for one in each.judged[name] or ()])]
    return parts


def _reasons(judged: Sequence[Judged]) -> list[RenderableType]:
    """Why operators are not taken, or under what condition they are; then the sources of it all."""
    sources, operators = list(dict.fromkeys(each.source for each in judged)), dict[tuple[str, str, int], list[str]]()
    for each in judged:
        named = operators.setdefault((each.verdict, each.why, sources.index(each.source)), [])
        named += [each.operator] * (bool(each.why) and each.operator not in named)
    rows, worst = _grid(), list(_CELLS)
    for (verdict, why, source), named in sorted(operators.items(), key=lambda each: worst.index(each[0][0])):
        if named:
            rows.add_row(verdict, _listed(named), why, f"[{source + 1}]")
    parts: list[RenderableType] = [rows, ""]
    for number, cited in enumerate(sources, 1):
        parts += [f"[{number}] {cited.text}, {cited.version}:", cited.url]
    return parts


def _noticed(checked: Sequence[CheckedArtifact]) -> RenderableType:
    """What is unusual about artifacts, whatever a table says."""
    found = dict[str, tuple[Sequence[str], list[str]]]()
    for each in checked:
        for one in each.noticed:
            _places, kinds = found.setdefault(one.what, (one.places, []))
            kinds += [each.kind] * (each.kind not in kinds)
    rows = _grid()
    for what, (places, kinds) in found.items():
        rows.add_row("noticed", what, f"{_listed(places)}; in {_listed(kinds)}")
    return rows


def _grid() -> Table:
    from rich.table import Table

    rows = Table.grid(padding=(0, 2))
    rows.add_column(no_wrap=True)
    return rows


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (
        f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    )


def _failure(bundle: Path, checked: Sequence[CheckedArtifact]) -> Callable[[], None]:
    """What follows the result: CheckFailed where an artifact is refused."""
    from hydra_export.errors import CheckFailed

    refused = {
        f"{name} refuses {each.path}": None
        for each in checked
        for name, judged in each.judged.items()
        if any(one.verdict == "refused" for one in judged or ())
    }

    def fail() -> None:
        if refused:
            what = f"{bundle}: {_listed(list(refused))}."
            raise CheckFailed(what, "Export other graph kinds or precisions for it; its table lists what it accepts.")

    return fail
