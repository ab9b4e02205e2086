"""What TFLite's benchmark_model printed."""

from __future__ import annotations

import re
from pathlib import Path

from hydra_export import bench
from hydra_export.bench import Asked
from hydra_export.latency import REFERENCE
from tests.fuzz import trees
from tests.fuzz.reader import Random, Reader
from tests.test_foreign_results import BENCHMARK_MODEL

_MOST_LETTERS = 300_000
_ASKED = Asked(model=REFERENCE, named=REFERENCE.name, graphs={}, date="2026-02-03")
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


def _seeds() -> list[bytes]:
    more = " p5=148000 median=150100 p95=155000"
    runs = [BENCHMARK_MODEL.format(name=f"{REFERENCE.name}-k{k}.tflite", more=more if k == 6 else "") for k in (3, 6)]
    return [runs[0].encode(), "".join(runs).encode()]


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
    if b"Inference timings in us:" not in content:
        raise ValueError("no run is in it")


def _read(path: Path) -> None:
    bench.read_results(path, _ASKED)


READER = Reader(_seeds, _mutate, _parse, _read, ".txt")
