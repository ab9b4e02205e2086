"""Our files beside every peer that installs, at ViT-B/16-224 size, random weights: ``python benchmarks/peers.py``.

    pip install onnxslim openvino litert-torch executorch      # best in an environment of its own
    python benchmarks/peers.py --work FOLDER [--heads 3,6,12] [--batches 1,8] [--threads 1,2] [--precisions fp32,int8]
        [--only onnx,tflite,dynamo] [--rounds 10] [--seconds 0.2] [--cores 0,1] [--markdown]
    python benchmarks/peers.py --work FOLDER --heads 3 --batches 1 --threads 1 --only onnx,tflite,dynamo     # a minute

Each contestant is a process of its own that loads its file once, is pinned to as many cores as it has threads, and
times a few runs in each round; rounds go over all contestants, so that a busy machine is busy for all. Ratios are
medians over the rounds of the time over that of our ONNX file in fp32: CPU time of the whole process with one thread,
time on the clock with more. What is not installed is skipped, what fails or crashes is named in its row. Exported files
stay in FOLDER and are used again (ExecuTorch's take minutes), as long as they were written by the same versions.
Results: docs/comparison.md. MNN is left out: its converter installs telemetry.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from contestants import BOTH, CONTESTANTS, FILES
from limits import Case, macs, products
from measuring import (
    COMPARED,
    environment,
    isolated,
    make_checkpoint,
    memory_bytes,
    spent,
    version,
)

PACKAGES = ("torch", "onnxruntime", "ai-edge-litert", "onnxslim", "openvino", "litert-torch", "executorch")


def cpu_seconds() -> float:
    """Of this process from its start, and of those it ran."""
    of_children = os.times()
    return time.process_time() + of_children.children_user + of_children.children_system


# The processes: one for each file that is written, and one for each contestant.


class Ended(Exception):
    """What became of a process that did not do what it was for."""

    def __init__(self, what: str, status: int, stderr: str) -> None:
        lines = [line for line in stderr.splitlines() if line.strip()]
        why = f"crashed ({signal.Signals(-status).name})" if status < 0 else f"failed: {(lines or ['?'])[-1]:.120}"
        super().__init__(f"{what} {why}".strip())


def step_write(work: Path, name: str, case: Case, path: Path, source: Path) -> dict[str, float]:
    warnings.simplefilter("ignore")
    FILES[name].write(work, case, path, source)
    return {"cpu_seconds": cpu_seconds()}


def written(work: Path, name: str, case: Case, new: set[Path]) -> Path:
    """The file *name* of *case*, from an earlier run where the same version wrote it; beside it what it took.

    Our own are written in every run.
    """
    file = FILES[name]
    source = written(work, file.source, replace(case, precision="fp32"), new) if file.source else Path()
    stem = f"{name}-k{case.heads}-b{case.batch}-{case.precision}"
    path = work / f"{stem}-{version(file.package)}.{file.suffix}"
    report = path.with_suffix(".json")
    if path in new or (file.package != "hydra-export" and report.exists()):
        return path
    step = ("write", name, *map(str, (case.heads, case.batch, case.threads, case.precision, path, source)))
    try:
        report.write_text(json.dumps(isolated(__file__, work, *step)))
    except subprocess.CalledProcessError as error:
        raise Ended("its export", error.returncode, error.stderr) from None
    new.add(path)
    return path


def step_serve(work: Path, name: str, case: Case, path: Path, _source: Path) -> None:
    """One contestant. Its first line says how it loaded, each further one the times of as many runs as asked for."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is not an answer
    contestant = CONTESTANTS[name]
    importlib.import_module(contestant.module)
    before, start = memory_bytes("VmRSS"), cpu_seconds()
    loaded = contestant.load(path, case)
    call, scale = loaded if contestant.limit else (loaded, 1.0)
    logits = call()
    report = {"scale": scale, "load": cpu_seconds() - start, "resident": memory_bytes("VmRSS") - before}
    if not contestant.limit:
        report["error"] = float(np.abs(logits - np.load(reference(work, case))).max())
    print(json.dumps(report), file=answers)
    for line in sys.stdin:
        print(json.dumps([spent(call) for _ in range(int(line))]), file=answers)


def reference(work: Path, case: Case) -> Path:
    return work / f"reference-k{case.heads}-b{case.batch}-fp32-{version('torch')}.npy"


