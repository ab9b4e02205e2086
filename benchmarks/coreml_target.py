"""The Core ML target at ViT-B/16-224 size, random weights, one thread: ``python benchmarks/coreml_target.py``.

Writing a package against coremltools' own conversion of the dense timm ViT: time, memory, size; and what the evaluator
takes for one image, which proves the package. There is no Core ML here to run either. Every figure is read in a process
of its own. Results: benchmarks/README.md.
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
from measuring import COMPARED, environment, isolated, make_checkpoint, memory_bytes, restart_memory_peak


def step_write(work: Path, k: int) -> dict[str, float]:
    """Writes one package of ours, which coremltools reads back; seconds, and the peak of resident memory."""
    import torch

    from hydra_export import checkpoint, targets
    from hydra_export.target import ExportSpec

    torch.set_num_threads(1)
    target, spec = targets.get("coreml"), ExportSpec(precision="fp16")
    with tempfile.TemporaryDirectory() as elsewhere:  # the packaged model: everything that an export imports
        target.write(checkpoint.load(), (1,), spec, Path(elsewhere))
    before = restart_memory_peak()
    loaded = checkpoint.load(work / "vit-b.safetensors")
    start = time.perf_counter()
    (artifact,) = target.write(loaded, (k,), spec, work)
    seconds = time.perf_counter() - start
    written = sum(path.stat().st_size for path in (work / artifact.path).rglob("*") if path.is_file())
    return {"seconds": seconds, "own_bytes": memory_bytes("VmHWM") - before, "bytes": written}


def step_coremltools(work: Path, k: int) -> dict[str, float]:
    """The same with coremltools, as its users would write it."""
    import torch
    import torchvision  # noqa: F401  # before coremltools, or its native parts crash

    import coremltools as ct  # isort: skip

    from hydra_export import checkpoint

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")

    def converted(module: torch.nn.Module, example: torch.Tensor) -> Any:
        program = torch.export.export(module.eval(), (example,)).run_decompositions({})
        return ct.convert(program, minimum_deployment_target=ct.target.iOS18, skip_model_load=True)

    converted(torch.nn.Linear(2, 2), torch.zeros(1, 2))  # everything that it imports
    before = restart_memory_peak()
    dense = checkpoint.load(work / "vit-b.safetensors").model.subnetwork(k)
    start = time.perf_counter()
    converted(dense, torch.zeros(1, 3, 224, 224)).save(str(work / f"theirs-k{k}.mlpackage"))
    seconds = time.perf_counter() - start
    written = sum(path.stat().st_size for path in (work / f"theirs-k{k}.mlpackage").rglob("*") if path.is_file())
    return {"seconds": seconds, "own_bytes": memory_bytes("VmHWM") - before, "bytes": written}


def step_evaluate(work: Path, k: int) -> dict[str, float]:
    """CPU seconds for one image in torch, and in the evaluator as often."""
    import torch

    from hydra_export import checkpoint, targets

    torch.set_num_threads(1)
    image_BCHW = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
    dense = checkpoint.load(work / "vit-b.safetensors").model.subnetwork(k)
    path = work / f"vit-b-k{k}.mlpackage"
    sessions = {name: targets.get("coreml").load(path, k, 1, name) for name in ("mil", "mil-fp16")}
    calls: dict[str, Callable[[], object]] = {"torch": lambda: dense(torch.from_numpy(image_BCHW))}
    calls |= {name: lambda session=session: session.run(image_BCHW) for name, session in sessions.items()}
    taken: dict[str, float] = {}
    with torch.inference_mode():
        for name, call in calls.items():
            call()
            start = time.thread_time()
            for _ in range(3):
                call()
            taken[name] = (time.thread_time() - start) / 3
    return taken


def report(work: Path) -> None:
    """All steps, printed as the Markdown tables of benchmarks/README.md."""
    print(environment(("torch", "coremltools")), end="\n\n")
    make_checkpoint(work / "vit-b.safetensors")
    size = (work / "vit-b.safetensors").stat().st_size
    print(
        "| k | bytes | over coremltools' | seconds | coremltools' over it | memory | coremltools' memory | "
        "mil over torch | mil-fp16 |\n|---|---|---|---|---|---|---|---|---|"
    )
    for k in COMPARED:
        ours, theirs = isolated(__file__, work, "write", str(k)), isolated(__file__, work, "coremltools", str(k))
        took = isolated(__file__, work, "evaluate", str(k))
        print(
            f"| {k} | {ours['bytes']:,} | {ours['bytes'] / theirs['bytes']:.4f} | {ours['seconds']:.2f} | "
            f"{theirs['seconds'] / ours['seconds']:.1f} | {ours['own_bytes'] / size:.2f} | "
            f"{theirs['own_bytes'] / size:.2f} | {took['mil'] / took['torch']:.1f} | "
            f"{took['mil-fp16'] / took['torch']:.1f} |",
            flush=True,
        )


def main() -> None:
    """Everything, or one step of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--step", nargs=2)
    given = parser.parse_args()
    if given.step is None:
        with tempfile.TemporaryDirectory() as folder:
            report(given.work or Path(folder))
        return
    name, k = given.step
    steps = {"write": step_write, "coremltools": step_coremltools, "evaluate": step_evaluate}
    print(json.dumps(steps[name](given.work, int(k))))


if __name__ == "__main__":
    main()
