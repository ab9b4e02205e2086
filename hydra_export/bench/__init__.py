"""Measuring artifacts: here, on a board, with others' tools; comparing and keeping what was measured."""

from __future__ import annotations

from hydra_export.bench import browser
from hydra_export.bench.browser import BrowserRecord
from hydra_export.bench.compare import Comparison, compare
from hydra_export.bench.foreign import Asked, read_results
from hydra_export.bench.foreign import sources as foreign_sources
from hydra_export.bench.report import Report, Timing, check_model, decode, read
from hydra_export.bench.run import bench, not_timed
from hydra_export.bench.save import records, save
from hydra_export.bench.standalone import runs_on_boards, write_standalone

__all__ = [
    "Asked",
    "BrowserRecord",
    "Comparison",
    "Report",
    "Timing",
    "bench",
    "browser",
    "check_model",
    "compare",
    "decode",
    "foreign_sources",
    "not_timed",
    "read",
    "read_results",
    "records",
    "runs_on_boards",
    "save",
    "write_standalone",
]
