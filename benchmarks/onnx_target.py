"""The ONNX target at ViT-B/16-224 size, random weights, one thread: ``python benchmarks/onnx_target.py``.

Against ``torch.onnx.export(dynamo=True)``: latency, writing time. Shared against separate: latency, load time, memory,
bytes on disk. Peak memory of the export. Runs that are compared are interleaved in one process and compared by the
median of the ratios of their CPU time; memory is read in a process of its own. Results: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
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
    make_checkpoint,
    memory_bytes,
    onnxruntime_session,
    restart_memory_peak,
)

HEADS = tuple(range(3, 13))
# Folder: graph kind, weight files, head counts.
LAYOUTS = {
    "separate": ("separate", "each", HEADS),
    "shared": ("shared", "each", HEADS),
    "shared-one": ("shared", "one", HEADS),
    "shared-3-6-12": ("shared", "each", COMPARED),
}


def step_write(work: Path, folder: str) -> dict[str, float]:
    """Writes all head counts of one layout; seconds, and the peak of resident memory as the kernel counts it."""
    import torch

    from hydra_export import checkpoint, targets
    from hydra_export.target import ExportSpec
    from hydra_export.targets.onnx import OnnxOptions

    torch.set_num_threads(1)
    graph, weight_files, heads = LAYOUTS[folder]
    spec = ExportSpec(graph=graph, options=OnnxOptions(weight_files=weight_files))  # type: ignore[arg-type]
    target = targets.get("onnx")
    (work / folder).mkdir()
    with tempfile.TemporaryDirectory() as elsewhere:  # the packaged model: everything that an export imports
        target.write(checkpoint.load(), (1,), spec, Path(elsewhere))
    before = restart_memory_peak()
    loaded = checkpoint.load(work / "vit-b.safetensors")
    start = time.perf_counter()
    target.write(loaded, heads, spec, work / folder)
    return {"seconds": time.perf_counter() - start, "libraries_bytes": before, "peak_bytes": memory_bytes("VmHWM")}


def step_export(work: Path, folder: str) -> dict[str, float]:
    """The whole pipeline for k = 3, 6, 12, parity in onnxruntime and PyTorch's float64 included."""
    from hydra_export import checkpoint, export
    from hydra_export.targets.onnx import OnnxOptions

    graph, weight_files, _heads = LAYOUTS[folder]
    listed = export.jobs(["onnx"], [graph], options=OnnxOptions(weight_files=weight_files))  # type: ignore[arg-type]
    before = memory_bytes("VmRSS")
    start = time.perf_counter()
    loaded = checkpoint.load(work / "vit-b.safetensors")
    export.export(loaded, work / f"bundle-{folder}", listed, heads=COMPARED)
    return {"seconds": time.perf_counter() - start, "libraries_bytes": before, "peak_bytes": memory_bytes("VmHWM")}


def step_dynamo(work: Path) -> dict[str, float]:
    """Ten exports of dense timm ViTs with torch's own exporter, as a user would write them."""
    import torch

    from hydra_export import checkpoint

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    (work / "dynamo").mkdir()
    model = checkpoint.load(work / "vit-b.safetensors").model
    image = (torch.randn(1, 3, 224, 224),)
    seconds = {}
    for k in HEADS:
        dense = model.subnetwork(k)
        start = time.perf_counter()
        path = work / "dynamo" / f"k{k}.onnx"
        torch.onnx.export(dense, image, path, dynamo=True, external_data=False, verbose=False)
        seconds[str(k)] = time.perf_counter() - start
    return {"seconds": sum(seconds.values()), **seconds}


def step_opsets(work: Path) -> dict[str, float]:
    """The compared head counts at the other opsets."""
    from hydra_export import checkpoint, targets
    from hydra_export.target import ExportSpec
    from hydra_export.targets.onnx import OnnxOptions

    loaded = checkpoint.load(work / "vit-b.safetensors")
    for opset in (20, 23):
        (work / f"opset-{opset}").mkdir()
        targets.get("onnx").write(
            loaded, COMPARED, ExportSpec(options=OnnxOptions(opset=opset)), work / f"opset-{opset}"
        )
    return {}


def step_latency(work: Path, k: int, names: list[str], runs: int) -> dict[str, Any]:
    """CPU time over the first of *names*, interleaved: median of the ratios, and the largest difference of logits."""
    sessions = {name: onnxruntime_session(_path(work, name, k)) for name in names}
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
    return interleaved({name: _call(session, image) for name, session in sessions.items()}, runs)


