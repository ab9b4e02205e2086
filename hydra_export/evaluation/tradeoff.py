"""A plot of accuracy over what it costs. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from hydra_export import files
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
