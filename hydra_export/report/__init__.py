"""Reports: what is in a bundle, what it costs, and what changed, as one HTML page or as Markdown."""

from __future__ import annotations

from hydra_export.report.as_html import page
from hydra_export.report.as_markdown import markdown
from hydra_export.report.findings import Findings, document, gather
from hydra_export.report.output import check_replaceable, write

__all__ = ["Findings", "check_replaceable", "document", "gather", "markdown", "page", "write"]
