"""What tools printed that time one file."""

from __future__ import annotations

import json
import re
from pathlib import Path

from hydra_export import bench
from hydra_export.bench import Asked
from hydra_export.latency import REFERENCE
from tests.fuzz import trees
from tests.fuzz.reader import Random, Reader
from tests.test_foreign_results import (
    BENCHMARK_LITERT_MODEL,
    BENCHMARK_MODEL,
    BENCHNCNN,
    LITERT_JSON,
    LITERT_PYTHON,
    MINIBENCH,
    MNN,
    PERF_TEST,
    TRTEXEC,
)

_MOST_LETTERS = 300_000
_ASKED = Asked(model=REFERENCE, named=REFERENCE.name, graphs={}, heads=6, date="2026-02-03")
_WORDS = [
    "count=1 ",
    "avg=",
    "std=",
    "median=",
    "p5=",
    "p95=",
    "Graph: [",
    "]",
    "[",
    "Num threads: [4]",
    "Inference timings in us:",
]
_WORDS += [
    "Inference (avg): 1",
    "STARTING!",
    "overall=",
    "periodic monitoring: ",
    "nan",
    "-1",
    "1e400",
    "9" * 5000,
    "٣",
    "\r",
    " " * 50,
]
_WORDS += [
    "Use gpu: [1]",
    "External delegate path: [x]",
    "partially executed by the delegate",
    "#threads used for CPU inference: [",
    ",",
]
_WORDS += [
    "median = ",
    " ms",
    "&&&& RUNNING TensorRT.trtexec --onnx=",
    "--int8",
    "[I] Latency: min = ",
    "P50 Latency: ",
]
_WORDS += [
    "using CUDAExecutionProvider",
    "Total inference requests: ",
    "num_threads = 4",
    "  min =  1  max =  2  avg =  ",
]
_WORDS += [
    "Inference (avg): 1 ms (1 runs)",
    "Inference (median): ",
    "BENCHMARK RESULTS",
    "Accelerators: NPU",
    "Loading model from: ",
    "Forward type: CPU thread=4 precision=2\n",
    "[ - ] x max = 1 ms avg = 1 ms\n",
    '"accelerators": ',
    "xnnpack",
]


def _seeds() -> list[bytes]:
    more = " p5=148000 median=150100 p95=155000"
    run = BENCHMARK_MODEL.format(name=f"{REFERENCE.name}-k6.tflite", more=more)
    trtexec = TRTEXEC.format(name=f"{REFERENCE.name}-k6.onnx", flags="--fp16")
    line = f"{REFERENCE.name}-k6.ncnn.param  min =   60.00  max =   72.00  avg =   66.00"
    texts = [run, run.replace(more, "") * 2, trtexec, 2 * trtexec, PERF_TEST.format(sign=":")]
    texts += [BENCHNCNN.format(gpu=gpu, lines=f"{line}\n{line}") for gpu in (-1, 0)]
    litert = f"{REFERENCE.name}-k6.tflite"
    texts += [BENCHMARK_LITERT_MODEL.format(name=litert, asked=asked) for asked in ("", "INFO: Use gpu: [1]\n")]
    texts += [
        LITERT_PYTHON.format(name=litert, accelerators="NPU | CPU"),
        json.dumps(LITERT_JSON),
        json.dumps(MINIBENCH),
    ]
    texts += [MNN.format(asked="**CPU** thread=4** precision=2", name=f"{REFERENCE.name}-k6.mnn")]
    return [text.encode() for text in texts]


def _mutate(random: Random, content: bytes) -> bytes:
    """Lines, words and numbers at other places, many times, or others."""
    parts = re.split(r"(\n|\b\d+(?:\.\d+)?\b|[\[\]=, ])", content.decode())
    for _ in range(random.choice((1, 1, 2, 4))):
        at, choice = random.randrange(len(parts)), random.random()
        if choice < 0.4:
            numbers = [index for index, part in enumerate(parts) if part[:1].isdigit()]
            parts[random.choice(numbers or [at])] = random.choice(
                [*_WORDS, *map(str, trees.NUMBERS), *map(str, trees.FLOATS)]
            )
        elif choice < 0.6:
            parts[at] = random.choice(_WORDS)
        elif choice < 0.7:
            del parts[at : at + random.choice((1, 2, 20))]
        elif choice < 0.85:
            parts[at:at] = [random.choice([*_WORDS, parts[at], "".join(parts[at : at + 30])])] * random.choice(
                (1, 2, 300, 5000)
            )
        else:
            other = random.randrange(len(parts))
            parts[at], parts[other] = parts[other], parts[at]
    return trees.bruise(random, "".join(parts)[:_MOST_LETTERS].encode(), 0.05)


def _parse(content: bytes) -> None:
    marks = [b"Inference timings in us:", b"[I] Latency: ", b"P50 Latency", b"  min = ", b"Inference (avg):"]
    marks += [b"Forward type: ", b'"accelerators"', b"avg_inference_latency"]
    if not any(mark in content for mark in marks):
        raise ValueError("no run is in it")


def _read(path: Path) -> None:
    bench.read_results(path, _ASKED)


READER = Reader(_seeds, _mutate, _parse, _read, ".txt")
