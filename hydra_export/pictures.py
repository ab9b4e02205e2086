"""The one style of the pictures that matplotlib draws, which is imported where one is drawn (extra plot)."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra_export import files
from hydra_export.errors import BadInput, MissingExtra

FORMATS = ("png", "svg", "pdf")
BLUE, ORANGE, GREEN, VIOLET, OCHRE, RED = "#0a62b0", "#b34a00", "#00755a", "#7a3fa8", "#6b5900", "#a8321e"  # as reports
INK, _MUTED, _GRID = "#1b1f24", "#57606a", "#e6e9ed"
_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": _MUTED,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "axes.titleweight": "bold",
    "errorbar.capsize": 2,
    "figure.titlesize": "medium",
    "figure.titleweight": "bold",
    "font.size": 10,
    "grid.color": _GRID,
    "legend.frameon": False,
    "lines.linewidth": 1.75,
    "lines.markersize": 5,
    "svg.fonttype": "none",
    "svg.hashsalt": "hydra-export",
    "text.color": INK,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
}
_LOG_STEPS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7))
_FEWEST_TICKS, _MOST_TICKS = 4, 7
_LETTERS_PER_INCH = 10  # of a title
_APART = 3  # pixels, around a text beside a point


def check(path: Path) -> None:
    """Raises BadInput for a file that cannot be drawn, MissingExtra where matplotlib is not installed."""
    if path.suffix.removeprefix(".") not in FORMATS:
        raise BadInput(f"`plot` {path}: this is not a known kind of picture.", f"Use .{', .'.join(FORMATS)}.")
    try:
        import matplotlib as _  # noqa: F401 (asked for, not used here)
    except ImportError:
        raise MissingExtra("`plot`", "matplotlib", "plot") from None


@contextmanager
def drawn(path: Path, title: str, panels: int = 1, *, share_y: bool = False) -> Iterator[Sequence[Any]]:
    """*panels* side by side, as matplotlib's Axes, to draw on; then they are in *path*, which is replaced."""
    check(path)
    from cycler import cycler
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE | {"axes.prop_cycle": cycler(color=[BLUE, ORANGE, GREEN, VIOLET, OCHRE, RED])}):
        figure = Figure(figsize=(6.4 if panels == 1 else 4.8 * panels, 4), layout="constrained")
        figure.suptitle(textwrap.fill(title, int(_LETTERS_PER_INCH * figure.get_figwidth())))
        yield figure.subplots(1, panels, squeeze=False, sharey=share_y)[0]
        kind = path.suffix.removeprefix(".")
        with files.replaced_file(path) as partial:
            figure.savefig(partial, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)


def plain_log_ticks(axis: Any) -> None:
    """A few plain numbers along a logarithmic *axis* that is drawn on already, whatever it spans."""
    from matplotlib.ticker import FixedLocator, FuncFormatter

    axis.set_major_locator(FixedLocator(_log_ticks(*axis.get_view_interval())))
    axis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:.4g}"))
    axis.set_minor_locator(FixedLocator([]))


def _log_ticks(low: float, high: float) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    decades = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    for steps in _LOG_STEPS:
        ticks = [step * decade for decade in decades for step in steps if low <= step * decade <= high]
        if len(ticks) >= _FEWEST_TICKS:
            return ticks[:: math.ceil(len(ticks) / _MOST_TICKS)]
    near = MaxNLocator(_FEWEST_TICKS + 1).tick_values(low, high)  # less than a factor of two
    return [float(tick) for tick in near if low <= tick <= high]


def label_points(
    axes: Any,
    xs: Sequence[float],
    ys: Sequence[float],
    texts: Sequence[str],
    *,
    left: bool = False,
    above: bool = False,
) -> None:
    """A text beside each point, on the side that the line leaves free; none where it would meet another."""
    across: dict[str, Any] = {"ha": "right"} if left else {"ha": "left"}
    upright: dict[str, Any] = {"va": "bottom"} if above else {"va": "top"}
    offset = (-6 if left else 6, 3 if above else -3)
    axes.margins(x=0.15, y=0.15)
    labels = [
        axes.annotate(text, (x, y), offset, textcoords="offset points", fontsize="small", **across, **upright)
        for x, y, text in zip(xs, ys, texts, strict=True)
    ]
    axes.figure.draw_without_rendering()
    kept: list[Any] = []
    for label in dict.fromkeys([*labels[-1:], *labels]):  # the largest first: where points crowd, others go without
        box = label.get_window_extent().padded(_APART)
        label.set_visible(not box.count_overlaps(kept))
        kept += [box] if label.get_visible() else []
