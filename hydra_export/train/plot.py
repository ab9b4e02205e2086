"""Plots of a run, and of accuracy over what it costs. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from hydra_export import files
from hydra_export.latency.plot import plain_log_ticks

_FEW = 20


def run(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Loss and accuracy per head count over the steps of a run, from the *rows* of its metrics."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    losses = [row for row in rows if "loss" in row]
    left.plot([row["step"] for row in losses], [row["loss"] for row in losses], marker=_marker(losses))
    left.set(xlabel="step", ylabel="training loss", xlim=(0, None))
    measured = [row for row in rows if "accuracy" in row]
    for k in sorted({k for row in measured for k in row["accuracy"]}, key=int):  # the last row has all of them
        rows_of_k = [row for row in measured if k in row["accuracy"]]
        steps, top1 = [row["step"] for row in rows_of_k], [row["accuracy"][k] for row in rows_of_k]
        right.plot(steps, top1, marker=_marker(rows_of_k), label=f"k = {k}")
    right.set(xlabel="step", ylabel="top-1 %", xlim=(0, None))
    if measured:
        right.legend()
    return _saved(figure, path)


def tradeoff(subnetworks: Sequence[Mapping[str, Any]], title: str, path: Path) -> Path:
    """Accuracy over GMACs and, where it was measured, over throughput, one point per head count."""
    measured = [row for row in subnetworks if row.get("images_per_second")]
    figure = Figure(figsize=(9 if measured else 5, 3.5), layout="constrained")
    first, *second = figure.subplots(1, 1 + bool(measured), squeeze=False)[0]
    figure.suptitle(title)
    _points(first, subnetworks, [row["macs"] / 1e9 for row in subnetworks], "GMACs")
    for axes in second:
        _points(axes, measured, [row["images_per_second"] for row in measured], "images / s, measured here")
    return _saved(figure, path)


def _marker(rows: Sequence[object]) -> str:
    """A line through few points shows them; through one there is no line."""
    return "o" if len(rows) <= _FEW else ""


def _points(axes: Any, rows: Sequence[Mapping[str, Any]], costs: Sequence[float], label: str) -> None:
    accuracy = [row["top1"] for row in rows]
    axes.plot(costs, accuracy, "o-")
    for cost, value, row in zip(costs, accuracy, rows, strict=True):
        axes.annotate(f"k={row['heads']}", (cost, value), textcoords="offset points", xytext=(4, -10), fontsize=8)
    axes.set(xlabel=label, ylabel="top-1 %", xscale="log")
    axes.margins(x=0.12, y=0.12)  # room for the texts
    plain_log_ticks(axes.xaxis)


def _saved(figure: Figure, path: Path) -> Path:
    with files.replaced_file(path) as partial:
        figure.savefig(partial, format=path.suffix.lstrip(".") or "png", dpi=120)
    return path