class Process:
    """A contestant that is alive between its runs."""

    def __init__(self, work: Path, name: str, case: Case, path: Path, cores: Sequence[int]) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(case.threads))
        # Compiled anew each time, so that the load is the user's first one.
        settings = {**os.environ, **threads, "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        step = ("serve", name, *map(str, (case.heads, case.batch, case.threads, case.precision, path, "-")))
        self.stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by close()
        self.popen = subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, cores)), sys.executable, __file__, "--work", work, "--step", *step],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            text=True,
            env=settings,
        )
        self.loaded: dict[str, float] = self.answer()

    def answer(self) -> Any:
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        if not line:
            status = self.popen.wait()
            self.stderr.seek(0)
            ended = Ended("", status, self.stderr.read())
            self.close()
            raise ended
        return json.loads(line)

    def run(self, runs: int) -> list[tuple[float, float]]:
        assert self.popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the answer says why
            print(runs, file=self.popen.stdin, flush=True)
        return self.answer()

    def close(self) -> None:
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it is gone already
            self.popen.stdin.close()
        self.popen.wait()
        self.popen.stdout.close()
        self.stderr.close()


@dataclass
class Row:
    """One contestant in one case; *ended* says what became of it instead."""

    ended: str = ""
    process: Process | None = None
    export: float = 0.0
    rounds: list[float] = field(default_factory=list)  # the median of each
    least: float = float("inf")

    def over(self, base: Row) -> float:
        return statistics.median(a / b for a, b in zip(self.rounds, base.rounds, strict=True))


def opened(work: Path, name: str, case: Case, cores: Sequence[int], new: set[Path]) -> Row:
    print(f"k = {case.heads}, batch {case.batch}, threads {case.threads}: {name} {case.precision}", file=sys.stderr)
    try:
        path = written(work, CONTESTANTS[name].file, case, new)
        export = json.loads(path.with_suffix(".json").read_text())["cpu_seconds"]
        return Row(process=Process(work, name, case, path, cores), export=export)
    except Ended as ended:
        return Row(ended=str(ended))


def measured(work: Path, names: Sequence[tuple[str, str]], case: Case, asked: argparse.Namespace) -> dict[Any, Row]:
    """All contestants, by name and precision, in rounds; each in a process that stays."""
    new: set[Path] = asked.new
    written(work, "reference", case, new)
    cases = {(name, precision): replace(case, precision=precision) for name, precision in names}
    rows = {key: opened(work, key[0], each, asked.cores[: case.threads], new) for key, each in cases.items()}
    runs = dict.fromkeys(rows, 1)
    for at in range(-1, asked.rounds):  # the first is to warm up
        for key, row in rows.items():
            if row.ended or row.process is None:
                continue
            try:
                times = [cpu if case.threads == 1 else clock for clock, cpu in row.process.run(runs[key])]
            except Ended as ended:
                row.ended = str(ended)
                continue
            if at == -1:
                runs[key] = max(1, round(asked.seconds / times[0]))
                continue
            scale = row.process.loaded["scale"]
            row.rounds.append(scale * statistics.median(times))
            row.least = min(row.least, scale * min(times))
    for row in rows.values():
        if row.process is not None:
            row.process.close()
    if rows["onnx", "fp32"].ended:
        sys.exit(f"Our ONNX file, against which all is held, {rows['onnx', 'fp32'].ended}")
    return rows


HEADINGS = ("contestant", "precision", "median", "minimum", "FMA peak", "error", "resident, MB", "load, s", "export, s")


def table(found: dict[int, dict[Any, Row]], keys: Sequence[tuple[str, str]]) -> list[tuple[str, ...]]:
    """A line for each contestant; figures of all head counts in one cell."""
    lines = []
    for key in keys:
        contestant, rows = CONTESTANTS[key[0]], [found[k][key] for k in found]
        cells: list[list[str]] = [[] for _ in HEADINGS[2:]]
        for k, row in zip(found, rows, strict=True):
            if row.ended or row.process is None:
                cells[0].append(row.ended)
                continue
            base, peak, loaded = found[k]["onnx", "fp32"], found[k]["peak", "fp32"], row.process.loaded
            cells[0].append(f"{row.over(base):.2f}")
            cells[1].append(f"{row.least / base.least:.2f}")
            if contestant is not CONTESTANTS["memory"]:
                cells[2].append("?" if peak.ended else f"{peak.least / row.least:.0%}")
            if not contestant.limit:
                cells[3].append(f"{loaded['error']:.0e}")
                cells[4].append(f"{loaded['resident'] / 1e6:.0f}")
                cells[5].append(f"{loaded['load']:.1f}")
                cells[6].append(f"{row.export:.0f}")
        lines.append((contestant.label, key[1], *(" / ".join(cell) for cell in cells)))
    return lines


