"""The charts, as inline SVG: a title and a description for who cannot see them, colours from the page's style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hydra_export.latency import Advice
from hydra_export.latency.words import evidence
from hydra_export.report import words
from hydra_export.report.markup import Markup, tag
from hydra_export.report.scale import Scale, apart, over

# The same on a phone and on a desk, where several stand side by side: letters keep their size.
_WIDTH, _HEIGHT = 380, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 58, 26, 44
_GAP = 14  # between the lines of text
_ROW = 30  # of an interval
# A filled disc, and larger hollow shapes around it: marks at one place are all seen.
_HOLLOW = {"square": "m-5.5 -5.5h11v11h-11z", "diamond": "m0 -9l9 9l-9 9l-9 -9z", "triangle": "m0 -12l11 18h-22z"}
SHAPES = ("disc", *_HOLLOW)


@dataclass(frozen=True)
class Point:
    """One mark: *text* is its tooltip; *low* and *high* of x, where there is an interval."""

    x: float
    y: float
    text: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """Marks that belong together; *precision* gives their colour and line, *shape*, one of SHAPES, their form."""

    precision: str
    shape: str
    points: tuple[Point, ...]


def scatter(
    ident: str, title: str, description: str, series: Sequence[Series], levels: Mapping[int, float], x_title: str
) -> Markup:
    """Top-1 over something; *levels*: the accuracy of each head count, which the right edge names."""
    points = [point for each in series for point in each.points]
    values = [v for p in points for v in (p.x, p.low, p.high) if v is not None]
    x = over(values, _LEFT, _WIDTH - _RIGHT, from_zero=True)
    y = over([*(p.y for p in points), *levels.values()], _HEIGHT - _BOTTOM, _TOP)
    axes = [*_x_axis(x, x_title), *_y_axis(y), *_levels(levels, y)]
    lines = [_line(each, x, y) for each in series]
    marks = [_mark(each, point, x, y) for each in series for point in each.points]
    return _figure(ident, title, description, (_WIDTH, _HEIGHT), axes, lines, marks)


def intervals(ident: str, title: str, advice: Advice) -> Markup:
    """Times of one device, a row for each head count, against the budget."""
    rows, limit_ms = advice.estimates, advice.budget.ms
    texts = {
        k: f"k = {k}: {words.milliseconds(e.ms)}, {words.interval(e.low, e.high)}, {evidence(e.provenance)}"
        for k, e in rows.items()
    }
    description = f"{'; '.join(texts.values())}; budget {words.milliseconds(limit_ms)}."
    top = 30  # below the budget's name
    height = top + _ROW * len(rows) + _BOTTOM
    left, right, bottom = 62, 14, height - _BOTTOM
    values = [limit_ms, *(end for row in rows.values() for end in (row.low, row.high))]
    x = over(values, left, _WIDTH - right, from_zero=True)
    drawn = []
    for at, (k, row) in enumerate(rows.items()):
        middle = top + _ROW * (at + 0.5)
        chosen = k == advice.heads
        drawn += [
            tag(
                "g",
                tag("title", texts[k]),
                tag("text", f"k = {k}", x=left - 8, y=_n(middle + 4), class_="end strong" if chosen else "end"),
                tag("line", x1=_n(x(row.low)), x2=_n(x(row.high)), y1=_n(middle), y2=_n(middle), class_="span"),
                tag("circle", cx=_n(x(row.ms)), cy=_n(middle), r=5, class_="chosen" if chosen else "centre"),
                class_="row",
            )
        ]
    budget = x(limit_ms)
    near_end = budget > _WIDTH - 110
    limit = [
        tag("line", x1=_n(budget), x2=_n(budget), y1=top - 12, y2=bottom, class_="budget"),
        tag(
            "text",
            f"budget {words.milliseconds(limit_ms)}",
            x=_n(budget + (-5 if near_end else 5)),
            y=top - 8,
            class_="budget-text end" if near_end else "budget-text",
        ),
    ]
    axis = _x_axis(x, "milliseconds per image", top=top, bottom=bottom)
    return _figure(ident, title, description, (_WIDTH, height), axis, limit, drawn)


def line_swatch(precision: str) -> Markup:
    """What a precision looks like, for the legend."""
    return _swatch(tag("line", x1=1, x2=27, y1=10, y2=10, class_=f"line {precision}"))


def mark_swatch(shape: str) -> Markup:
    """What a shape looks like, for the legend."""
    return _swatch(_shape(shape, 14, 12 if shape == "triangle" else 10, "mark any"))


def _swatch(sign: Markup) -> Markup:
    return tag("svg", sign, viewBox="0 0 28 20", width=28, height=20, class_="swatch", aria_hidden="true")


def bar(part: float, failed: bool) -> Markup:
    """A share of what is allowed, under its number."""
    filled = _n(max(1.0, 56 * min(part, 1.0)))
    track = tag("rect", x=0, y=0, width=56, height=5, class_="track")
    share = tag("rect", x=0, y=0, width=filled, height=5, class_="over" if failed else "filled")
    return tag("svg", track, share, viewBox="0 0 56 5", width=56, height=5, class_="bar", aria_hidden="true")


def _figure(ident: str, title: str, description: str, size: tuple[int, int], *parts: object) -> Markup:
    return tag(
        "svg",
        tag("title", title, id=f"{ident}-title"),
        tag("desc", description, id=f"{ident}-desc"),
        *parts,
        viewBox=f"0 0 {size[0]} {size[1]}",
        role="img",
        aria_labelledby=f"{ident}-title {ident}-desc",
        class_="chart",
    )


def _x_axis(x: Scale, title: str, top: float = _TOP, bottom: float = _HEIGHT - _BOTTOM) -> list[Markup]:
    drawn = [tag("line", x1=_n(x.start), x2=_n(x.end), y1=_n(bottom), y2=_n(bottom), class_="axis")]
    for tick in x.ticks(4):
        at = _n(x(tick))
        drawn += [
            tag("line", x1=at, x2=at, y1=_n(top), y2=_n(bottom), class_="grid"),
            tag("text", _plain(tick), x=at, y=_n(bottom + 16), class_="middle muted"),
        ]
    note = f"{title}, logarithmic" if x.logarithmic else title
    return [*drawn, tag("text", note, x=_n((x.start + x.end) / 2), y=_n(bottom + 35), class_="middle")]


def _y_axis(y: Scale) -> list[Markup]:
    drawn = [tag("text", "top-1, %", x=0, y=_TOP - 12, class_="muted")]
    for tick in y.ticks(4):
        at = y(tick)
        drawn += [
            tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=_n(at), y2=_n(at), class_="grid"),
            tag("text", _plain(tick), x=_LEFT - 6, y=_n(at + 4), class_="end muted"),
        ]
    return drawn


def _levels(levels: Mapping[int, float], y: Scale) -> list[Markup]:
    """Head counts at the right edge, at their accuracy, moved apart where they would touch."""
    edge, drawn = _WIDTH - _RIGHT, []
    for k, place in _named(levels, y).items():
        at = y(levels[k])
        drawn += [
            tag("path", d=f"M{edge} {_n(at)}L{edge + 10} {_n(place)}h3", class_="leader"),
            tag("text", f"k = {k}", x=edge + 16, y=_n(place + 4)),
        ]
    return drawn


def _named(levels: Mapping[int, float], y: Scale) -> dict[int, float]:
    """The head counts to name and the places of their names: none is moved far, the ends and the best come first."""
    ends = (max(levels), min(levels), max(levels, key=lambda k: (levels[k], -k)))
    placed: dict[int, float] = {}
    for k in dict.fromkeys([*ends, *sorted(levels)]):
        ordered = sorted([*placed, k], key=lambda each: (y(levels[each]), -each))
        places = apart([y(levels[each]) for each in ordered], _GAP, y.end, y.start)
        moved = max(abs(place - y(levels[each])) for each, place in zip(ordered, places, strict=True))
        if moved <= _GAP:
            placed = dict(zip(ordered, places, strict=True))
    return placed


def _line(series: Series, x: Scale, y: Scale) -> Markup | None:
    if len(series.points) < 2:
        return None
    path = "L".join(f"{_n(x(point.x))} {_n(y(point.y))}" for point in series.points)
    return tag("path", d=f"M{path}", class_=f"line {series.precision}")


def _mark(series: Series, point: Point, x: Scale, y: Scale) -> Markup:
    at, level = x(point.x), y(point.y)
    reach = None
    if point.low is not None and point.high is not None:
        ends = {"x1": _n(x(point.low)), "x2": _n(x(point.high))}
        reach = tag("line", **ends, y1=_n(level), y2=_n(level), class_=f"reach {series.precision}")
    mark = _shape(series.shape, at, level, f"mark {series.precision}")
    return tag("g", tag("title", point.text), reach, mark)


def _shape(shape: str, x: float, y: float, styled: str) -> Markup:
    if shape in _HOLLOW:
        return tag("path", d=f"M{_n(x)} {_n(y)}{_HOLLOW[shape]}", class_=f"{styled} hollow")
    return tag("circle", cx=_n(x), cy=_n(y), r=4, class_=styled)


def _n(value: float) -> str:
    """A coordinate: a tenth of a pixel is enough."""
    return f"{value:.1f}".removesuffix(".0")


def _plain(value: float) -> str:
    return f"{value:.6g}"
