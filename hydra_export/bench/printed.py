"""What tools print that time one file on a device: benchmark_model, trtexec, onnxruntime_perf_test, benchncnn.

No expression here tries a letter twice: others wrote the text.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hydra_export.device import NumberFormat, Ops, Statistic
from hydra_export.errors import BadInput
from hydra_export.target import ComputeUnit

_LONGEST_NUMBER = 40  # letters
_Z_80 = 1.2816  # standard deviations on each side of 80 %


@dataclass(frozen=True)
class Measured:
    """One time, as the *tool* told it; *graph* is the file's name, empty where it does not say."""

    tool: str
    ms: float
    statistic: Statistic
    unit: ComputeUnit
    low: float | None = None
    high: float | None = None
    graph: str = ""
    precision: NumberFormat | None = None
    threads: int | None = None
    peak_memory_mb: float | None = None
    ops: Ops | None = None
    note: str = ""


def runs(text: str, path: Path) -> Iterator[Measured]:
    """The runs of the first tool that *text* is of; nothing where it is of none."""
    for read in TOOLS.values():
        found = read(text, path)
        if first := next(found, None):
            return itertools.chain([first], found)
    return iter(())


def positive(value: object, name: str, path: Path) -> float:
    """The number *value*; BadInput naming *name* in *path* where it is none above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise BadInput(f"{path}: {name}: {str(value)[:80]} is not a number above 0.", "Give the file unchanged.")
    return float(value)


def _number(text: str) -> float | str:
    """What *text* says, or the text itself where that is no number."""
    try:
        return float(text) if len(text) < _LONGEST_NUMBER else text
    except ValueError:
        return text


def _time(found: re.Match[str] | None, name: str, path: Path) -> float:
    """What the first group of *found* says."""
    return positive(_number(found[1]) if found else None, name, path)


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


def _benchmark_model(text: str, path: Path) -> Iterator[Measured]:
    begins, count = 0, 0
    marks = [*_TIMINGS.finditer(text), None]
    for timings, after in itertools.pairwise(marks):
        if timings is not None and timings[1] is not None:
            count += 1
            yield _litert_run(text[begins : after.start() if after else len(text)], timings, f"run {count}", path)
            begins = timings.end()


def _litert_run(text: str, timings: re.Match[str], which: str, path: Path) -> Measured:
    ms = _time(_MEAN.search(timings[1]), f"{which}: Inference (avg)", path) / 1e3
    low = high = None
    statistic: Statistic = "mean"
    counted = _counted(text)
    if middle := counted.get("median"):
        ms, statistic = positive(_number(middle), f"{which}: median", path) / 1e3, "median"
    if (deviation := counted.get("std")) and _number(deviation) != 0:
        spread = _Z_80 * positive(_number(deviation), f"{which}: std", path) / 1e3
        low, high = max(ms - spread, ms / 10), ms + spread
    threads, graph, peaks = _THREADS.search(text), _GRAPH.search(text), _PEAK.findall(text)
    peak = _number(peaks[-1]) if peaks else 0.0
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


# trtexec: NVIDIA/TensorRT, samples/trtexec; of the times that of a whole call, copies to and from the GPU included

_TRT_RUN = re.compile(r"&&&& RUNNING TensorRT\.trtexec[^\n]*")
_TRT_LATENCY = re.compile(r"\[I\] Latency: min = [^\n]*")
_TRT_MEDIAN = re.compile(r"\bmedian = ([^\s,]+) ms")
_TRT_MODEL = re.compile(r"--(?:onnx|loadEngine)=(\S+)")
_TRT_NARROW: dict[str, NumberFormat] = {"--int8": "int8", "--best": "unknown", "--fp16": "fp16", "--bf16": "bf16"}


def _trtexec(text: str, path: Path) -> Iterator[Measured]:
    begins = 0
    for count, latency in enumerate(_TRT_LATENCY.finditer(text), start=1):
        asked = _TRT_RUN.search(text, begins, latency.start())
        words = asked[0].split() if asked else []
        model = _TRT_MODEL.search(asked[0]) if asked else None
        precision: NumberFormat = next((narrow for flag, narrow in _TRT_NARROW.items() if flag in words), "fp32")
        begins = latency.end()
        yield Measured(
            tool="trtexec",
            ms=_time(_TRT_MEDIAN.search(latency[0]), f"run {count}: Latency: median", path),
            statistic="median",
            unit="gpu",
            graph=PurePosixPath(model[1]).name if model else "",
            precision=precision if asked else None,
        )


# onnxruntime_perf_test: microsoft/onnxruntime, onnxruntime/test/perftest, times in seconds; it does not name the file

_ORT_TOTAL = re.compile(r"Total inference requests: |Total iterations: ")
_ORT_MIDDLE = re.compile(r"\bP50 Latency(?: is|:) ([^\s,]+)")
_ORT_THREADS = re.compile(r"Setting intra_op_num_threads to (\d{1,4})\b")
_ORT_PROVIDER = re.compile(r"\b[Uu]sing (\w{1,40})ExecutionProvider")
_ORT_PEAK = re.compile(r"Peak working set size: (\d{1,15}) bytes")
_ORT_UNITS: dict[str, ComputeUnit] = {
    "CUDA": "gpu",
    "Tensorrt": "gpu",
    "TensorRT": "gpu",
    "WebGpu": "gpu",
    "CPU": "cpu",
}


def _onnxruntime_perf_test(text: str, path: Path) -> Iterator[Measured]:
    if not _ORT_TOTAL.search(text):
        return
    provider, threads, peak = (each.search(text) for each in (_ORT_PROVIDER, _ORT_THREADS, _ORT_PEAK))
    unit = _ORT_UNITS.get(provider[1]) if provider else "cpu"
    if unit is None:
        assert provider
        raise BadInput(
            f"{path}: it ran with {provider[1]}ExecutionProvider, of which it does not say on which compute unit.",
            "Give the result of a tool that says it: Qualcomm AI Hub, or bench on the device.",
        )
    yield Measured(
        tool="onnxruntime_perf_test",
        ms=1e3 * _time(_ORT_MIDDLE.search(text), "P50 Latency", path),
        statistic="median",
        unit=unit,
        threads=int(threads[1]) if threads and unit == "cpu" else None,
        peak_memory_mb=int(peak[1]) / 1e6 if peak else None,
    )


# benchncnn: Tencent/ncnn, benchmark/benchncnn.cpp, times in ms; a line for each network

_NCNN_ASKED = re.compile(r"^(num_threads|gpu_device) = (-?\d{1,4})$", re.MULTILINE)
_NCNN_RUN = re.compile(r"^ *(\S+)  min = +[^\n]* avg = +([^\s]+)$", re.MULTILINE)


def _benchncnn(text: str, path: Path) -> Iterator[Measured]:
    asked = {name: int(number) for name, number in _NCNN_ASKED.findall(text)}
    if asked.keys() != {"num_threads", "gpu_device"}:
        return
    on_cpu = asked["gpu_device"] < 0
    for name, mean in _NCNN_RUN.findall(text):
        yield Measured(
            tool="benchncnn",
            ms=positive(_number(mean), f"{name[:80]}: avg", path),
            statistic="mean",
            unit="cpu" if on_cpu else "gpu",
            graph=PurePosixPath(name).name,
            precision="fp16",  # how it keeps weights and tensors, wherever the processor can
            threads=asked["num_threads"] if on_cpu else None,
        )


TOOLS: Mapping[str, Callable[[str, Path], Iterator[Measured]]] = {
    "benchmark_model": _benchmark_model,
    "trtexec": _trtexec,
    "onnxruntime_perf_test": _onnxruntime_perf_test,
    "benchncnn": _benchncnn,
}
