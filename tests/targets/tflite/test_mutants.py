"""Thousands of damaged files: each is refused with an error of ours, or runs; nothing crashes, hangs or is a surprise.

What is damaged is structure: every offset, list of fields, length, index, enumeration, shape and small constant that
the reader comes by is a place to put something else. The generator is deterministic; by hand any number of mutants is
run with ``python test_mutants.py FILE COUNT FIRST_SEED MOST_RUNS``.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydra_export import targets
from hydra_export.errors import CheckFailed
from hydra_export.targets.tflite import TFLiteOptions, reader
from tests.conftest import SOON
from tests.targets.tflite.conftest import MakeFile

MUTANTS = int(os.environ.get("HYDRA_EXPORT_MUTANTS", "1000"))  # more by hand: thousands take minutes
_BYTES = {"?": 1, "b": 1, "B": 1, "H": 2, "i": 4, "I": 4, "f": 4, "Q": 8}
Site = tuple[str, int, int]  # what it is, its first byte, its length


class Surveyor(reader._Walker):
    """A reader that notes where it looked."""

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        self.sites: set[Site] = set()

    def number(self, code: str, at: int) -> Any:
        self.sites.add((f"number {code}", at, _BYTES[code]))
        return super().number(code, at)

    def _slots(self, at: int, table: Any) -> dict[int, int]:
        slots = super()._slots(at, table)
        vtable = at - int.from_bytes(self.data[at : at + 4], "little", signed=True)
        for place in range(vtable + 4, vtable + int.from_bytes(self.data[vtable : vtable + 2], "little"), 2):
            self.sites.add(("slot", place, 2))
        return slots

    def _field(self, at: int, kind: Any, union_type: int) -> Any:
        value = super()._field(at, kind, union_type)
        if isinstance(kind, reader._Vector) and isinstance(kind.item, reader._Scalar):
            start = at + int.from_bytes(self.data[at : at + 4], "little") + 4
            self.sites |= {("index or size", start + 4 * index, 4) for index in range(len(value))}
        return value

    def _text(self, at: int, length: int) -> str:
        self.sites.add(("text", at, length + 1))
        return super()._text(at, length)


def survey(path: Path) -> list[Site]:
    """Every place of a good file where structure lies."""
    good = reader.read(path)
    surveyor = Surveyor(good.data)
    model = reader._model(surveyor)
    constants = {tensor.buffer for graph in model.graphs for tensor in graph.tensors if tensor.dtype == "int32"}
    for buffer in constants | set(model.metadata.values()):
        extent = model.buffers[buffer]
        surveyor.sites |= {("constant", extent.start + at, 4) for at in range(0, extent.size - 3, 4)}
    surveyor.sites.add(("identifier", 4, 4))
    surveyor.sites |= {("behind", at, 1) for at in range(model.end, len(good.data))}
    return sorted(surveyor.sites)


def mutant(content: bytes, sites: Sequence[Site], seed: int) -> bytes:
    """One damaged file; the same for the same *seed*."""
    chance, damaged = random.Random(seed), bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        _kind, at, length = chance.choice(sites)
        old = int.from_bytes(damaged[at : at + length], "little")
        _kind, other_at, other_length = chance.choice(sites)
        largest = 256**length - 1
        new = chance.choice(
            (
                *(0, 1, 2, 3, 4, 5, 7, 8, 16, 64, 127, 128, 255, largest, largest - 1, largest // 2, largest // 2 + 1),
                *(
                    old + 1,
                    old - 1,
                    old + 2,
                    old + 4,
                    old - 4,
                    old * 2,
                    old // 2,
                    -old,
                    old ^ 1 << chance.randrange(8 * length),
                ),
                *(len(content), len(content) - at, len(content) - at - 4, at, other_at, other_at - at),
                int.from_bytes(damaged[other_at : other_at + other_length], "little"),
                chance.getrandbits(8 * length),
            )
        )
        damaged[at : at + length] = (new & largest).to_bytes(length, "little")
    if chance.random() < 0.02:
        del damaged[chance.randrange(len(damaged)) :]
    return bytes(damaged)


def judge(path: Path, count: int, first_seed: int, most_runs: int) -> dict[str, Any]:
    """What became of *count* mutants of the file at *path*; anything but CheckFailed ends the process."""
    content, sites = path.read_bytes(), survey(path)
    outcomes, slowest = Counter[str](), 0.0
    with tempfile.TemporaryDirectory() as folder:
        damaged = Path(folder) / "mutant.tflite"
        for seed in range(first_seed, first_seed + count):
            sys.stderr.write(f"seed {seed}\n")  # the last line names the one that crashed
            damaged.write_bytes(mutant(content, sites, seed))
            start = time.process_time()
            outcomes[_outcome(damaged, runs=outcomes["runs"] < most_runs)] += 1
            slowest = max(slowest, time.process_time() - start)
    return {**outcomes, "sites": len(sites), "slowest_seconds": round(slowest, 3)}


def _outcome(path: Path, runs: bool) -> str:
    target = targets.get("tflite")
    try:
        target.lint(path)
    except CheckFailed as error:
        return "refused" if str(path) in error.message else f"refused without its name: {error}"
    if not runs:
        return "accepted"
    session: Any = target.load(path, 2, threads=1)
    form = {"float32": np.zeros((1, 3, 16, 16), np.float32), "uint8": np.zeros((1, 16, 16, 3), np.uint8)}
    try:
        assert session.run(form[session.dtype]).shape == (1, 7)
    except CheckFailed as error:  # a file that stores weights twice can contradict itself, which only running it shows
        return "contradicts itself" if "has other logits than" in error.message else f"fails: {error}"
    return "runs"


def in_a_process_of_its_own(path: Path, count: int, first_seed: int, most_runs: int) -> dict[str, Any]:
    """A crash must not end the tests."""
    arguments = [sys.executable, __file__, str(path), *map(str, (count, first_seed, most_runs))]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=SOON + count)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, "dynamic"])
def test_a_thousand_damaged_files_are_refused_or_run(written: MakeFile, batch: int | str) -> None:
    found = in_a_process_of_its_own(written(batch=batch), 500, 0 if batch == 1 else 500, most_runs=25)
    assert found["refused"] > 400
    assert found["runs"] > 0  # what is left are names, and words that nobody reads
    assert found["slowest_seconds"] < 5


@pytest.mark.parametrize(
    "choices", [{"graph": "universal"}, {"graph": "universal", "precision": "int8"}, {"precision": "fp16"}], ids=str
)
def test_damaged_files_of_several_head_counts_and_other_precisions_are_refused_or_run(
    written: MakeFile, choices: dict[str, str]
) -> None:
    heads = (1, 2) if "graph" in choices else 2
    found = in_a_process_of_its_own(written(heads, **choices), 100, 20_000, most_runs=5)
    assert found["refused"] > 70
    assert found["runs"] > 0
    assert found["slowest_seconds"] < 5


@pytest.mark.slow
@pytest.mark.parametrize(
    "choices",
    [{}, {"options": TFLiteOptions(overlap=False)}, {"precision": "int8"}],
    ids=["overlapping", "apart", "int8"],
)
def test_each_damaged_file_of_several_head_counts_is_refused_or_run(written: MakeFile, choices: dict[str, Any]) -> None:
    count = MUTANTS // 5
    found = in_a_process_of_its_own(written((1, 2), graph="universal", **choices), count, 30_000, most_runs=count)
    contradictions = found.get("contradicts itself", 0)
    assert found["refused"] + found["runs"] + contradictions == count
    assert not contradictions or "options" in choices
    assert found["slowest_seconds"] < 5


@pytest.mark.slow
@pytest.mark.parametrize("form", ["tensor", "image"])
def test_each_damaged_file_is_refused_or_run(written: MakeFile, form: str) -> None:
    found = in_a_process_of_its_own(written(input=form), MUTANTS, 1000 if form == "tensor" else 500_000, MUTANTS)
    assert found["refused"] + found["runs"] == MUTANTS
    assert found["slowest_seconds"] < 5


def test_mutants_are_the_same_every_time(written: MakeFile) -> None:
    path = written()
    content, sites = path.read_bytes(), survey(path)
    assert [mutant(content, sites, seed) for seed in range(50)] == [mutant(content, sites, seed) for seed in range(50)]
    assert {kind.split()[0] for kind, _at, _length in sites} == {
        *("behind", "constant", "identifier", "index", "number", "slot", "text"),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(judge(Path(sys.argv[1]), *map(int, sys.argv[2:]))))
