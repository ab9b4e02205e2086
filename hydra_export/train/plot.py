"""A plot of a run. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra_export import pictures

_FEW = 20


def run(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Loss and, where it was measured, accuracy per head count over the steps of a run, from its *rows* of metrics."""
    losses = [row for row in rows if "loss" in row]
    measured = [row for row in rows if "accuracy" in row]
    with pictures.drawn(path, "", panels=1 + bool(measured)) as (left, *rest):
        steps, loss = [row["step"] for row in losses], [row["loss"] for row in losses]
        left.plot(steps, loss, color=pictures.INK, marker=_marker(losses), label="all")
        for k in _head_counts(losses, "loss_per_k"):
            rows_of_k = [row for row in losses if k in row.get("loss_per_k", {})]
            steps, per_k = [row["step"] for row in rows_of_k], [row["loss_per_k"][k] for row in rows_of_k]
            left.plot(steps, per_k, linewidth=0.7, alpha=0.6, marker=_marker(rows_of_k), label=f"k = {k}")
        left.set(xlabel="step", ylabel="training loss", xlim=(0, None))
        if len(left.get_lines()) > 1:
            left.legend()
        for right in rest:
            for k in _head_counts(measured, "accuracy"):
                rows_of_k = [row for row in measured if k in row["accuracy"]]
                steps, top1 = [row["step"] for row in rows_of_k], [row["accuracy"][k] for row in rows_of_k]
                right.plot(steps, top1, marker=_marker(rows_of_k), label=f"k = {k}")
            right.set(xlabel="step", ylabel="top-1 %", xlim=(0, None))
            right.legend()
    return path


def _head_counts(rows: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    return sorted({k for row in rows for k in row.get(name, {})}, key=int)


def _marker(rows: Sequence[object]) -> str:
    """A line through few points shows them; through one there is no line."""
    return "o" if len(rows) <= _FEW else ""
