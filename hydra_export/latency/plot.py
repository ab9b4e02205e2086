"""The estimates as a picture: time with its interval over k, the budget, and accuracy where it is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra_export import files
from hydra_export.errors import BadInput, MissingExtra
from hydra_export.latency.choice import HeadChoice
from hydra_export.latency.estimate import Estimate
from hydra_export.latency.evidence import Workload

_FORMATS = ("png", "svg", "pdf")
_LOG_STEPS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7))
_FEWEST_TICKS = 4
_TIME, _BUDGET, _ACCURACY = "#1f5fa8", "#b03a2e", "#2e7d32"


def check_plot(path: Path) -> None:
    """Raises BadInput for a file that cannot be drawn, MissingExtra where matplotlib is not installed."""
    if path.suffix.removeprefix(".") not in _FORMATS:
        raise BadInput(
            f"`plot` {path}: no such kind of picture.", f"Name a file that ends in .{' or .'.join(_FORMATS)}."
        )
    try:
        import matplotlib as _  # noqa: F401 (asked for, not used here)
    except ImportError:
        raise MissingExtra("`plot`", "matplotlib", "plot") from None


def plain_log_ticks(axis: Any) -> None:
    """A few plain numbers along a logarithmic *axis* that is drawn on already, whatever it spans."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    low, high = axis.get_view_interval()
    decades = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    for steps in _LOG_STEPS:
        ticks = [step * decade for decade in decades for step in steps if low <= step * decade <= high]
        if len(ticks) >= _FEWEST_TICKS:
            break
    else:  # less than a factor of two
        ticks = [tick for tick in MaxNLocator(_FEWEST_TICKS + 2).tick_values(low, high) if low <= tick <= high]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:.4g}"))
    axis.set_minor_locator(FixedLocator([]))


def plot(
    path: Path,
    title: str,
    model: Workload,
    estimates: Mapping[int, Estimate],
    budget_ms: float,
    choice: HeadChoice | None,
) -> None:
    """Draws *estimates* into *path*, which is replaced."""
    check_plot(path)
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    heads = list(estimates)
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    timed = [k for k in heads if estimates[k].provenance != "estimated"]
    ms, low, high = zip(*((e.ms, e.low, e.high) for e in estimates.values()), strict=True)
    axes.fill_between(heads, low, high, color=_TIME, alpha=0.18, linewidth=0, label="80 % interval")
    axes.plot(heads, ms, color=_TIME, marker="o", markerfacecolor="white", label="estimated")
    axes.plot(timed, [estimates[k].ms for k in timed], "o", color=_TIME, label="timed")
    axes.axhline(budget_ms, color=_BUDGET, linestyle="--", label=f"budget, {budget_ms:g} ms")
    if choice is not None and choice.heads is not None:
        label = f"{'choice' if choice.sure else 'best guess'}: k = {choice.heads}"
        ring: dict[str, Any] = {"color": _BUDGET, "markersize": 15, "markerfacecolor": "none"}
        axes.plot(choice.heads, estimates[choice.heads].ms, "o", **ring, label=label)
    axes.set_yscale("log")
    plain_log_ticks(axes.yaxis)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="k, attention heads", ylabel="ms per image", title=title)
    lines, labels = axes.get_legend_handles_labels()
    accurate = [k for k in heads if k in model.accuracy]
    if accurate:
        right = axes.twinx()
        right.plot(accurate, [model.accuracy[k] for k in accurate], "s", color=_ACCURACY, label="top-1 accuracy")
        right.set_ylabel("top-1 accuracy, %", color=_ACCURACY)
        more = right.get_legend_handles_labels()
        lines, labels = [*lines, *more[0]], [*labels, *more[1]]
    figure.legend(lines, labels, loc="outside lower center", ncols=3, frameon=False)
    with files.replaced_file(path) as partial:
        figure.savefig(partial, format=path.suffix.removeprefix("."), dpi=150)
