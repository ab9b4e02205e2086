"""The TFLite target at ViT-B/16-224 size, random weights, one thread: ``python benchmarks/tflite_target.py``.

Against ``litert_torch.convert`` of the dense timm ViT: latency, writing time, memory; and latency against our own ONNX
file in onnxruntime. It needs litert-torch, which is best kept in an environment of its own. Runs that are compared are
interleaved in one process and compared by the median of the ratios of their CPU time; writing time and memory are read
in processes of their own. Results: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measuring import (
    COMPARED,
    environment,
    interleaved,
    isolated,
    litert_call,
    make_checkpoint,
    memory_bytes,
    onnxruntime_call,
    restart_memory_peak,
)


def step_write(work: Path, target_name: str, k: int) -> dict[str, float]:
    """Writes one file of ours; seconds, and the peak of resident memory as the kernel counts it."""
    import torch

    from hydra_export import checkpoint, targets
    from hydra_export.target import ExportSpec

    torch.set_num_threads(1)
    target = targets.get(target_name)
    (work / target_name).mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as elsewhere:  # the packaged model: everything that an export imports
        target.write(checkpoint.load(), (1,), ExportSpec(), Path(elsewhere))
    before = restart_memory_peak()
    loaded = checkpoint.load(work / "vit-b.safetensors")
    start = time.perf_counter()
    target.write(loaded, (k,), ExportSpec(), work / target_name)
    return {"seconds": time.perf_counter() - start, "own_bytes": memory_bytes("VmHWM") - before}


def step_litert_torch(work: Path, k: int) -> dict[str, float]:
    """The same with litert-torch, as its users would write it."""
    import litert_torch
    import torch

    from hydra_export import checkpoint

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    (work / "litert-torch").mkdir(exist_ok=True)
    litert_torch.convert(torch.nn.Linear(2, 2).eval(), (torch.zeros(1, 2),))  # everything that it imports
    before = restart_memory_peak()
    dense = checkpoint.load(work / "vit-b.safetensors").model.subnetwork(k).eval()
    start = time.perf_counter()
    converted = litert_torch.convert(dense, (torch.zeros(1, 3, 224, 224),))
    converted.export(str(work / "litert-torch" / f"vit-b-k{k}.tflite"))
    return {"seconds": time.perf_counter() - start, "own_bytes": memory_bytes("VmHWM") - before}


def step_latency(work: Path, k: int, runs: int) -> dict[str, Any]:
    """Everything that was written for *k*."""
    image_BCHW = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
    calls = {
        "litert-torch": litert_call(work / "litert-torch" / f"vit-b-k{k}.tflite", image_BCHW),
        "onnx": onnxruntime_call(work / "onnx" / f"vit-b-k{k}.onnx", image_BCHW),
        "tflite": litert_call(work / "tflite" / f"vit-b-k{k}.tflite", image_BCHW.transpose(0, 2, 3, 1)),
    }
    return interleaved(calls, runs)


def report(work: Path, runs: int) -> None:
    """All steps, printed as the Markdown tables of benchmarks/README.md."""
    print(environment(("torch", "onnxruntime", "ai-edge-litert", "litert-torch")), end="\n\n")
    make_checkpoint(work / "vit-b.safetensors")
    size = (work / "vit-b.safetensors").stat().st_size
    print(
        "| k | bytes | seconds | litert-torch's over it | memory | litert-torch's memory |\n|---|---|---|---|---|---|"
    )
    for k in COMPARED:
        isolated(__file__, work, "write", "onnx", str(k))
        ours, theirs = isolated(__file__, work, "write", "tflite", str(k)), isolated(__file__, work, "litert", str(k))
        written = (work / "tflite" / f"vit-b-k{k}.tflite").stat().st_size
        print(
            f"| {k} | {written:,} | {ours['seconds']:.2f} | {theirs['seconds'] / ours['seconds']:.0f} | "
            f"{ours['own_bytes'] / size:.2f} | {theirs['own_bytes'] / size:.2f} |",
            flush=True,
        )
    latency = {k: isolated(__file__, work, "latency", str(k), str(runs)) for k in COMPARED}
    print("\n| our TFLite file over | k = 3 | k = 6 | k = 12 |\n|---|---|---|---|")
    for peer, label in (("litert-torch", "litert-torch's"), ("onnx", "our ONNX file in onnxruntime")):
        print(f"| {label} | " + " | ".join(f"{latency[k]['tflite']['over'][peer]:.3f}" for k in COMPARED) + " |")
    worst = max(latency[k][name]["difference"] for k in COMPARED for name in latency[k])
    print(f"\nLargest difference of logits: {worst:.1e}")


def main() -> None:
    """Everything, or one step of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--step", nargs="+")
    given = parser.parse_args()
    if given.step is None:
        with tempfile.TemporaryDirectory() as folder:
            report(given.work or Path(folder), given.runs)
        return
    name, *rest = given.step
    steps: dict[str, Callable[..., Any]] = {
        "write": lambda work, target, k: step_write(work, target, int(k)),
        "litert": lambda work, k: step_litert_torch(work, int(k)),
        "latency": lambda work, k, runs: step_latency(work, int(k), int(runs)),
    }
    print(json.dumps(steps[name](given.work, *rest)))


if __name__ == "__main__":
    main()
