"""A plot of a run. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from hydra_export.evaluation.tradeoff import saved

_FEW = 20


def run(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Loss and accuracy per head count over the steps of a run, from the *rows* of its metrics."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    losses = [row for row in rows if "loss" in row]
    left.plot([row["step"] for row in losses], [row["loss"] for row in losses], marker=_marker(losses))
    for k in sorted({k for row in losses for k in row.get("loss_per_k", {})}, key=int):
        rows_of_k = [row for row in losses if k in row["loss_per_k"]]
        steps, per_k = [row["step"] for row in rows_of_k], [row["loss_per_k"][k] for row in rows_of_k]
        left.plot(steps, per_k, linewidth=0.7, alpha=0.6, label=f"k = {k}")
    left.set(xlabel="step", ylabel="training loss", xlim=(0, None))
    measured = [row for row in rows if "accuracy" in row]
    for k in sorted({k for row in measured for k in row["accuracy"]}, key=int):  # the last row has all of them
        rows_of_k = [row for row in measured if k in row["accuracy"]]
        steps, top1 = [row["step"] for row in rows_of_k], [row["accuracy"][k] for row in rows_of_k]
        right.plot(steps, top1, marker=_marker(rows_of_k), label=f"k = {k}")
    right.set(xlabel="step", ylabel="top-1 %", xlim=(0, None))
    if measured:
        right.legend()
    return saved(figure, path)


def _marker(rows: Sequence[object]) -> str:
    """A line through few points shows them; through one there is no line."""
    return "o" if len(rows) <= _FEW else ""