def show(lines: Sequence[tuple[str, ...]], markdown: bool) -> None:
    if markdown:
        for line in (HEADINGS, ("---",) * len(HEADINGS), *lines):
            print("| " + " | ".join(line) + " |")
        return
    wide = [max(map(len, column)) for column in zip(HEADINGS, *lines, strict=True)]
    for line in (HEADINGS, *lines):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, wide, strict=True)).rstrip())


def report(work: Path, asked: argparse.Namespace) -> None:
    """A table for each batch and number of threads."""
    if not (work / "vit-b.safetensors").exists():
        make_checkpoint(work / "vit-b.safetensors")
    print(environment(PACKAGES))
    missing = {name: package for name in asked.only if (package := lacking(name))}
    for name, package in missing.items():
        print(f"Skipped: {name}. It needs {package}: pip install {package}")
    limits = [name for name in CONTESTANTS if CONTESTANTS[name].limit]
    names = dict.fromkeys(["onnx", *(name for name in asked.only if name not in missing), *limits])
    keys = [(name, precision) for precision in BOTH for name in names if precision in CONTESTANTS[name].precisions]
    keys = [key for key in keys if key[1] in asked.precisions or key == ("onnx", "fp32") or key[0] in limits]
    for batch in asked.batches:
        for threads in asked.threads:
            load = os.getloadavg()[0]
            found = {k: measured(work, keys, Case(k, batch, threads), asked) for k in asked.heads}
            listed = " / ".join(map(str, asked.heads))
            print(f"\nBatch {batch}, threads {threads}, k = {listed}; load {load:.1f} to {os.getloadavg()[0]:.1f}.")
            for k, rows in found.items():
                peak, base = rows["peak", "fp32"], rows["onnx", "fp32"]
                if not peak.ended:
                    rate = 2e-9 * macs(products(Case(k, batch, threads))) / peak.least
                    print(f"k = {k}: FMA peak {rate:.0f} GFLOP/s")
                if not asked.markdown:  # a time says nothing of another machine
                    print(f"k = {k}: our ONNX takes {1e3 * base.least:.1f} ms at least")
            print(flush=True)
            show(table(found, keys), asked.markdown)


def lacking(name: str) -> str:
    """The package that a contestant or its file needs and that is not here."""
    file, module = FILES[CONTESTANTS[name].file], CONTESTANTS[name].module
    packages = {"ai_edge_litert.interpreter": "ai-edge-litert", "executorch.runtime": "executorch"}
    needed = [
        packages.get(module, module.partition(".")[0]),
        *([file.package] if file.package != "hydra-export" else []),
    ]
    return next((package for package in needed if version(package) == "not installed"), "")


def main() -> None:
    """Everything, or one step of it."""

    def numbers(text: str) -> list[int]:
        return [int(each) for each in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--heads", type=numbers, default=COMPARED)
    parser.add_argument("--batches", type=numbers, default=(1, 8))
    parser.add_argument("--threads", type=numbers, default=(1, 2))
    parser.add_argument("--precisions", type=lambda text: text.split(","), default=BOTH)
    parser.add_argument("--only", type=lambda text: text.split(","), default=tuple(CONTESTANTS))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=0.2, help="of runs, of each contestant in each round")
    parser.add_argument("--cores", type=numbers, default=sorted(os.sched_getaffinity(0)))
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--step", nargs=8)
    asked = parser.parse_args()
    if asked.step is None:
        unknown = [name for name in asked.only if name not in CONTESTANTS]
        if unknown or max(asked.threads) > len(asked.cores):
            parser.error(f"Contestants: {', '.join(CONTESTANTS)}. Cores: {asked.cores}, one for each thread.")
        asked.new = set()
        with tempfile.TemporaryDirectory() as folder:
            work = asked.work or Path(folder)
            work.mkdir(parents=True, exist_ok=True)
            report(work, asked)
        return
    step, name, heads, batch, threads, precision, path, source = asked.step
    steps = {"write": step_write, "serve": step_serve}
    done = steps[step](
        asked.work, name, Case(int(heads), int(batch), int(threads), precision), Path(path), Path(source)
    )
    if done is not None:
        print(json.dumps(done))


if __name__ == "__main__":
    main()
