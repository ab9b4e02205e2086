"""Runs readers on mutants, each reader in a process of its own: what one of them takes down is that process alone."""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from tests.fuzz import judge, reader, trees
from tests.fuzz.reader import Random, Reader

_ROOT = Path(__file__).parents[2]
_SHARED_MEMORY = Path("/dev/shm")
_MOST_BYTES = 2 * 2**30  # of address space, beyond what the process has when its seeds are made
_STUCK_SECONDS = 300  # of the clock: so long on one input, where the machine is busy too
_PARSE_EVERY, _TRACE_EVERY = 5, 50  # of the inputs: both cost more than most readings
_SHARE_OF_FOUND = 0.1  # of mutants: the others are made of good inputs
_MOST_KEPT = 3  # inputs of one kind of trouble


@dataclass(frozen=True)
class Corpus:
    """What is mutated: good inputs, and those that once were trouble."""

    seeds: Sequence[bytes]
    found: Sequence[bytes] = ()

    @property
    def first(self) -> list[bytes]:
        """All of them."""
        return [*self.seeds, *self.found]


@dataclass
class Tally:
    """What became of the inputs of one reader so far."""

    inputs: int = 0
    seconds: float = 0.0
    accepted: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    asked: int = 0  # whether they are well-formed, of which *parsed* are
    parsed: int = 0
    trouble: dict[str, int] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)  # where inputs that were trouble are

    def add(self, fate: judge.Fate) -> None:
        self.inputs += 1
        if fate.trouble:
            self.trouble[fate.kind] = self.trouble.get(fate.kind, 0) + 1
        elif fate.refusal:
            self.refused[fate.refusal] = self.refused.get(fate.refusal, 0) + 1
        else:
            self.accepted += 1


def alone(name: str, seed: str, seconds: float, most: int, folder: Path, kept: Path) -> None:
    """What the process of one reader does: prints its tally as a line of JSON every second, and at its end."""
    under_test = reader.get(name)
    corpus = Corpus(under_test.seeds(), [path.read_bytes() for path in reader.found(name)])
    tally, start, told = Tally(), time.monotonic(), 0.0
    _limit_memory()
    judge.forget_peak()
    while tally.inputs < most and (tally.seconds < seconds or tally.inputs < len(corpus.first)):
        take(name, under_test, corpus, seed, tally, folder, kept)
        tally.seconds = time.monotonic() - start
        if tally.seconds > told + 1:
            told = tally.seconds
            _tell(tally)
    _tell(tally)


def take(name: str, under_test: Reader, corpus: Corpus, seed: str, tally: Tally, folder: Path, kept: Path) -> None:
    """The next input."""
    index = tally.inputs
    content = input_at(name, under_test, corpus, seed, index)
    if index % _PARSE_EVERY == 0:
        tally.asked += 1
        tally.parsed += _is_well_formed(under_test, content)
    path = folder / f"input{under_test.suffix}"
    path.write_bytes(content)
    fate = judge.judge(under_test, path, traced=index % _TRACE_EVERY == 0)
    tally.add(fate)
    if fate.trouble and tally.trouble[fate.kind] <= _MOST_KEPT:
        tally.kept.append(keep(name, content, f"{fate.kind}\n{fate.trouble}", kept, under_test.suffix))


def input_at(name: str, under_test: Reader, corpus: Corpus, seed: str, index: int) -> bytes:
    """The input number *index* of a run: first the corpus as it is, then mutants of it."""
    if index < len(corpus.first):
        return corpus.first[index]
    random = Random(f"{name} {seed} {index}")
    base = random.choice(corpus.found if corpus.found and random.random() < _SHARE_OF_FOUND else corpus.seeds)
    try:
        return under_test.mutate(random, base)
    except Exception:  # noqa: BLE001 (what once was trouble need not have the structure that is to be changed)
        return trees.bruise(random, base)


def _is_well_formed(under_test: Reader, content: bytes) -> bool:
    with warnings.catch_warnings(action="ignore"):
        try:
            under_test.parse(content)
        except Exception:  # noqa: BLE001 (parsers of others raise what they like)
            return False
    return True


def keep(name: str, content: bytes, told: str, kept: Path, suffix: str) -> str:
    """Writes an input and what was told of it; the path of the input."""
    path = kept / f"{name}-{hashlib.sha256(content).hexdigest()[:12]}{suffix}"
    path.write_bytes(content)
    path.with_name(f"{path.name}.why").write_text(told, encoding="utf-8", errors="replace")
    return str(path)


def _limit_memory() -> None:
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + _MOST_BYTES,) * 2)


def _tell(tally: Tally) -> None:
    sys.stdout.write(msgspec.json.encode(tally).decode() + "\n")
    sys.stdout.flush()


def run(name: str, seed: str, seconds: float, most: int, kept: Path) -> Tally:
    """Fuzzes the reader *name* in a process of its own, and says what became of the inputs.

    An input that ends the process, or on which it hangs, is trouble too, and the last one.
    """
    kept.mkdir(parents=True, exist_ok=True)
    memory = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="hydra-export-fuzz-", dir=memory) as folder:
        arguments = ["--alone", folder, "--reader", name, "--seed", seed, "--seconds", str(seconds)]
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz", *arguments, "--inputs", str(most), "--keep", str(kept)],
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(_ROOT)},
        )
        tally = Tally()
        for line in _lines(process):
            tally = msgspec.json.decode(line, type=Tally)
        if process.returncode:
            killed = process.returncode == -signal.SIGKILL
            why = "it hangs, or took all memory" if killed else f"the process ended with status {process.returncode}"
            tally.trouble[why] = 1
            for path in Path(folder).glob("input*"):
                tally.kept.append(keep(name, path.read_bytes(), why, kept, path.name.removeprefix("input")))
    return tally


def _lines(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """What *process* prints until it ends; it is killed where it prints nothing for too long."""
    assert process.stdout is not None
    with process, process.stdout:
        while True:
            watchdog = threading.Timer(_STUCK_SECONDS, process.kill)
            watchdog.start()
            line = process.stdout.readline()
            watchdog.cancel()
            if not line:
                return
            yield line


def table(tallies: dict[str, Tally]) -> str:
    """The figures of every reader, one a line."""
    rows = [("reader", "inputs", "inputs/s", "past the parser", "accepted", "untyped", "refused by")]
    for name, tally in tallies.items():
        refused = ", ".join(
            f"{kind} {count / max(tally.inputs, 1):.0%}" for kind, count in sorted(tally.refused.items())
        )
        rate, parsed = tally.inputs / max(tally.seconds, 1e-9), tally.parsed / max(tally.asked, 1)
        figures = (f"{tally.inputs:,}", f"{rate:,.0f}", f"{parsed:.0%}", f"{tally.accepted / max(tally.inputs, 1):.0%}")
        rows.append((name, *figures, str(sum(tally.trouble.values())), refused))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:], strict=True))]
        )
        + f"  {row[-1]}"
        for row in rows
    )
