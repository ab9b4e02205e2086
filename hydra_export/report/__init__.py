"""Reports: what is in a bundle, what it costs, and what changed, as one HTML page or as Markdown."""

from __future__ import annotations

from hydra_export.report.gather import Findings, gather
from hydra_export.report.markdown import markdown
from hydra_export.report.page import page
from hydra_export.report.write import check_replaceable, write

__all__ = ["Findings", "check_replaceable", "gather", "markdown", "page", "write"]
