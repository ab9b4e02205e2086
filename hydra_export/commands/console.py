"""What people read in a terminal or a log: the edge at which all text is made safe to show."""

from __future__ import annotations

from typing import Any

from rich import console
from rich.text import Text

from hydra_export import streams
from hydra_export.text import shown


class Console(console.Console):
    """Takes texts as they are, whoever wrote them: no markup, no emoji by name, nothing that steers a terminal."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Every text comes by here, of a table's cells too; line breaks are a layout's, never a text's."""
        return super().render_str(shown(text), **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Prints; talk that nobody can be told is no failure."""
        try:
            super().print(*objects, **options)
        except OSError:
            if not self.stderr:
                raise
            streams.abandon(self.file)  # type: ignore[arg-type]
