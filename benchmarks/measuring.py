"""What the benchmarks share: the processor, a ViT-B, steps in processes of their own, interleaved runs."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

COMPARED = (3, 6, 12)
# What decides how fast matrix products are, as Linux names it.
FLAGS = {
    "flags": ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16"),
    "Features": ("asimd", "asimddp", "i8mm", "sve"),  # ARM's
}


def processor(cpuinfo: str) -> str:
    """The first processor of */proc/cpuinfo*: its model, and which of FLAGS it has and lacks."""
    fields = dict(reversed(re.findall(r"^(\S[^\n\t:]*?)\s*: (.*)$", cpuinfo, re.MULTILINE)))
    name = fields.get("model name") or f"model unknown (part {fields.get('CPU part', 'unknown')})"
    for field, wanted in FLAGS.items():
        if field in fields:
            has = [flag for flag in wanted if flag in fields[field].split()]
            lacks = [flag for flag in wanted if flag not in has]
            return f"{name}, with {', '.join(has) or 'none'}, without {', '.join(lacks) or 'none'}"
    return f"{name}, flags unknown"


def environment(packages: Iterable[str]) -> str:
    """The processor, the cores that this process may use, the load, and versions of *packages*."""
    cpuinfo = Path("/proc/cpuinfo")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = [f"Python {platform.python_version()}", *(f"{package} {version(package)}" for package in packages)]
    here = processor(cpuinfo.read_text() if cpuinfo.exists() else "")
    return (
        f"Processor: {here}; {platform.machine()}, {cores} cores, "
        f"load {os.getloadavg()[0]:.1f}. {platform.system()}, {', '.join(versions)}."
    )


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def mean_and_range(columns: Sequence[Sequence[float]]) -> tuple[list[float], list[list[float]]]:
    """The mean of each, and how far its least and its largest are below and above that, as matplotlib takes it."""
    means = [statistics.mean(column) for column in columns]
    below = [mean - min(column) for mean, column in zip(means, columns, strict=True)]
    above = [max(column) - mean for mean, column in zip(means, columns, strict=True)]
    return means, [below, above]


def make_checkpoint(path: Path) -> None:
    """ViT-B/16-224 with random weights, in our format."""
    import torch

    from hydra_export import checkpoint_file
    from hydra_export.architecture import HydraConfig
    from hydra_export.model import HydraViT
    from hydra_export.preprocess import imagenet

    torch.manual_seed(0)
    config = HydraConfig(heads=12)
    model = HydraViT(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    checkpoint_file.write(
        path,
        model.state_dict(),
        checkpoint_file.CheckpointInfo(name="vit-b", config=config, preprocessing=imagenet(224)),
    )


def interleaved(calls: Mapping[str, Callable[[], np.ndarray]], runs: int) -> dict[str, dict[str, Any]]:
    """CPU time of *calls*, as the medians of the ratios to each other and to the first, and what differs from it."""
    returned = {name: call() for name, call in calls.items()}
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            start = time.thread_time()
            call()
            taken[name].append(time.thread_time() - start)
    first = next(iter(calls))

    def ratio(name: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(taken[name], taken[other], strict=True))

    return {
        name: {
            "ratio": ratio(name, first),
            "over": {other: ratio(name, other) for other in calls},
            "ms": statistics.median(taken[name]) * 1e3,
            "difference": float(np.abs(returned[name] - returned[first]).max()),
        }
        for name in calls
    }


def onnxruntime_session(path: Path, threads: int = 1) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")  # between calls others have the cores
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def onnxruntime_call(path: Path, image: np.ndarray, threads: int = 1) -> Callable[[], np.ndarray]:
    session = onnxruntime_session(path, threads)
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: image})[0]


def litert_call(path: Path, image: np.ndarray, threads: int = 1) -> Callable[[], np.ndarray]:
    """*image* in the layout of the file."""
    from ai_edge_litert.interpreter import Interpreter

    opened = Interpreter(str(path), num_threads=threads)
    opened.allocate_tensors()
    (given,), (result,) = opened.get_input_details(), opened.get_output_details()
    image = np.ascontiguousarray(image)

    def call() -> np.ndarray:
        opened.set_tensor(given["index"], image)
        opened.invoke()
        return opened.get_tensor(result["index"])

    return call


def spent(call: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of one call: on the clock, and of all cores."""
    clock, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - clock, time.process_time() - cpu


def memory_bytes(field: str) -> int:
    """A figure of this process's memory, as Linux calls it: VmRSS now, VmHWM at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def restart_memory_peak() -> int:
    """Lets VmHWM begin again; what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory_bytes("VmRSS")


def isolated(program: str, work: Path, *step: str) -> Any:
    """Runs one step of *program* in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    arguments = [sys.executable, program, "--work", str(work), "--step", *step]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])
