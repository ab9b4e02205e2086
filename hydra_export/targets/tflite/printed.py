"""What benchmark_model and benchmark_litert_model print. No expression here tries a letter twice: others wrote it."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from hydra_export.errors import BadInput
from hydra_export.printed import Measured, around, number, positive, time_of
from hydra_export.target import ComputeUnit

if TYPE_CHECKING:
    from hydra_export.device import Statistic

# benchmark_model: tensorflow/lite/tools/benchmark, times in us, one or several runs in one file

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
    return itertools.chain(_benchmark_model(text, path), _benchmark_litert_model(text, path))


def _benchmark_model(text: str, path: Path) -> Iterator[Measured]:
    begins, count = 0, 0
    marks = [*_TIMINGS.finditer(text), None]
    for timings, after in itertools.pairwise(marks):
        if timings is not None and timings[1] is not None:
            count += 1
            yield _run(text[begins : after.start() if after else len(text)], timings, f"run {count}", path)
            begins = timings.end()


def _run(text: str, timings: re.Match[str], which: str, path: Path) -> Measured:
    ms = time_of(_MEAN.search(timings[1]), f"{which}: Inference (avg)", path) / 1e3
    low = high = None
    statistic: Statistic = "mean"
    counted = _counted(text)
    if middle := counted.get("median"):
        ms, statistic = positive(number(middle), f"{which}: median", path) / 1e3, "median"
    if (deviation := counted.get("std")) and number(deviation) != 0:
        low, high = around(ms, positive(number(deviation), f"{which}: std", path) / 1e3)
    threads, graph, peaks = _THREADS.search(text), _GRAPH.search(text), _PEAK.findall(text)
    peak = number(peaks[-1]) if peaks else 0.0
    if isinstance(peak, str) or not math.isfinite(peak):
        raise BadInput(f"{path}: {which}: memory footprint: {peak} is not a number.", "Pass the file unchanged.")
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


# benchmark_litert_model: google-ai-edge/LiteRT, litert/tools/benchmark_litert_model.h and its namesake in
# litert/python/tools, times in ms. The first says nothing of an NPU but the library that it looked for.

_AVERAGE = re.compile(r"Inference \(avg\): +(\S{1,40}) ms \(\d{1,9} runs\)")
_MORE = re.compile(r"Inference \((median|std)\): +(\S{1,40})")
_MODEL = re.compile(r"(?:Loading model from: |\bModel: +)(\S[^\n]*)")
_NUM_THREADS = re.compile(r"Num threads: +(\d{1,4})\b")
_ACCELERATOR = re.compile(r"Accelerators: +(NPU|GPU|CPU)\b")
_ACCELERATORS: dict[str, ComputeUnit] = {"NPU": "npu", "GPU": "gpu", "CPU": "cpu"}
_NPU = "dispatch_library_path: "  # printed where it was asked to use one
_MEMORY = re.compile(r"(?:Peak memory|Overall footprint): +(\S{1,40}) MB")
_RESULTS = "BENCHMARK RESULTS"


def _benchmark_litert_model(text: str, path: Path) -> Iterator[Measured]:
    averages, begins = [*_AVERAGE.finditer(text)], 0
    for count, (average, after) in enumerate(itertools.pairwise([*averages, None]), start=1):
        assert average is not None
        said, end = text[begins : average.start()], after.start() if after else len(text)
        results = text[average.end() : end].partition(_RESULTS)[0]
        begins = average.end()
        yield _litert_run(said, average, results, f"run {count}", path)


def _litert_run(said: str, average: re.Match[str], results: str, which: str, path: Path) -> Measured:
    """*said*: before the *results*, which follow the *average*."""
    more = dict(reversed(_MORE.findall(results)))
    statistic: Statistic = "median" if "median" in more else "mean"
    ms = time_of(average, f"{which}: Inference (avg)", path)
    ms = positive(number(more["median"]), f"{which}: Inference (median)", path) if "median" in more else ms
    deviation, low, high = number(more.get("std", "0")), None, None
    if deviation != 0:
        low, high = around(ms, positive(deviation, f"{which}: Inference (std)", path))
    model, accelerators = _MODEL.findall(said), _ACCELERATOR.findall(said)
    threads = _NUM_THREADS.findall(said) or _THREADS.findall(said)
    peaks = [peak for peak in map(number, _MEMORY.findall(results)) if isinstance(peak, float) and 0 < peak < math.inf]
    unit: ComputeUnit = _ACCELERATORS[accelerators[-1]] if accelerators else "npu" if _NPU in said else "cpu"
    if unit == "cpu":
        unit = next((unit for pattern, unit in _DELEGATES.items() if re.search(pattern, said)), "cpu")
    return Measured(
        tool="benchmark_litert_model",
        ms=ms,
        low=low,
        high=high,
        statistic=statistic,
        unit=unit,
        graph=PurePosixPath(model[-1].strip()).name if model else "",
        threads=int(threads[-1]) if threads and unit == "cpu" else None,
        peak_memory_mb=peaks[-1] if peaks else None,
        note="part of it ran on the CPU" if unit != "cpu" and "Fully accelerated: False" in said else "",
    )
