"""The ONNX target at ViT-B/16-224 size, random weights, one thread: ``python benchmarks/onnx_target.py``.

Against ``torch.onnx.export(dynamo=True)``: latency, writing time. Shared against separate: latency, load time, memory,
bytes on disk. Peak memory of the export. Runs that are compared are interleaved in one process and compared by the
median of the ratios of their CPU time; memory is read in a process of its own. Results: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HEADS = tuple(range(3, 13))
COMPARED = (3, 6, 12)


def make_checkpoint(path: Path) -> None:
    """ViT-B/16-224 with random weights, in our format."""
    import torch

    from hydra_export import checkpoint
    from hydra_export.architecture import HydraConfig
    from hydra_export.model import HydraViT
    from hydra_export.preprocess import imagenet

    torch.manual_seed(0)
    config = HydraConfig(heads=12)
    model = HydraViT(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    checkpoint.save(path, model.state_dict(), checkpoint.CheckpointInfo(name="vit-b", config=config, preprocessing=imagenet(224)))


def step_write(work: Path, graph: str) -> dict[str, float]:
    """Writes all ten head counts; seconds, and memory as the kernel counts it."""
    import torch

    from hydra_export import checkpoint, targets
    from hydra_export.target import ExportSpec

    torch.set_num_threads(1)
    target = targets.get("onnx")
    out = work / graph
    out.mkdir()

    target.write(checkpoint.load(), (1,), ExportSpec(), work)  # the packaged model: imports everything that an export does
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again here
    start = time.perf_counter()
    loaded = checkpoint.load(work / "vit-b.safetensors")
    loading = time.perf_counter() - start
    start = time.perf_counter()
    target.write(loaded, HEADS, ExportSpec(graph=graph), out)  # type: ignore[arg-type]
    seconds = time.perf_counter() - start
    peak = _status("VmHWM")
    return {"seconds": seconds, "load_seconds": loading, "libraries_bytes": before, "peak_bytes": peak}


def step_single(work: Path) -> dict[str, float]:
    """Writes the single-file layout."""
    import single_file

    from hydra_export import checkpoint

    (work / "single").mkdir()
    start = time.perf_counter()
    single_file.write(checkpoint.load(work / "vit-b.safetensors"), HEADS, work / "single")
    return {"seconds": time.perf_counter() - start}


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

    loaded = checkpoint.load(work / "vit-b.safetensors")
    for opset in (20, 23):
        (work / f"opset{opset}").mkdir()
        targets.get("onnx").write(loaded, COMPARED, ExportSpec(opset=opset), work / f"opset{opset}")
    return {}


def step_latency(work: Path, k: int, names: list[str], runs: int) -> dict[str, Any]:
    """CPU time over the first of *names*, interleaved: median of the ratios, and the largest difference of logits."""
    sessions = {name: _session(_path(work, name, k)) for name in names}
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
    calls = {name: _call(session, image) for name, session in sessions.items()}
    logits = {name: call() for name, call in calls.items()}
    taken: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(runs):
        for name, call in calls.items():
            start = time.thread_time()
            call()
            taken[name].append(time.thread_time() - start)
    first = names[0]
    return {
        name: {
            "ratio": statistics.median(a / b for a, b in zip(taken[name], taken[first], strict=True)),
            "ms": statistics.median(taken[name]) * 1e3,
            "difference": float(np.abs(logits[name] - logits[first]).max()),
        }
        for name in names
    }


def step_memory(work: Path, k: int, name: str) -> dict[str, float]:
    """Load time and resident memory of one session after a run, over the process before it."""
    image = np.zeros((1, 3, 224, 224), np.float32)
    import onnxruntime  # noqa: F401

    before = _status("VmRSS")
    start = time.perf_counter()
    session = _session(_path(work, name, k))
    seconds = time.perf_counter() - start
    _call(session, image)()
    return {
        "load_seconds": seconds,
        "resident_bytes": _status("VmRSS") - before,
        "anonymous_bytes": _status("RssAnon"),
        "peak_bytes": _status("VmHWM") - before,
    }


def _path(work: Path, name: str, k: int) -> Path:
    names = {
        "direct": f"separate/vit-b-k{k}.onnx",
        "opset 20": f"opset20/vit-b-k{k}.onnx",
        "opset 23": f"opset23/vit-b-k{k}.onnx",
        "dynamo": f"dynamo/k{k}.onnx",
        "shared": f"shared/vit-b-shared-k{k}.onnx",
        "single file": f"single/single-k{k}.onnx",
    }
    return work / names[name]


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _call(session: Any, image: np.ndarray) -> Callable[[], Any]:
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: image})[0]


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def _isolated(work: Path, *step: str) -> Any:
    """Runs one step in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, __file__, "--work", str(work), "--step", *step]
    done = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def report(work: Path, runs: int) -> None:
    """All steps, printed as the Markdown of benchmarks/README.md."""
    make_checkpoint(work / "vit-b.safetensors")
    size = (work / "vit-b.safetensors").stat().st_size
    written = {graph: _isolated(work, "write", graph) for graph in ("separate", "shared")}
    written["single file"] = _isolated(work, "single")
    dynamo = _isolated(work, "dynamo")
    _isolated(work, "opsets")

    print("| CPU time over dynamo's | k = 3 | k = 6 | k = 12 |\n|---|---|---|---|")
    compared = ["dynamo", "direct", "opset 20", "opset 23"]
    latency = {k: _isolated(work, "latency", str(k), ",".join(compared), str(runs)) for k in COMPARED}
    for name in compared[1:]:
        print(f"| {name} | " + " | ".join(f"{latency[k][name]['ratio']:.3f}" for k in COMPARED) + " |")
    worst = max(latency[k][name]["difference"] for k in COMPARED for name in compared)
    print(f"\nLargest difference of logits: {worst:.1e}\n")

    print("| writing k = 3..12 | seconds | dynamo's over it | peak memory over the checkpoint | without libraries |")
    print("|---|---|---|---|---|")
    for graph in ("separate", "shared"):
        step = written[graph]
        own = (step["peak_bytes"] - step["libraries_bytes"]) / size
        ratio = dynamo["seconds"] / step["seconds"]
        print(f"| {graph} | {step['seconds']:.1f} | {ratio:.1f} | {step['peak_bytes'] / size:.2f} | {own:.2f} |")
    print(f"| dynamo | {dynamo['seconds']:.1f} | | | |\n")

    largest = _path(work, "direct", 12).stat().st_size
    print("| k = 3..12 on disk | bytes | over the k = 12 file |\n|---|---|---|")
    for folder in ("separate", "shared", "single"):
        print(f"| {folder} | {_bytes(work / folder):,} | {_bytes(work / folder) / largest:.4f} |")

    layouts = ["direct", "shared", "single file"]
    print("\n| k | " + " | ".join(f"{name}: {what}" for name in layouts[1:] for what in ("latency", "load", "memory", "peak")))
    print("|---" * (1 + 4 * (len(layouts) - 1)) + "|")
    for k in HEADS:
        ratios = _isolated(work, "latency", str(k), ",".join(layouts), str(runs))
        memory = {name: _isolated(work, "memory", str(k), name) for name in layouts}
        cells = []
        for name in layouts[1:]:
            cells.append(f"{ratios[name]['ratio']:.3f}")
            for what in ("load_seconds", "resident_bytes", "peak_bytes"):
                cells.append(f"{memory[name][what] / memory['direct'][what]:.2f}")
        print(f"| {k} | " + " | ".join(cells) + " |", flush=True)


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
        "single": step_single,
        "dynamo": step_dynamo,
        "opsets": step_opsets,
        "latency": lambda work, k, names, runs: step_latency(work, int(k), names.split(","), int(runs)),
        "memory": lambda work, k, layout: step_memory(work, int(k), layout),
    }
    print(json.dumps(steps[name](given.work, *rest)))


if __name__ == "__main__":
    main()
