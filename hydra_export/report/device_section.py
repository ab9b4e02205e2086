"""The section on devices: a chart, a table and the choice for each, or why there is no number."""

from __future__ import annotations

from hydra_export.bundle import DeviceEntry
from hydra_export.latency import Advice, describe_fit, words
from hydra_export.report import charts
from hydra_export.report.findings import Findings
from hydra_export.report.markup import Markup, linked, tag
from hydra_export.report.sections import Section
from hydra_export.report.tables import Table, folded
from hydra_export.report.words import DASH, UNKNOWN

_MOST_ORIGINS = 8
_NOTE = (
    "Bars are 80 % intervals for one image. Measured times come from that device, published ones from others who timed "
    "a model of this shape. Estimates come from the nearest of these times; the farther those are, the wider the bar."
)


def devices(findings: Findings) -> Section:
    inside: list[object] = [table.html() for table in chosen(findings)]
    if findings.devices:
        articles = (_device(number, advice, findings.targets) for number, advice in enumerate(findings.devices))
        inside += [tag("p", _NOTE, class_="note"), articles]
    return Section("devices", "Devices", tuple(inside))


def chosen(findings: Findings) -> list[Table]:
    """What the export chose for its devices, if it was asked for any."""
    rows = [
        (
            entry.name,
            f"{entry.runtime}, {entry.unit.upper()}",
            "every k" if entry.heads is None else f"k = {entry.heads}",
            _time(entry),
            words.milliseconds(entry.budget_ms),
            UNKNOWN if entry.heads is None or entry.chance is None else describe_fit(entry.sure, entry.chance),
            ", ".join(entry.artifacts) or DASH,
        )
        for entry in findings.chosen
    ]
    caption = "What the export chose for each device, and the files that it may run."
    columns = ("device", "in", "runs", "time", "budget", "fits", "artifacts")
    return [Table("chosen", caption, columns, rows, text=len(columns))] if rows else []


def _time(entry: DeviceEntry) -> str:
    if entry.ms is None or entry.low is None or entry.high is None:
        return UNKNOWN
    return words.time(entry.ms, entry.low, entry.high, entry.provenance)


def _device(number: int, advice: Advice, targets: tuple[str, ...]) -> Markup:
    ident, soc = f"device-{number}", advice.profile.facts.soc
    return tag(
        "article",
        tag("h3", advice.profile.name, id=ident),
        tag("p", f"{advice.path}{f', {soc.value}' if soc else ''}", class_="about"),
        tag("p", " ".join(words.choice(advice))),
        _times(ident, advice) if advice.choice else None,
        (tag("p", caveat, class_="note") for caveat in words.caveats(advice, targets)),
        _origin(ident, advice) if advice.choice else None,
        class_="device",
        aria_labelledby=ident,
    )


def _times(ident: str, advice: Advice) -> Markup:
    budget, name = words.milliseconds(advice.budget.ms), advice.profile.name
    rows = [
        [
            tag("b", f"k = {k} (chosen)") if k == advice.heads else f"k = {k}",
            words.evidence(estimate.provenance),
            words.milliseconds(estimate.ms),
            words.interval(estimate.low, estimate.high),
            words.fit(advice, k),
        ]
        for k, estimate in advice.estimates.items()
    ]
    columns = ("subnetwork", "evidence", "time", "80 % interval", f"within {budget}")
    table = Table(f"{ident}-times", f"Time of one image on {name}.", columns, rows, text=2)
    chart = tag("figure", charts.intervals(f"{ident}-chart", f"Latency on {name}", advice), class_="panel")
    return tag("div", chart, table.html(), class_="beside")


def _origin(ident: str, advice: Advice) -> Markup:
    """The records behind the numbers."""
    more = len(advice.origins) - _MOST_ORIGINS
    origins = [*advice.origins[:_MOST_ORIGINS], *([f"and {more} more"] if more > 0 else [])]
    sources = [(f"{key}: ", linked(text)) for key, text in advice.sources.items()]
    formula = f"Estimated: {advice.formula}." if advice.formula else ""
    others = words.other_paths(advice)
    lists = ((formula, origins), ("Sources:", sources), ("Other runtimes here, at the largest head count:", others))
    inside = (
        (tag("p", title) if title else None, tag("ul", (tag("li", item) for item in items)))
        for title, items in lists
        if items
    )
    return folded(f"{ident}-origin", "Where this comes from", *inside)
