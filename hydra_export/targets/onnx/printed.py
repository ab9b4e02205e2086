"""What trtexec, onnxruntime_perf_test, benchncnn and MNN's benchmark print.

No expression here tries a letter twice: others wrote the text.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from hydra_export.errors import BadInput
from hydra_export.printed import Measured, number, positive, time_of
from hydra_export.target import ComputeUnit

if TYPE_CHECKING:
    from hydra_export.device import NumberFormat


def runs(text: str, path: Path) -> Iterator[Measured]:
    """The runs in *text*; none where it is of another tool."""
    return itertools.chain(
        _trtexec(text, path), _onnxruntime_perf_test(text, path), _benchncnn(text, path), _mnn(text, path)
    )


# trtexec: NVIDIA/TensorRT, samples/trtexec; of the times that of a whole call, copies to and from the GPU included

_TRT_RUN = re.compile(r"&&&& RUNNING TensorRT\.trtexec[^\n]*")
_TRT_LATENCY = re.compile(r"\[I\] Latency: min = [^\n]*")
_TRT_MEDIAN = re.compile(r"\bmedian = ([^\s,]+) ms")
_TRT_MODEL = re.compile(r"--(?:onnx|loadEngine)=(\S+)")
_TRT_NARROW: dict[str, NumberFormat] = {
    "--int8": "int8-static",
    "--best": "unknown",
    "--fp16": "fp16",
    "--bf16": "bf16",
}


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
            ms=time_of(_TRT_MEDIAN.search(latency[0]), f"run {count}: Latency: median", path),
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
            f"{path}: it ran with {provider[1]}ExecutionProvider, but does not state the compute unit.",
            "Pass the result of a tool that does: Qualcomm AI Hub, or bench on the device.",
        )
    yield Measured(
        tool="onnxruntime_perf_test",
        ms=1e3 * time_of(_ORT_MIDDLE.search(text), "P50 Latency", path),
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
            ms=positive(number(mean), f"{name[:80]}: avg", path),
            statistic="mean",
            unit="cpu" if on_cpu else "gpu",
            graph=PurePosixPath(name).name,
            precision="fp16",  # how it keeps weights and tensors, wherever the processor can
            threads=asked["num_threads"] if on_cpu else None,
        )


# benchmark.out: alibaba/MNN, benchmark/benchmark.cpp, times in ms; older ones put asterisks into the line of what is
# asked for

_MNN_ASKED = re.compile(r"^Forward type: \**(\w{1,20}|N/A)\** thread=(\d{1,4})\** precision=(\d)", re.MULTILINE)
_MNN_RUN = re.compile(r"^\[ - \] (\S+) +max = [^\n]* avg = +(\S+?) ?ms$", re.MULTILINE)
_MNN_UNITS: dict[str, ComputeUnit] = {"CPU": "cpu", "Vulkan": "gpu", "OpenCL": "gpu", "Metal": "gpu"}
_MNN_LOW, _MNN_QUANTIZED = "2", "quant-"


def _mnn(text: str, path: Path) -> Iterator[Measured]:
    asked = _MNN_ASKED.search(text)
    if not asked:
        return
    unit = _MNN_UNITS.get(asked[1])
    if unit is None:
        raise BadInput(
            f"{path}: Forward type: {asked[1]} is not one of {', '.join(_MNN_UNITS)}.",
            "Pass the result of a tool that states the compute unit.",
        )
    for name, mean in _MNN_RUN.findall(text):
        quantized = name.startswith(_MNN_QUANTIZED)
        yield Measured(
            tool="MNN's benchmark",
            ms=positive(number(mean), f"{name[:80]}: avg", path),
            statistic="mean",
            unit=unit,
            graph=name.removeprefix(_MNN_QUANTIZED),
            precision="int8" if quantized else "fp16" if asked[3] == _MNN_LOW else "fp32",  # where it can
            threads=int(asked[2]) if unit == "cpu" else None,
        )
