"""Times artifacts on the machine that this runs on: load, warm-up, calls that take turns, memory.

It is one file and needs Python 3.8, numpy and a runtime, nothing else. ``hydra-export bench`` runs it from its package;
``hydra-export bench standalone BUNDLE DIR`` copies it to DIR/bench.py, with what runs the artifacts (SOURCES), beside
these and a plan of them, for a board: ``python3 bench.py`` there writes bench.json, which
``hydra-export profile import`` takes.

Each artifact is loaded by a process of its own, this file again, so that the memory it takes is its own, and the
processes take turns: a noisy spell hits all head counts alike.
"""

# B batch, C channels, H height, W width, as einsum-like suffixes of names
from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # Python 3.8 does not know these forms
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    Run = Callable[[Any], Any]  # images [B, C, H, W], or uint8 [B, H, W, C] -> logits
    Timing = dict[str, Any]
    Progress = Callable[[str, int, int], None]

KIND = "hydra-export bench"
PLAN, RESULT = "plan.json", "bench.json"
_LEFT = (0, 2, 9)  # columns of text
SOURCES: dict[str, str] = {}  # by target, the text of what runs its artifacts: a copy for a board has it here
# Warm is what no longer gets faster: the fastest of so many calls is not faster than all before by so much.
_WARM_CALLS, _WARM_GAIN, _WARM_SECONDS = 4, 0.02, 10.0
_TURN_MS = 20.0  # of calls in a row; the first of several is not timed, as others used the caches meanwhile
_MOST_SECONDS, _LEAST_RUNS = 60.0, 5  # of one artifact at one head count, where a board is slow
_SCATTERED, _DRIFTED, _WAITED = 1.2, 1.1, 1.1
_KEPT_FREE = 0.2  # of the memory
# What an artifact may take, which anybody may have made: LEAST_MIB is what Python and a runtime take themselves.
LEAST_MIB = 256
_RUNTIMES_MIB, _THREAD_MIB = 2048, 32  # stacks, in the pools of several libraries, for each core
_COPIES = 3  # of the weights of every head count: ViT-B's ten took 2.1 times these, in LiteRT and TensorFlow
_FIRST_CALLS = 4  # at most before a board that slow is warm
_STARTS_SECONDS, _BYTES_PER_SECOND, _GMACS_PER_SECOND, _MOST_LIMIT_SECONDS = 60.0, 5e6, 0.5, 3600.0


# What the speed of products depends on, as Linux names it: how wide vectors are, and products of int8 and of bfloat16.
_FLOAT_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "sve", "bf16")
INT8_FLAGS = ("avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")


class CannotRunError(Exception):
    """An artifact that a runtime here does not run, and why."""


# The machine


def says() -> dict[str, tuple[str, ...]]:
    """What this machine says of itself, under the names of a device profile's ``[match]``."""
    if hasattr(sys, "getandroidapilevel") or Path("/system/build.prop").exists():
        properties = {"android_model": "ro.product.model", "android_soc_model": "ro.soc.model"}
        keys = {name: _asked("getprop", of) for name, of in properties.items()}
    elif sys.platform == "darwin":
        properties = {"ios_machine": "hw.machine", "cpu_name": "machdep.cpu.brand_string"}
        keys = {name: _asked("sysctl", "-n", of) for name, of in properties.items()}
    else:
        named = re.search(r"^model name\s*:\s*(.+)$", _text("/proc/cpuinfo"), re.MULTILINE)
        keys = {
            "devicetree_model": _text("/proc/device-tree/model").strip("\0\n "),
            "cpu_name": named.group(1) if named else platform.processor(),
        }
    return {name: (value,) for name, value in keys.items() if value}


def machine() -> dict[str, Any]:
    """What a time depends on, besides the artifact."""
    governor = _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip()
    return {
        "says": says(),
        "system": platform.platform(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "cpu_flags": cpu_flags(),
        "cores": usable_cores(),
        "memory_mib": _memory_mib("MemTotal"),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "governor": governor or None,
    }


def cpu_flags() -> list[str]:
    """Those of its instruction sets that its speed depends on; none where the system does not list them."""
    listed = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _text("/proc/cpuinfo"), re.MULTILINE)
    present = listed.group(1).split() if listed else []
    return [flag for flag in (*_FLOAT_FLAGS, *INT8_FLAGS) if flag in present]


