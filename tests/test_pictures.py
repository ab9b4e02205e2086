"""Pictures of matplotlib: plain ticks, and texts that neither meet nor leave the picture."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="extra plot")
from matplotlib.figure import Figure

from hydra_export import pictures


@pytest.mark.parametrize(
    "span", [(0.08, 4.6), (1.0, 1e4), (1.1, 1.4), (10.2, 10.3), (0.9, 1.1), (300, 800), (1e-4, 1e9)]
)
def test_ticks_of_a_logarithmic_axis_are_a_few_plain_numbers(span: tuple[float, float]) -> None:
    figure = Figure(figsize=(4.8, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(span, span)
    axes.set_xscale("log")
    pictures.plain_log_ticks(axes.xaxis)
    figure.draw_without_rendering()
    labels = [float(tick.get_text()) for tick in axes.get_xticklabels()]
    assert 3 <= len(labels) <= 7
    assert sorted(set(labels)) == labels
    assert axes.get_xticklabels(minor=True) == []
    boxes = [tick.get_window_extent() for tick in axes.get_xticklabels()]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


@pytest.mark.parametrize("left", [False, True])
def test_names_of_crowded_points_neither_meet_nor_leave_the_picture(left: bool, tmp_path: Path) -> None:
    heads = range(1, 13)
    with pictures.drawn(tmp_path / "plot.png", "A title " * 20, panels=2) as (axes, _):
        values, names = [90 - 30 * 0.5**k for k in heads], [f"k = {k}" for k in heads]
        axes.plot(heads, values, "o-")
        pictures.label_points(axes, heads, values, names, left=left)
    figure, shown = axes.figure, [text for text in axes.texts if text.get_visible()]
    boxes = [text.get_window_extent() for text in shown]
    assert {"k = 1", "k = 12"} <= {text.get_text() for text in shown}
    assert len(shown) < len(heads)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert all(figure.bbox.containsx(x) for box in boxes for x in (box.x0, box.x1))
    title = figure._suptitle.get_window_extent()
    assert 0 <= title.x0 < title.x1 <= figure.bbox.width
