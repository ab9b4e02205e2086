"""What TensorFlow's benchmark_model prints. No expression here tries a letter twice: others wrote the text."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from hydra_export.errors import BadInput
from hydra_export.printed import Measured, number, positive, time_of
from hydra_export.target import ComputeUnit

if TYPE_CHECKING:
    from hydra_export.device import Statistic

# benchmark_model: tensorflow/lite/tools/benchmark, times in us, one or several runs in one file

_Z_80 = 1.2816  # standard deviations on each side of 80 %
_TIMINGS = re.compile(r"Inference timings in us:(.*)|STARTING!")
_MEAN = re.compile(r"Inference \(avg\): *([^\s,]+)")
_GRAPH = re.compile(r"\bGraph: \[([^\[\]\n]+)\]")
_THREADS = re.compile(r"(?:Num threads: \[|#threads used for CPU inference: \[)(\d{1,4})\]")
_PEAK = re.compile(r"(?:periodic monitoring: |\boverall=)([^\s,]+)")
_PARTLY = re.compile(r"\bpartially executed by the delegate")
_DELEGATES: dict[str, ComputeUnit] = {
    r"\bUse gpu: \[1\]|Explicitly applied GPU delegate": "gpu",
    r"\bUse NNAPI: \[1\]|Explicitly applied (?:NNAPI|EXTERNAL|Hexagon) delegate": "npu",
    r"External delegate path: \[[^\[\]\n]+\]": "npu",
}


def runs(text: str, path: Path) -> Iterator[Measured]:
    """The runs in *text*; none where it is of another tool."""
    begins, count = 0, 0
    marks = [*_TIMINGS.finditer(text), None]
    for timings, after in itertools.pairwise(marks):
        if timings is not None and timings[1] is not None:
            count += 1
            yield _litert_run(text[begins : after.start() if after else len(text)], timings, f"run {count}", path)
            begins = timings.end()


def _litert_run(text: str, timings: re.Match[str], which: str, path: Path) -> Measured:
    ms = time_of(_MEAN.search(timings[1]), f"{which}: Inference (avg)", path) / 1e3
    low = high = None
    statistic: Statistic = "mean"
    counted = _counted(text)
    if middle := counted.get("median"):
        ms, statistic = positive(number(middle), f"{which}: median", path) / 1e3, "median"
    if (deviation := counted.get("std")) and number(deviation) != 0:
        spread = _Z_80 * positive(number(deviation), f"{which}: std", path) / 1e3
        low, high = max(ms - spread, ms / 10), ms + spread
    threads, graph, peaks = _THREADS.search(text), _GRAPH.search(text), _PEAK.findall(text)
    peak = number(peaks[-1]) if peaks else 0.0
    if isinstance(peak, str) or not math.isfinite(peak):
        raise BadInput(f"{path}: {which}: memory footprint: {peak} is not a number.", "Give the file unchanged.")
    unit: ComputeUnit = next((unit for said, unit in _DELEGATES.items() if re.search(said, text)), "cpu")
    return Measured(
        tool="benchmark_model",
        ms=ms,
        low=low,
        high=high,
        statistic=statistic,
        unit=unit,
        graph=PurePosixPath(graph[1]).name if graph else "",
        threads=int(threads[1]) if threads and unit == "cpu" else None,
        peak_memory_mb=peak if peak > 0 else None,  # a difference, or -1 where it was not watched
        note="part of it ran on the CPU" if _PARTLY.search(text) else "",
    )


def _counted(text: str) -> Mapping[str, str]:
    """The last line of ``count=50 first=... avg=... std=...``, empty where there is none."""
    for line in reversed(text.split("\n")):
        if "count=" in line and "std=" in line:
            fields = {name: value for name, sign, value in (word.partition("=") for word in line.split()) if sign}
            if fields.get("count", "").isdecimal() and {"avg", "std"} <= fields.keys():
                return fields
    return {}
