"""What the targets' benchmarks share: a model of ViT-B size, steps in processes of their own, interleaved runs."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

COMPARED = (3, 6, 12)


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
    done = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    return json.loads(done.stdout.splitlines()[-1])
