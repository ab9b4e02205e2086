"""What benchmark_litert_model writes as JSON (its ``--result_json``): google-ai-edge/LiteRT, litert/python/tools."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from hydra_export.errors import BadInput
from hydra_export.printed import Measured, around, positive
from hydra_export.target import ComputeUnit

_UNITS: dict[str, ComputeUnit] = {"NPU": "npu", "GPU": "gpu", "CPU": "cpu"}  # it takes the first that a model allows


def runs(document: Any, path: Path) -> Iterator[Measured]:
    """The run in *document*; none where it is of another tool."""
    if not isinstance(document, dict) or not {"accelerators", "latency"} <= document.keys():
        return
    latency, threads, listed = document["latency"], document.get("num_threads"), document["accelerators"]
    if not isinstance(latency, dict):
        raise BadInput(f"{path}: latency: is not a table.", "Pass the file unchanged.")
    unit = next((_UNITS[one] for one in _UNITS if one in listed), None) if isinstance(listed, list) else None
    if unit is None:
        raise BadInput(f"{path}: accelerators: {str(listed)[:80]} lists none of NPU, GPU and CPU.", "")
    ms = positive(latency.get("median_ms"), "latency.median_ms", path)
    deviation = latency.get("std_ms") or 0
    low, high = around(ms, positive(deviation, "latency.std_ms", path)) if deviation != 0 else (None, None)
    yield Measured(
        tool="benchmark_litert_model",
        ms=ms,
        low=low,
        high=high,
        statistic="median",
        unit=unit,
        graph=PurePosixPath(str(document.get("model", ""))).name,
        threads=threads if unit == "cpu" and isinstance(threads, int) and 0 < threads < 10_000 else None,
        note="part of it ran on the CPU" if unit != "cpu" and document.get("fully_accelerated") is False else "",
    )
