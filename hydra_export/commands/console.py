"""What people read in a terminal or a log: the edge at which all text is made safe to show."""

from __future__ import annotations

import os
import sys
from typing import Any

from rich import console
from rich.measure import Measurement
from rich.styled import Styled
from rich.table import Table
from rich.text import Text

from hydra_export import streams
from hydra_export.text import shown

_LOG_WIDTH = 100  # of a pipe or a file, where COLUMNS is not set


class Console(console.Console):
    """Takes texts as they are, whoever wrote them: no markup, no emoji by name, nothing that steers a terminal."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Every text comes by here, of a table's cells too; line breaks are a layout's, never a text's."""
        return super().render_str(shown(text), **options)

    def print_result(self, result: console.RenderableType) -> None:
        """Prints *result*; a pipe or a file is never too narrow for it, as nobody could widen it."""
        if not self.is_terminal:
            told = os.environ.get("COLUMNS", "")
            self.width = max(int(told) if told.isdecimal() else _LOG_WIDTH, self._least_width(result))
        self.print(result)

    def _least_width(self, result: console.RenderableType) -> int:
        """Of a line that cuts no word, and no column of a table that is kept whole."""
        anywhere = self.options.update(width=sys.maxsize)
        match result:
            case console.Group():
                return max(map(self._least_width, result.renderables), default=0)
            case Styled():
                return self._least_width(result.renderable)
            case Table():
                for column in (each for each in result.columns if each.no_wrap):
                    cells = (column.header, *column.cells)
                    column.min_width = max(Measurement.get(self, anywhere, cell).maximum for cell in cells)
        return Measurement.get(self, anywhere, result).minimum

    def print(self, *objects: Any, **options: Any) -> None:
        """Prints; talk that cannot be written is not a failure."""
        streams.withdraw()
        try:
            super().print(*objects, **options)
        except OSError:
            if not self.stderr:
                raise
            streams.abandon(self.file)  # type: ignore[arg-type]
