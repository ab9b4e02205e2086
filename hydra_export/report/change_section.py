"""What changed since another bundle, as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hydra_export.report import words
from hydra_export.report.changes import ArtifactChange, Changes, LatencyChange
from hydra_export.report.markup import Markup, tag
from hydra_export.report.sections import Section
from hydra_export.report.tables import Table

NOTHING = "the artifacts, the model and the tools are the same"


def changed(changes: Changes) -> Section:
    since = tag("p", "Since ", tag("code", changes.against), ".")
    shown = (table.html() for table in tables(changes))
    return Section("changes", "What changed", (since, _regressions(changes), *shown))


def _regressions(changes: Changes) -> Markup:
    if not changes.regressions:
        return tag("p", f"Nothing: {NOTHING}." if changes.nothing else "No regression.", class_="good")
    count = words.counted(len(changes.regressions), "regression")
    listed = tag("ul", (tag("li", each) for each in changes.regressions))
    return tag("div", tag("p", tag("b", count)), listed, class_="regressions")


def tables(changes: Changes) -> Iterator[Table]:
    """Every kind of change that there is."""
    if changes.accuracies:
        accuracies = [
            (
                f"k = {each.heads}",
                words.accuracy(each.before),
                words.accuracy(each.after),
                words.DASH if each.before is None or each.after is None else words.points(each.after - each.before),
            )
            for each in changes.accuracies
        ]
        yield Table("changed-accuracy", "Top-1.", ("subnetwork", "was", "is", "change"), accuracies)
    if altered := [each for each in changes.artifacts if each.status != "same"]:
        same = len(changes.artifacts) - len(altered)
        caption = "Artifacts." + (f" {words.counted(same, 'other')} did not change." if same else "")
        columns = ("artifact", "status", "to fetch", "parity, share of allowed", "int8 and its kind, top-1")
        yield Table("changed-artifacts", caption, columns, [*map(_artifact, altered)], text=2)
    yield from _latencies(changes)
    if changes.choices:
        choices = [(each.device, _heads(each.before), _heads(each.after)) for each in changes.choices]
        yield Table("changed-choices", "Choice for each device.", ("device", "was", "is"), choices, text=3)
    for ident, caption, facts in (("facts", "Model and data.", changes.facts), ("tools", "Tools.", changes.tools)):
        if facts:
            rows = [
                (each.what, *(words.clipped(text) or words.DASH for text in (each.before, each.after)))
                for each in facts
            ]
            yield Table(f"changed-{ident}", caption, ("fact", "was", "is"), rows, text=3, wrapped=True)


def _latencies(changes: Changes) -> Iterator[Table]:
    """What is surely another time, and, folded, what may be chance."""
    columns = ("artifact", "in", "was", "is", "change", "95 % interval")
    where = (
        "; the older times are from another machine, so that the ratios compare machines"
        if changes.other_machine
        else ""
    )
    sure, rest = ([each for each in changes.latencies if each.sure is which] for which in (True, False))
    for ident, group in (("changed-latency", sure), ("same-latency", rest)):
        if group:
            count = f"{words.counted(len(rest), 'time')} without a certain change" if group is rest else ""
            rows = [*map(_latency, group)]
            yield Table(ident, f"Measured latency{where}.", columns, rows, text=2, folded=count)


def _latency(each: LatencyChange) -> tuple[str, ...]:
    return (
        f"{each.path}, k = {each.heads}",
        f"{each.runtime}, {words.counted(each.threads, 'thread')}",
        words.milliseconds(each.before_ms),
        words.milliseconds(each.after_ms),
        f"{words.ratio(each.ratio)}{' (slower)' if each.slower else ''}",
        words.ratios(each.low, each.high),
    )


def _artifact(each: ArtifactChange) -> tuple[str, ...]:
    """Path, status, size, parity and accuracy, then and now."""
    sizes = _both(words.size, each.bytes_before, each.bytes_after)
    if each.bytes_before and each.bytes_after and each.bytes_before != each.bytes_after:
        sizes += f" ({words.ratio(each.bytes_after / each.bytes_before)})"
    shares = _both(words.share, each.share_before, each.share_after)
    return each.path, each.status, sizes, shares, _both(words.points, each.accuracy_before, each.accuracy_after)


def _both(write: Callable[[float], str], before: float | None, after: float | None) -> str:
    """Then and now; once where they are the same."""
    then, now = (None if value is None else write(value) for value in (before, after))
    return (
        now or then or words.DASH
        if then == now or then is None or now is None
        else f"{then} \N{RIGHTWARDS ARROW} {now}"
    )


def _heads(heads: int | None) -> str:
    return f"k = {heads}" if heads else "none"
