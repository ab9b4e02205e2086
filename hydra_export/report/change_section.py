"""The section on what changed since another bundle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hydra_export.report import words
from hydra_export.report.changes import ArtifactChange, Change, Changes, LatencyChange
from hydra_export.report.markup import Markup, tag
from hydra_export.report.sections import section
from hydra_export.report.tables import folded, table

_DASH = "\N{EN DASH}"
_ARROW = " \N{RIGHTWARDS ARROW} "


def changed(changes: Changes) -> Markup:
    since = tag("p", "Since ", tag("code", changes.against), ".")
    return section("changes", "What changed", since, _regressions(changes), *_tables(changes))


def _regressions(changes: Changes) -> Markup:
    if changes.nothing:
        return tag("p", "Nothing: the artifacts, the model and the tools are the same.", class_="good")
    if not changes.regressions:
        return tag("p", "No regression.", class_="good")
    said = words.counted(len(changes.regressions), "regression")
    listed = tag("ul", (tag("li", each) for each in changes.regressions))
    return tag("div", tag("p", tag("b", said)), listed, class_="regressions")


def _tables(changes: Changes) -> Iterator[Markup]:
    if changes.accuracies:
        yield table("changed-accuracy", "Top-1.", ("subnetwork", "was", "is", "change"), _accuracies(changes))
    altered = [each for each in changes.artifacts if each.status != "same"]
    same = len(changes.artifacts) - len(altered)
    if altered:
        rest = f" {words.counted(same, 'other')} did not change by a byte." if same else ""
        columns = ("artifact", "status", "to fetch", "parity, share of allowed", "int8, top-1")
        yield table("changed-artifacts", f"Artifacts.{rest}", columns, map(artifact_row, altered), text=2)
    yield from _latency_tables(changes)
    if changes.choices:
        choices = [(each.device, _choice(each.before), _choice(each.after)) for each in changes.choices]
        yield table("changed-choices", "Choice for each device.", ("device", "was", "is"), choices, text=3)
    for ident, caption, facts in (("facts", "Model and data.", changes.facts), ("tools", "Tools.", changes.tools)):
        if facts:
            rows = [
                (each.what, words.clipped(each.before) or _DASH, words.clipped(each.after) or _DASH) for each in facts
            ]
            yield table(f"changed-{ident}", caption, ("fact", "was", "is"), rows, text=3, wrapped=True)


def _accuracies(changes: Changes) -> list[tuple[str, ...]]:
    return [
        (
            f"k = {each.heads}",
            words.accuracy(each.before),
            words.accuracy(each.after),
            _DASH if each.before is None or each.after is None else words.points(each.after - each.before),
        )
        for each in changes.accuracies
    ]


def _latency_tables(changes: Changes) -> Iterator[Markup]:
    """What is surely another time, and, folded, what may be chance."""
    columns = ("artifact", "in", "was", "is", "change", "95 % interval")
    where = "; measured on another machine then: the ratios compare machines" if changes.other_machine else ""
    sure, rest = ([each for each in changes.latencies if each.sure is which] for which in (True, False))
    if sure:
        yield table("changed-latency", f"Measured latency{where}.", columns, _latencies(sure), text=2)
    if rest:
        count = words.counted(len(rest), "time")
        shown = table("same-latency", f"Measured latency{where}.", columns, _latencies(rest), text=2)
        yield folded("unsure", f"{count} that did not surely change", shown)


def _latencies(listed: Iterable[LatencyChange]) -> list[tuple[str, ...]]:
    return [
        (
            f"{each.path}, k = {each.heads}",
            f"{each.runtime}, {words.counted(each.threads, 'thread')}",
            words.milliseconds(each.before_ms),
            words.milliseconds(each.after_ms),
            f"{words.ratio(each.ratio)}{' (slower)' if each.slower else ''}",
            words.ratios(each.low, each.high),
        )
        for each in listed
    ]


def artifact_row(each: ArtifactChange) -> tuple[str, str, str, str, str]:
    """Path, status, size, parity and accuracy, then and now."""
    sizes = [None if count is None else words.size(count) for count in (each.bytes_before, each.bytes_after)]
    told = both(*sizes)
    if each.bytes_before and each.bytes_after and each.bytes_before != each.bytes_after:
        told += f" ({words.ratio(each.bytes_after / each.bytes_before)})"
    shares = [None if share is None else words.share(share) for share in (each.share_before, each.share_after)]
    points = [None if drop is None else words.points(drop) for drop in (each.accuracy_before, each.accuracy_after)]
    return each.path, each.status, told, both(*shares), both(*points)


def both(before: str | None, after: str | None) -> str:
    """Then and now; once where they are the same."""
    if before == after or before is None or after is None:
        return after or before or _DASH
    return f"{before}{_ARROW}{after}"


def changed_fact(change: Change) -> str:
    return f"{words.clipped(change.before) or _DASH}{_ARROW}{words.clipped(change.after) or _DASH}"


def _choice(heads: int | None) -> str:
    return f"k = {heads}" if heads else "none"
