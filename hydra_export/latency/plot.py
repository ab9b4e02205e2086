"""The estimates as a picture: time with its interval over k, the budget, and accuracy where it is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra_export import pictures
from hydra_export.latency.choice import HeadChoice
from hydra_export.latency.estimate import Estimate
from hydra_export.latency.evidence import Workload


def plot(
    path: Path,
    title: str,
    model: Workload,
    estimates: Mapping[int, Estimate],
    budget_ms: float,
    choice: HeadChoice | None,
) -> None:
    """Draws *estimates* into *path*, which is replaced."""
    heads = list(estimates)
    with pictures.drawn(path, title) as (axes,):
        ms, low, high = zip(*((e.ms, e.low, e.high) for e in estimates.values()), strict=True)
        axes.fill_between(heads, low, high, color=pictures.BLUE, alpha=0.15, linewidth=0, label="80 % interval")
        axes.plot(heads, ms, color=pictures.BLUE, marker="o", markerfacecolor="white", label="estimated")
        if timed := [k for k in heads if estimates[k].provenance != "estimated"]:
            axes.plot(timed, [estimates[k].ms for k in timed], "o", color=pictures.BLUE, label="timed")
        axes.axhline(budget_ms, color=pictures.RED, linestyle="--", label=f"budget, {budget_ms:g} ms")
        if choice is not None and choice.heads is not None:
            label = f"{'choice' if choice.sure else 'best guess'}: k = {choice.heads}"
            ring: dict[str, Any] = {"color": pictures.RED, "markersize": 13, "markerfacecolor": "none"}
            axes.plot(choice.heads, estimates[choice.heads].ms, "o", **ring, label=label)
        axes.set_yscale("log")
        pictures.plain_log_ticks(axes.yaxis)
        known = {k: f"\n{model.accuracy[k]:.1f} %" for k in heads if k in model.accuracy}
        axes.set_xticks(heads, [f"{k}{known.get(k, '')}" for k in heads])
        axes.set(xlabel=f"head count, k{', and its top-1' if known else ''}", ylabel="ms per image")
        axes.figure.legend(loc="outside lower center", ncols=3)
