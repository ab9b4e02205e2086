"""The section on devices: a chart, a table and the choice for each, or why there is no number."""

from __future__ import annotations

from hydra_export.bundle import DeviceEntry
from hydra_export.latency import percent, said
from hydra_export.report import charts, words
from hydra_export.report.devices import DeviceTimes
from hydra_export.report.findings import Findings
from hydra_export.report.markup import Markup, linked, tag
from hydra_export.report.sections import section
from hydra_export.report.tables import folded, table

_MOST_ANCHORS = 8
_DASH = "\N{EN DASH}"


def devices(findings: Findings) -> Markup:
    if not findings.devices and not findings.chosen:
        said = ("No device was named. ", tag("code", "--device pixel7,rpi5"), " says which head count fits them.")
        return section("devices", "Devices", tag("p", said))
    note = (
        "Bars are 80 % intervals of one image. Measured: timed on that device. Published: by others, of a model of "
        "this shape. Estimated: from the nearest of such times, wider the farther they are."
    )
    shown = [_device(number, device) for number, device in enumerate(findings.devices)]
    return section("devices", "Devices", _chosen(findings), tag("p", note, class_="note") if shown else None, shown)


def _chosen(findings: Findings) -> Markup | None:
    """What the export chose for its devices."""
    if not findings.chosen:
        return None
    rows = [
        (
            entry.name,
            f"{entry.runtime}, {entry.unit.upper()}",
            "every k" if entry.heads is None else f"k = {entry.heads}",
            chosen_time(entry),
            words.milliseconds(entry.budget_ms),
            fits(entry),
            ", ".join(entry.artifacts) or _DASH,
        )
        for entry in findings.chosen
    ]
    caption = "Chosen when the bundle was exported, and what each device may run."
    columns = ("device", "in", "runs", "time", "budget", "fits", "artifacts")
    return table("chosen", caption, columns, rows, text=len(columns))


def chosen_time(entry: DeviceEntry) -> str:
    """The time that a choice went by."""
    if entry.ms is None or entry.low is None or entry.high is None:
        return words.UNKNOWN
    origin = f", {_evidence(entry.provenance)}" if entry.provenance else ""
    return f"{words.milliseconds(entry.ms)} ({words.interval(entry.low, entry.high)}{origin})"


def fits(entry: DeviceEntry) -> str:
    """Whether what was chosen fits, and how sure that is."""
    if entry.heads is None:
        return words.UNKNOWN
    return words.UNKNOWN if entry.chance is None else said(entry.sure, entry.chance)


def _device(number: int, device: DeviceTimes) -> Markup:
    ident = f"device-{number}"
    about = f"{device.way}{f', {device.soc}' if device.soc else ''}"
    inside: list[object] = [tag("h3", device.name, id=ident), tag("p", about, class_="about")]
    if not device.times:
        inside += [tag("p", f"No number: {device.unknown}.")]
    else:
        inside += [tag("p", choice(device)), *_times(ident, device), *_origin(ident, device)]
    if device.lacks:
        missing = (f"The bundle holds nothing for {device.way.split(',')[0]}: export with ", _option(device.lacks), ".")
        inside += [tag("p", missing, class_="note")]
    return tag("article", inside, class_="device", aria_labelledby=ident)


def choice(device: DeviceTimes) -> str:
    """What to run, in words."""
    budget = f"{words.milliseconds(device.budget_ms)} ({device.budget_reason})"
    sure = percent(device.chance or 0)
    if device.choice is None:
        return f"Nothing is known to fit {budget}: {device.why}; the chance is {sure}."
    if device.sure:
        said = f"Choice for {budget}: k = {device.choice}, {sure} sure: {device.why}."
    else:
        said = f"Best guess for {budget}: k = {device.choice}, {sure}; {device.why}."
    if device.larger is not None:
        said += f" k = {device.larger} may fit as well ({percent(device.larger_chance or 0)})."
    return said


def _times(ident: str, device: DeviceTimes) -> list[Markup]:
    title = f"Latency on {device.name}"
    told = "; ".join(
        f"k = {t.heads}: {words.milliseconds(t.ms)}, {words.interval(t.low, t.high)}, {_evidence(t.provenance)}"
        for t in device.times
    )
    told += f"; budget {words.milliseconds(device.budget_ms)}."
    rows = [
        [
            tag("b", f"k = {t.heads} (chosen)") if t.heads == device.choice else f"k = {t.heads}",
            _evidence(t.provenance),
            words.milliseconds(t.ms),
            words.interval(t.low, t.high),
            t.fits if t.fits == "too much RAM" else f"{t.fits} ({percent(t.chance)})",
        ]
        for t in device.times
    ]
    columns = ("subnetwork", "evidence", "time", "80 % interval", f"within {words.milliseconds(device.budget_ms)}")
    caption = f"Time of one image on {device.name}."
    chart = tag("figure", charts.intervals(f"{ident}-chart", title, told, device), class_="panel")
    return [tag("div", chart, table(f"{ident}-times", caption, columns, rows, text=2), class_="beside")]


def _origin(ident: str, device: DeviceTimes) -> list[Markup]:
    """Where the numbers come from."""
    said: list[object] = []
    if device.inferred:
        said += [tag("p", "All of it is inferred from other devices: time this one before you rely on it.")]
    if device.formula:
        said += [tag("p", f"Estimated: {device.formula}.")]
    more = len(device.anchors) - _MOST_ANCHORS
    listed = [tag("li", anchor_) for anchor_ in device.anchors[:_MOST_ANCHORS]]
    said += [tag("ul", listed, tag("li", f"and {more} more") if more > 0 else None)]
    if device.sources:
        said += [tag("p", "Sources:")]
        said += [tag("ul", (tag("li", f"{key}: ", linked(text)) for key, text in device.sources.items()))]
    if device.others:
        said += [tag("p", "Other ways here, largest head count:")]
        listed = [
            tag(
                "li",
                f"{o.way}: {words.milliseconds(o.ms)} ({words.interval(o.low, o.high)}), {_evidence(o.provenance)}",
            )
            for o in device.others
        ]
        said += [tag("ul", listed)]
    return [folded(f"{ident}-origin", "Where this comes from", *said)]


def _evidence(provenance: str) -> str:
    return provenance.replace("_", ", ")


def _option(target: str) -> Markup:
    return tag("code", f"--target {target}")