def lacks_int8(flags: list[str] | tuple[str, ...]) -> bool:
    """Is it known that a processor with these has no instructions for products of int8?"""
    return bool(flags) and not {*INT8_FLAGS} & {*flags}


def usable_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_mib(field: str) -> int | None:
    found = re.search(rf"^{field}:\s+(\d+) kB", _text("/proc/meminfo"), re.MULTILINE)
    return int(found.group(1)) // 1024 if found else None


def _asked(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def default_memory_mib(weight_bytes: int, available_mib: int | None) -> int:
    """What a process may allocate for an artifact of so many bytes of unpacked weights: no more than is free."""
    needed = _RUNTIMES_MIB + _THREAD_MIB * usable_cores() + _COPIES * weight_bytes // 2**20
    return needed if available_mib is None else max(2 * LEAST_MIB, min(needed, available_mib))


def default_seconds(num_bytes: int, gmacs: float) -> float:
    """What a slow board with a slow card may take to open an artifact of *num_bytes* and to compute *gmacs*."""
    return min(_MOST_LIMIT_SECONDS, _STARTS_SECONDS + num_bytes / _BYTES_PER_SECOND + gmacs / _GMACS_PER_SECOND)


# The runtimes. What runs a target's artifacts is the text of a module with RUNNERS, by the name of each runtime:
# whether it is installed, its version, what opens an artifact and gives a function per head count. All may raise
# anything.


def runners(sources: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What *sources* have, by the name of the runtime; each target's usual one first."""
    found = {}
    for target, source in sources.items():
        module: dict[str, Any] = {"__name__": f"runners_of_{target}"}
        exec(compile(source, f"<what runs {target}>", "exec"), module)
        for name, runner in module["RUNNERS"].items():
            found[name] = {**runner, "target": target, "needs": module["NEEDS"]}
    return found


def installed(known: dict[str, dict[str, Any]]) -> list[str]:
    """The runtimes of this machine."""
    return [name for name, runner in known.items() if runner["installed"]()]


# One artifact in a process of its own: requests are lines on standard input, answers lines on what was standard output


class _Loaded:
    """What the process holds."""

    def __init__(
        self,
        folder: str,
        artifact: dict[str, Any],
        runtime: str,
        source: str,
        threads: int,
        golden: str,
        memory_mib: int,
    ) -> None:
        _limit_memory(memory_mib)
        self.artifact, self.golden = artifact, Path(folder, golden)
        runner = runners({artifact["target"]: source})[runtime]
        self.version = runner["version"]()
        self.base_mib = peak_mib()
        start = time.perf_counter()
        self.at = runner["open"](Path(folder, artifact["path"]), threads)
        self.runs = {k: self.at(k) for k in artifact["heads"]}
        self.load_ms = (time.perf_counter() - start) * 1e3
        self.image = self._image(artifact["batch"])

    def _image(self, batch: int) -> Any:
        with np.load(self.golden, allow_pickle=False) as arrays:
            first = arrays["pixels" if self.artifact["input"] == "image" else "image"][[0] * batch]
        if self.artifact["layout"] == "NHWC" and self.artifact["input"] == "tensor":
            first = first.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(_as_integers(first, self.artifact["takes"]))

    def warm(self, heads: int) -> dict[str, Any]:
        run, taken = self.runs[heads], []
        logits = run(self.image)
        start = time.perf_counter()
        while time.perf_counter() - start < _WARM_SECONDS:
            taken.append(_timed(run, self.image)[0])
            newest, before = taken[-_WARM_CALLS:], taken[:-_WARM_CALLS]
            if before and min(newest) > (1 - _WARM_GAIN) * min(before):
                break
        with np.load(self.golden, allow_pickle=False) as arrays:
            name = ("fp16_" if self.artifact["precision"] == "fp16" else "") + f"logits_k{heads}"
            expected = arrays[name][0]
        return {
            "calls": len(taken) + 1,
            "ms": statistics.median(taken[-_WARM_CALLS:]),
            "error": float(np.abs(_as_numbers(np.asarray(logits)[0], self.artifact["gives"]) - expected).max()),
        }

    def time(self, heads: int, calls: int) -> list[tuple[float, float]]:
        run = self.runs[heads]
        if calls > 1:
            run(self.image)
        return [_timed(run, self.image) for _ in range(calls)]


def _as_integers(numbers: Any, tensor: dict[str, Any]) -> Any:
    """What a graph takes that counts *numbers* in integers."""
    if "scale" not in tensor:
        return numbers
    ends = np.iinfo(tensor["dtype"])
    integers = np.rint(numbers / tensor["scale"]) + tensor.get("zero_point", 0)
    return np.clip(integers, ends.min, ends.max).astype(tensor["dtype"])


def _as_numbers(integers: Any, tensor: dict[str, Any]) -> Any:
    """What the integers that a graph gives stand for."""
    return (integers.astype(np.float64) - tensor.get("zero_point", 0)) * tensor.get("scale", 1)


def _timed(run: Run, image: Any) -> tuple[float, float]:
    """Milliseconds of one call: by the clock, and of all cores' work for this process."""
    cpu, start = time.process_time(), time.perf_counter()
    run(image)
    return (time.perf_counter() - start) * 1e3, (time.process_time() - cpu) * 1e3


def peak_mib() -> float | None:
    """The most memory that this process had."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", _text("/proc/self/status"), re.MULTILINE)
    if found:
        return int(found.group(1)) / 2**10
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS counts bytes


def _limit_memory(mib: int) -> None:
    """Of this process, where the system holds it to that: private writable memory, on Linux."""
    if sys.platform == "linux":
        import resource

        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        limit = mib * 2**20 if hard == resource.RLIM_INFINITY else min(mib * 2**20, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _serve() -> None:
    """Until standard input ends. What runtimes print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    loaded = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "open" in request:
                loaded = _Loaded(**request["open"])
                answer: Any = {"load_ms": loaded.load_ms, "version": loaded.version, "base_mib": loaded.base_mib}
            elif "warm" in request:
                answer = loaded.warm(request["warm"]) if loaded else None
            elif "time" in request:
                answer = loaded.time(*request["time"]) if loaded else None
            else:
                answer = peak_mib()
            answers.write(json.dumps({"answer": answer}) + "\n")
        except Exception as error:  # noqa: BLE001 (runtimes' errors share no base; the other process tells them)
            answers.write(json.dumps({"error": _told(error)}) + "\n")
        answers.flush()


_ALLOCATION_FAILED = re.compile("(failed to|unable to|cannot) allocate|bad_alloc|out of memory", re.IGNORECASE)


def _told(error: Exception) -> str:
    told = f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError) or _ALLOCATION_FAILED.search(told):
        return f"it needs more memory than its limit; --limit-memory allows more: {told}"
    return told


class _Process:
    """An artifact loaded in a runtime by a process of its own, which ends where an answer takes too long."""

    def __init__(self, task: Timing, folder: Path, golden: str) -> None:
        self.task, self.cells = task, []  # type: ignore[var-annotated]
        self.late = False
        self.said = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        environment = {**os.environ, "OMP_NUM_THREADS": str(task["threads"])}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            encoding="utf-8",
            env=environment,
        )
        try:
            opening = {name: task[name] for name in ("artifact", "runtime", "source", "threads", "memory_mib")}
            self.opened = self.ask("open", {**opening, "folder": str(folder), "golden": golden})
        except BaseException:
            self.close()
            raise

    def ask(self, what: str, about: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        watch = threading.Timer(self.task["seconds"], self._stop)
        watch.daemon = True
        watch.start()
        try:
            self.process.stdin.write(json.dumps({what: about}) + "\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline() or "{}")
        except BrokenPipeError:
            answer = {}
        finally:
            watch.cancel()
        if "answer" in answer:
            return answer["answer"]
        raise CannotRunError(answer.get("error") or self._died())

    def _stop(self) -> None:
        self.late = True
        self.process.kill()

    def _died(self) -> str:
        status = self.process.wait()
        if self.late:
            return f"it was stopped: it took longer than {self.task['seconds']:g} s; --limit-seconds allows more"
        self.said.seek(0)
        last = self.said.read()[-300:].decode("utf-8", errors="replace").strip().rpartition("\n")[2]
        ended = f"signal {signal.Signals(-status).name} ended it" if status < 0 else f"it ended with status {status}"
        return f"{ended}: {last}" if last else ended

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.said.close()


class _Cell:
    """One artifact at one head count, in one runtime, with so many threads."""

    def __init__(self, process: _Process, heads: int, runs: int) -> None:
        self.process, self.heads = process, heads
        self.warmed = process.ask("warm", heads)
        self.calls_ms: list[tuple[float, float]] = []
        ms = max(self.warmed["ms"], 1e-6)
        self.runs = max(min(runs, _LEAST_RUNS), min(runs, int(_MOST_SECONDS * 1e3 / ms)))
        self.turn = max(1, int(_TURN_MS / ms))

    @property
    def missing(self) -> int:
        return self.runs - len(self.calls_ms)

    def take_turn(self) -> None:
        self.calls_ms += self.process.ask("time", [self.heads, min(self.turn, self.missing)])


# All of it


def measure(
    folder: Path,
    plan: dict[str, Any],
    runs: int,
    threads: Sequence[int],
    runtimes: Sequence[str],
    progress: Progress = lambda _what, _done, _total: None,
    memory_mib: int | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """Times every artifact of *plan* at every head count, in every one of *runtimes* that takes it.

    Args:
        memory_mib: what each process may allocate, held on Linux alone; *seconds*: what loading an artifact or calling
            it for the first time may take. By default what fits its size.

    Returns:
        what bench.json holds.
    """
    about, gmacs = machine(), plan["model"]["gmacs"]
    sources = plan.get("runners", SOURCES)
    known = runners(sources)
    tasks = [
        {
            "artifact": artifact,
            "runtime": runtime,
            "unit": known[runtime]["unit"],
            "compute": known[runtime]["compute"],
            "source": sources[artifact["target"]],
            "threads": count,
            "memory_mib": memory_mib or default_memory_mib(artifact["weight_bytes"], _memory_mib("MemAvailable")),
            "seconds": seconds or default_seconds(artifact["bytes"], _FIRST_CALLS * artifact["batch"] * gmacs),
        }
        for count in threads
        for runtime in runtimes
        for artifact in plan["artifacts"]
        if runtime in known and known[runtime]["target"] == artifact["target"]
    ]
    timings: list[Timing] = []
    failed: list[dict[str, str]] = []
    total, done = sum(runs * len(task["artifact"]["heads"]) for task in tasks), 0
    while tasks:
        group: list[_Process] = []
        try:
            cells = []
            for task in list(_fitting(tasks)):
                progress(f"loading {task['artifact']['path']}", done, total)
                try:
                    process = _Process(task, folder, plan["golden"])
                    group.append(process)
                    cells += [_Cell(process, k, runs) for k in task["artifact"]["heads"]]
                except CannotRunError as error:
                    failed.append(_failure(task, error))
            for cell in _turns(cells):
                progress("timing", done + sum(len(one.calls_ms) for one in cells), total)
                try:
                    cell.take_turn()
                except CannotRunError as error:
                    cells[:] = [one for one in cells if one.process is not cell.process]
                    failed.append(_failure(cell.process.task, error))
            done += runs * len(cells)
            peaks = {process: process.ask("peak", None) for process in dict.fromkeys(cell.process for cell in cells)}
            timings += [_timing(cell, peaks[cell.process]) for cell in cells]
        finally:
            for process in group:
                process.close()
    return {
        "schema_version": 1,
        "kind": KIND,
        "date": time.strftime("%Y-%m-%d"),
        "model": plan["model"],
        "machine": about,
        "runs": runs,
        "timings": timings,
        "failed": failed,
    }


def _failure(task: Timing, error: CannotRunError) -> dict[str, str]:
    return {"path": task["artifact"]["path"], "runtime": task["runtime"], "why": str(error)}


def _fitting(tasks: list[Timing]) -> Iterator[Timing]:
    """Takes tasks away for as long as memory lasts, one at least."""
    yield tasks.pop(0)
    while tasks:
        free, total = _memory_mib("MemAvailable"), _memory_mib("MemTotal")
        # A runtime keeps weights as they were read, and packed.
        needed = 3 * tasks[0]["artifact"]["bytes"] / 2**20
        if free is not None and total is not None and free - needed < _KEPT_FREE * total:
            return
        yield tasks.pop(0)


def _turns(cells: Sequence[_Cell]) -> Iterator[_Cell]:
    while any(cell.missing for cell in cells):
        yield from (cell for cell in cells if cell.missing)


def _timing(cell: _Cell, peak_mib: float | None) -> Timing:
    task, opened = cell.process.task, cell.process.opened
    artifact = task["artifact"]
    wall = [clock for clock, _cpu in cell.calls_ms]
    cpu = statistics.median(work for _clock, work in cell.calls_ms)
    names = ("path", "target", "graph", "precision", "input", "batch", "bytes")
    return {
        **{name: artifact[name] for name in names},
        **{name: task[name] for name in ("runtime", "unit", "compute", "threads")},
        "heads": cell.heads,
        "runtime_version": opened["version"],
        "load_ms": opened["load_ms"],
        "peak_mib": peak_mib,
        "base_mib": opened["base_mib"],
        "warmup_calls": cell.warmed["calls"],
        "max_abs_error": cell.warmed["error"],
        "bound": artifact["bounds"].get(str(cell.heads)),
        "median_ms": statistics.median(wall),
        "mean_ms": statistics.mean(wall),
        "min_ms": min(wall),
        **{f"p{share}_ms": float(np.percentile(wall, share)) for share in (10, 90, 99)},
        "cpu_ms": cpu,
        "cpu_min_ms": min(work for _clock, work in cell.calls_ms),
        "noise": list(noise(wall, cpu if task["threads"] == 1 and task["unit"] == "cpu" else None)),
        "runs_ms": [float(f"{ms:.5g}") for ms in wall],
    }


def noise(runs_ms: Sequence[float], cpu_ms: float | None) -> Iterator[str]:
    """Why these times may say little; *cpu_ms* is the work of one thread, where it was one.

    scattered: one in ten calls took far longer than half of them. drifted: the last third was slower or faster than
    the first, as of a chip that gets hot. waited: others had the core.
    """
    median = statistics.median(runs_ms)
    if len(runs_ms) >= _LEAST_RUNS and float(np.percentile(runs_ms, 90)) > _SCATTERED * median:
        yield "scattered"
    third = len(runs_ms) // 3
    if third >= _LEAST_RUNS:
        ratio = statistics.median(runs_ms[-third:]) / statistics.median(runs_ms[:third])
        if not 1 / _DRIFTED < ratio < _DRIFTED:
            yield "drifted"
    if cpu_ms is not None and median > _WAITED * cpu_ms:
        yield "waited"


# On a board


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of bench.py."""
    cores, known = usable_cores(), runners(SOURCES)
    parser = argparse.ArgumentParser(description="Times the artifacts in this folder on this machine.")
    parser.add_argument(
        "--threads", default=f"1,{cores}" if cores > 1 else "1", help="threads, such as 1,4; by default 1 and all cores"
    )
    parser.add_argument("--runs", type=int, default=50, help="timed calls of each artifact (default 50)")
    parser.add_argument("--runtime", default="", help=f"comma-separated runtimes from {', '.join(known)}")
    parser.add_argument("--limit-memory", type=int, help="memory limit of each artifact in MiB (default: by its size)")
    parser.add_argument("--limit-seconds", type=float, help="time limit in seconds to load one, and for a first call")
    parser.add_argument("--out", default=RESULT, help=f"file for the result (default {RESULT})")
    asked = parser.parse_args(arguments)
    folder = Path(__file__).resolve().parent
    plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    wanted = [name.strip() for name in asked.runtime.split(",") if name.strip()]
    here = installed(known)
    runtimes = [name for name in here if not wanted or name in wanted]
    unknown = [name for name in wanted if name not in known]
    counts = asked.threads.split(",")
    if unknown:
        parser.error(f"--runtime: no '{unknown[0]}'; known: {', '.join(known)}")
    if not here:
        needs = {runner["target"]: runner["needs"] for runner in known.values()}
        parser.error(f"no runtime is installed here: {'; '.join(f'{t} needs {what}' for t, what in needs.items())}")
    if not runtimes:
        parser.error(f"{', '.join(wanted)} is not installed here; what is: {', '.join(here)}")
    if asked.limit_memory is not None and asked.limit_memory < LEAST_MIB:
        parser.error(f"--limit-memory is {asked.limit_memory}; use {LEAST_MIB} or more")
    if asked.limit_seconds is not None and not 0 < asked.limit_seconds < float("inf"):
        parser.error(f"--limit-seconds is {asked.limit_seconds}; use more than 0")
    if asked.runs < 1:
        parser.error(f"--runs is {asked.runs}; use 1 or more")
    if not all(count.strip().isdigit() and int(count) >= 1 for count in counts):
        parser.error(f"--threads is {asked.threads}; use 1 or more, or several: --threads 1,4")
    threads = [int(count) for count in counts]
    out = Path(asked.out)
    if out.is_dir() or not os.access(str(out if out.exists() else out.resolve().parent), os.W_OK):
        parser.error(f"--out {out} cannot be written: it is a folder, or its folder is missing or read-only")
    limits = {"memory_mib": asked.limit_memory, "seconds": asked.limit_seconds}
    result = measure(folder, plan, asked.runs, threads, runtimes, _steps, **limits)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    _progress("")
    sys.stdout.write("\n".join(_table(result)) + "\n\n")
    sys.stdout.write(f"Copy {out} back, then:  hydra-export profile import {out.name}\n")
    return 1 if not result["timings"] else 0


def _steps(what: str, done: int, total: int) -> None:
    _progress(f"{what} {done}/{total}")


def _progress(line: str) -> None:
    """Replaces the last line of a terminal; a log gets none."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{line[:79]:<79}\r")
        sys.stderr.flush()


def _table(result: dict[str, Any]) -> Iterator[str]:
    rows = [["artifact", "k", "runtime", "threads", "ms", "p90", "load ms", "MiB", "error", ""]]
    for one in result["timings"]:
        wrong = one["bound"] is not None and one["compute"] == "fp32" and one["max_abs_error"] > one["bound"]
        marks = [*one["noise"], *(["WRONG RESULT"] if wrong else [])]
        counts = (str(one["heads"]), one["runtime"], str(one["threads"]))
        times = (_ms(one["median_ms"]), _ms(one["p90_ms"]), f"{one['load_ms']:.0f}")
        measured = (f"{one['peak_mib'] or 0:.0f}", f"{one['max_abs_error']:.0e}")
        rows.append([one["path"], *counts, *times, *measured, ", ".join(marks)])
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for row in rows:
        cells = (row[at].ljust(width) if at in _LEFT else row[at].rjust(width) for at, width in enumerate(widths))
        yield "  ".join(cells).rstrip()
    for one in result["failed"]:
        yield f"{one['path']}: {one['runtime']} does not run it: {one['why']}"


def _ms(ms: float) -> str:
    return f"{ms:.3g}" if ms < 1000 else f"{ms:.0f}"


if __name__ == "__main__":
    if "--serve" in sys.argv[1:]:
        _serve()
    else:
        sys.exit(main())
