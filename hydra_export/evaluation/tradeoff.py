"""A plot of accuracy over what it costs. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from hydra_export import files
from hydra_export.calibration import CalibratedCascade, CalibratedHeads, Calibration
from hydra_export.latency.plot import plain_log_ticks


def tradeoff(subnetworks: Sequence[Mapping[str, Any]], title: str, path: Path) -> Path:
    """Accuracy over GMACs and, where it was measured, over throughput, one point per head count."""
    with_throughput = [row for row in subnetworks if row.get("images_per_second")]
    figure = Figure(figsize=(9 if with_throughput else 5, 3.5), layout="constrained")
    first, *second = figure.subplots(1, 1 + bool(with_throughput), squeeze=False)[0]
    figure.suptitle(title)
    _points(first, subnetworks, [row["macs"] / 1e9 for row in subnetworks], "GMACs")
    for axes in second:
        _points(
            axes, with_throughput, [row["images_per_second"] for row in with_throughput], "images / s, measured here"
        )
    return saved(figure, path)


def cascades(found: Calibration, gmacs: Mapping[int, float], title: str, path: Path) -> Path:
    """Accuracy over the GMACs of an image on average: cascades beside single head counts, with 95 % intervals."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=9, wrap=True)
    drawn: list[tuple[str, str, Sequence[CalibratedHeads | CalibratedCascade], list[float]]] = [
        ("one head count", "o-", found.subnetworks, [gmacs[each.heads] for each in found.subnetworks]),
        ("cascades", "s--", found.cascades, [each.gmacs for each in found.cascades]),
    ]
    for label, style, rows, costs in drawn:
        accuracy = [each.accuracy for each in rows]
        reach = [[each.accuracy - each.low for each in rows], [each.high - each.accuracy for each in rows]]
        axes.errorbar(costs, accuracy, reach, fmt=style, capsize=2, markersize=5, linewidth=1.2, label=label)
        for each, cost in zip(rows, costs, strict=True):
            name = " > ".join(map(str, each.heads)) if isinstance(each.heads, tuple) else f"k={each.heads}"
            above = isinstance(each.heads, tuple)
            place = {"xytext": (-5, 6), "ha": "right"} if above else {"xytext": (5, -11)}
            axes.annotate(name, (cost, each.accuracy), textcoords="offset points", fontsize=8, **place)
    axes.set(xlabel="GMACs of an image on average", ylabel="top-1 %", xscale="log")
    axes.margins(x=0.15, y=0.12)
    axes.legend(fontsize=8, loc="lower right")
    plain_log_ticks(axes.xaxis)
    return saved(figure, path)


def saved(figure: Figure, path: Path) -> Path:
    """Writes *figure* to *path*, in the format of its ending."""
    with files.replaced_file(path) as partial:
        figure.savefig(partial, format=path.suffix.lstrip(".") or "png", dpi=120)
    return path


def _points(axes: Any, rows: Sequence[Mapping[str, Any]], costs: Sequence[float], label: str) -> None:
    accuracy = [row["top1"] for row in rows]
    axes.plot(costs, accuracy, "o-")
    for cost, value, row in zip(costs, accuracy, rows, strict=True):
        axes.annotate(f"k={row['heads']}", (cost, value), textcoords="offset points", xytext=(4, -10), fontsize=8)
    axes.set(xlabel=label, ylabel="top-1 %", xscale="log")
    axes.margins(x=0.12, y=0.12)  # room for the texts
    plain_log_ticks(axes.xaxis)
