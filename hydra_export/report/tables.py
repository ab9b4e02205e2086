"""Tables, written as HTML, where a narrow screen scrolls each on its own, with the keyboard too, or as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hydra_export.report import words
from hydra_export.report.markup import Markup, tag
from hydra_export.text import in_markdown

_MOST_ROWS = 30  # of Markdown: a comment is no table of everything
_SHORT_HASH = 12


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first column names its row.

    Attributes:
        ident: unique on the page.
        text: so many columns from the left are texts; the others are numbers, aligned at their right.
        wrapped: the texts may be long, and take several lines.
        folded: if set, the table is closed until a reader opens it, and this stands in its place; open in print.
    """

    ident: str
    caption: object
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    text: int = 1
    wrapped: bool = False
    folded: str = ""

    def html(self) -> Markup:
        """A figure; folded, within details."""
        head = tag("tr", (tag("th", name, scope="col", class_=self._kind(at)) for at, name in enumerate(self.columns)))
        body = (tag("tr", (self._cell(at, cell) for at, cell in enumerate(row))) for row in self.rows)
        label = f"{self.ident}-caption"
        style = "wrapped" if self.wrapped else None
        whole = tag("table", tag("thead", head), tag("tbody", body), aria_labelledby=label, class_=style)
        scroller = tag("div", whole, class_="scroll", role="region", tabindex=0, aria_labelledby=label)
        figure = tag("figure", tag("figcaption", self.caption, id=label), scroller, class_="table")
        return folded(f"{self.ident}-folded", self.folded, figure) if self.folded else figure

    def markdown(self) -> str:
        """The caption and the table; of a folded one, what stands in its place."""
        if self.folded:
            return f"{self.folded}."
        lines = [_row(self.columns), "| --- " * len(self.columns) + "|", *map(_row, self.rows[:_MOST_ROWS])]
        more = len(self.rows) - _MOST_ROWS
        rest = [f"{more} more rows are in the HTML report."] if more > 0 else []
        return "\n\n".join([in_markdown(str(self.caption)), "\n".join(lines), *rest])

    def _cell(self, at: int, cell: object) -> Markup:
        return tag("td", cell, class_=self._kind(at)) if at else tag("th", cell, scope="row")

    def _kind(self, at: int) -> str | None:
        return "number" if at >= self.text else None


def without_unknown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> tuple[list[str], list[list[object]]]:
    """Without the columns in which nothing is known of any row."""
    kept = [at for at in range(len(columns)) if any(row[at] not in (words.UNKNOWN, words.DASH) for row in rows)]
    return [columns[at] for at in kept], [[row[at] for at in kept] for row in rows]


def folded(ident: str, summary: str, *inside: object) -> Markup:
    """Closed until a reader opens it, and open in print."""
    return tag("details", tag("summary", summary), *inside, id=ident)


def _row(cells: Iterable[object]) -> str:
    """With hashes shortened: a comment is read by people."""
    line = f"| {' | '.join(in_markdown(str(cell)) for cell in cells)} |"
    return re.sub(rf"\b([0-9a-f]{{{_SHORT_HASH}}})[0-9a-f]{{{64 - _SHORT_HASH}}}\b", r"\1", line)
