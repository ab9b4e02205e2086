"""Writing a report: whole or not at all, and never over what is not a report of ours."""

from __future__ import annotations

import os
from pathlib import Path

from hydra_export import files
from hydra_export.errors import OutputRefused
from hydra_export.report import as_html, as_markdown

_HEAD_BYTES = 4096  # the mark stands in front of all that others wrote


def check_replaceable(out: Path) -> None:
    """Refuses an output path that holds anything but nothing or a report of ours."""
    remedy = "Choose another `out`, or move it away yourself."
    if not os.path.lexists(out):
        return
    if not out.is_file():
        what = "a folder" if out.is_dir() else "a broken link" if out.is_symlink() else "no file"
        raise OutputRefused(f"{out} is {what}.", remedy)
    with files.refusing(out), files.opened(out) as file:
        head = file.read(_HEAD_BYTES)
    is_page = head.startswith(b"<!doctype html>\n") and as_html.MARK.encode() in head
    if not (is_page or head.startswith(as_markdown.MARK.encode())):
        raise OutputRefused(f"{out} is not a hydra-export report and would be overwritten.", remedy)


def write(out: Path, text: str) -> None:
    """Replaces *out*."""
    check_replaceable(out)
    with files.replaced_file(out) as partial:
        partial.write_text(text, encoding="utf-8")