def step_session(work: Path, k: int, name: str) -> dict[str, float]:
    """Load time and resident memory of one session after a run, over the process before it."""
    image = np.zeros((1, 3, 224, 224), np.float32)
    import onnxruntime  # noqa: F401

    before = memory_bytes("VmRSS")
    start = time.perf_counter()
    session = onnxruntime_session(_path(work, name, k))
    seconds = time.perf_counter() - start
    _call(session, image)()
    return {
        "load_seconds": seconds,
        "resident_bytes": memory_bytes("VmRSS") - before,
        "peak_bytes": memory_bytes("VmHWM") - before,
    }


def _path(work: Path, name: str, k: int) -> Path:
    if name == "dynamo":
        return work / name / f"k{k}.onnx"
    return work / name / f"vit-b{'-shared' if name.startswith('shared') else ''}-k{k}.onnx"


def _call(session: Any, image: np.ndarray) -> Callable[[], Any]:
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: image})[0]


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def report(work: Path, runs: int) -> None:
    """All steps, printed as the Markdown tables of benchmarks/README.md."""
    print(environment(("torch", "timm", "onnx", "onnxruntime")), end="\n\n")
    make_checkpoint(work / "vit-b.safetensors")
    size = (work / "vit-b.safetensors").stat().st_size
    written = {folder: isolated(__file__, work, "write", folder) for folder in LAYOUTS}
    dynamo = isolated(__file__, work, "dynamo")
    isolated(__file__, work, "opsets")

    compared = {"dynamo": "", "separate": "default (17)", "opset-20": "20", "opset-23": "23"}
    latency = {k: isolated(__file__, work, "latency", str(k), ",".join(compared), str(runs)) for k in COMPARED}
    print("| opset | k = 3 | k = 6 | k = 12 |\n|---|---|---|---|")
    for name, label in list(compared.items())[1:]:
        print(f"| {label} | " + " | ".join(f"{latency[k][name]['ratio']:.3f}" for k in COMPARED) + " |")
    worst = max(latency[k][name]["difference"] for k in COMPARED for name in compared)
    print(f"\nLargest difference of logits: {worst:.1e}\n")

    largest = _path(work, "separate", 12).stat().st_size
    print("| layout | bytes | over the k = 12 file | dynamo's writing time over it | peak memory | without libraries |")
    print("|---|---|---|---|---|---|")
    for folder, step in written.items():
        total, own = _bytes(work / folder), (step["peak_bytes"] - step["libraries_bytes"]) / size
        faster = sum(dynamo[str(k)] for k in LAYOUTS[folder][2]) / step["seconds"]
        print(
            f"| {folder} | {total:,} | {total / largest:.4f} | {faster:.1f} | "
            f"{step['peak_bytes'] / size:.2f} | {own:.2f} |"
        )
    print("\n| whole export of k = 3, 6, 12, with parity | peak memory | without libraries |\n|---|---|---|")
    for folder in ("separate", "shared-3-6-12"):
        step = isolated(__file__, work, "export", folder)
        own = (step["peak_bytes"] - step["libraries_bytes"]) / size
        print(f"| {folder} | {step['peak_bytes'] / size:.2f} | {own:.2f} |")

    _report_loading(work, COMPARED, ("separate", "shared-3-6-12", "shared-one"), runs)
    _report_loading(work, HEADS, ("separate", "shared", "shared-one"), runs)


def _report_loading(work: Path, heads: tuple[int, ...], folders: tuple[str, ...], runs: int) -> None:
    """Latency, load time and memory over those of the first folder."""
    figures = ("latency", "load", "resident", "peak")
    print("\n| k | " + " | ".join(f"{name}: {what}" for name in folders[1:] for what in figures) + " |")
    print("|---" * (1 + len(figures) * (len(folders) - 1)) + "|")
    for k in heads:
        ratios = isolated(__file__, work, "latency", str(k), ",".join(folders), str(runs))
        rounds = [{name: isolated(__file__, work, "session", str(k), name) for name in folders} for _ in range(3)]
        cells = []
        for name in folders[1:]:
            cells.append(ratios[name]["ratio"])
            cells += [
                statistics.median(step[name][what] / step[folders[0]][what] for step in rounds)
                for what in ("load_seconds", "resident_bytes", "peak_bytes")
            ]
        print(f"| {k} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |", flush=True)


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
        "write": step_write,
        "export": step_export,
        "dynamo": step_dynamo,
        "opsets": step_opsets,
        "latency": lambda work, k, names, runs: step_latency(work, int(k), names.split(","), int(runs)),
        "session": lambda work, k, layout: step_session(work, int(k), layout),
    }
    print(json.dumps(steps[name](given.work, *rest)))


if __name__ == "__main__":
    main()
