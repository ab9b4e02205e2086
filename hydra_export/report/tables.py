"""Tables that a narrow screen scrolls on their own, with the keyboard too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hydra_export.report.markup import Markup, tag


def table(
    ident: str,
    caption: object,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    text: int = 1,
    *,
    wrapped: bool = False,
) -> Markup:
    """A table whose first column names its rows.

    Args:
        text: so many columns from the left are texts; the others are numbers, aligned at their right.
        wrapped: the texts may be long, and take several lines.
    """
    head = tag("tr", (tag("th", name, scope="col", class_=_kind(at, text)) for at, name in enumerate(columns)))
    body = (tag("tr", (_cell(at, cell, text) for at, cell in enumerate(row))) for row in rows)
    label = f"{ident}-caption"
    whole = tag(
        "table", tag("thead", head), tag("tbody", body), aria_labelledby=label, class_="wrapped" if wrapped else None
    )
    scroller = tag("div", whole, class_="scroll", role="region", tabindex=0, aria_labelledby=label)
    return tag("figure", tag("figcaption", caption, id=label), scroller, class_="table")


def folded(ident: str, summary: str, *inside: object) -> Markup:
    """Figures that few will want: closed until asked for, open in print."""
    return tag("details", tag("summary", summary), *inside, id=ident)


def _cell(at: int, cell: object, text: int) -> Markup:
    if at == 0:
        return tag("th", cell, scope="row")
    return tag("td", cell, class_=_kind(at, text))


def _kind(at: int, text: int) -> str | None:
    return "number" if at >= text else None
