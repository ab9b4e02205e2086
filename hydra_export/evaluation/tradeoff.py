"""A plot of accuracy over what it costs. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra_export import pictures
from hydra_export.calibration import CalibratedCascade, CalibratedHeads, Calibration


def tradeoff(subnetworks: Sequence[Mapping[str, Any]], title: str, path: Path) -> Path:
    """Accuracy over GMACs and, where it was measured, over throughput, one point per head count."""
    timed = [row for row in subnetworks if row.get("images_per_second")]
    with pictures.drawn(path, title, panels=1 + bool(timed), share_y=True) as (first, *second):
        _points(first, subnetworks, [row["macs"] / 1e9 for row in subnetworks], "GMACs")
        first.set(ylabel="top-1 %")
        for axes in second:
            _points(axes, timed, [row["images_per_second"] for row in timed], "images / s, measured here", falling=True)
    return path


def cascades(found: Calibration, gmacs: Mapping[int, float], title: str, path: Path) -> Path:
    """Accuracy over the GMACs of an image on average: cascades beside single head counts, with 95 % intervals."""
    drawn: list[tuple[str, str, Sequence[CalibratedHeads | CalibratedCascade], list[float]]] = [
        ("one head count", "o-", found.subnetworks, [gmacs[each.heads] for each in found.subnetworks]),
        ("cascades", "s--", found.cascades, [each.gmacs for each in found.cascades]),
    ]
    with pictures.drawn(path, title) as (axes,):
        axes.set(xlabel="GMACs of an image on average", ylabel="top-1 %", xscale="log")
        for label, style, rows, costs in drawn:
            if not rows:
                continue
            accuracy = [each.accuracy for each in rows]
            reach = [[each.accuracy - each.low for each in rows], [each.high - each.accuracy for each in rows]]
            axes.errorbar(costs, accuracy, reach, fmt=style, label=label)
            several = rows is found.cascades
            names = [
                " > ".join(map(str, each.heads)) if isinstance(each.heads, tuple) else f"k = {each.heads}"
                for each in rows
            ]
            pictures.label_points(axes, costs, accuracy, names, left=several, above=several)
        axes.legend(loc="lower right")
        pictures.plain_log_ticks(axes.xaxis)
    return path


def _points(
    axes: Any, rows: Sequence[Mapping[str, Any]], costs: Sequence[float], label: str, *, falling: bool = False
) -> None:
    accuracy = [row["top1"] for row in rows]
    axes.plot(costs, accuracy, "o-")
    axes.set(xlabel=label, xscale="log")
    pictures.label_points(axes, costs, accuracy, [f"k = {row['heads']}" for row in rows], left=falling)
    pictures.plain_log_ticks(axes.xaxis)
