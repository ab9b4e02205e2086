"""The run-time library at ViT-B/16-224 size, random weights: ``python benchmarks/runtime.py BUNDLE_FOLDER``.

What it costs beside a bare call of the runtime; and whether it keeps a deadline for real, where others take the cores
in the second third of the calls: how many calls miss it and which head counts run, beside fixed ones, in turns.
The bundle (universal, uint8 images, ONNX and TFLite, k = 3, 6, 12) is written into the folder if it is not there.
Results: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from measuring import environment, make_checkpoint

from hydra_export import runtime

HEADS = (3, 6, 12)
_OVERHEAD_CALLS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--calls", type=int, default=180)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=["overhead", "deadline"])
    asked = parser.parse_args()
    print(environment(["onnxruntime", "ai-edge-litert", "numpy"]))
    if not asked.bundle.exists():
        write(asked.bundle)
    if asked.only != "deadline":
        overhead(asked.bundle, asked.threads)
    if asked.only != "overhead":
        for target in ("onnx", "tflite"):
            deadline(asked.bundle, target, asked)


def write(folder: Path) -> None:
    from hydra_export import checkpoint
    from hydra_export.exporting import export, jobs

    with tempfile.TemporaryDirectory() as place:
        make_checkpoint(Path(place) / "vit-b.safetensors")
        loaded = checkpoint.load(Path(place) / "vit-b.safetensors")
        export(loaded, folder, jobs(["onnx", "tflite"], ["universal"], input="image"), heads=HEADS)


def overhead(folder: Path, threads: int) -> None:
    """Of calls with pixels as the model takes them, at k = 3: the library's, and the session's alone, taking turns."""
    ort = importlib.import_module("onnxruntime")
    model = runtime.load(folder, target="onnx", threads=threads).budget(1e6, references={3: 50.0})
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(str(folder / model.artifacts[3]["path"]), options)
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    given, k = pixels[None], np.array(3, np.int64)
    bare, ours = list[float](), list[float]()
    calls = [(bare, lambda: session.run(None, {"image": given, "k": k})), (ours, lambda: model.answer(pixels))]
    for call in range(_OVERHEAD_CALLS + 10):
        for taken, run in calls[:: 1 if call % 2 else -1]:
            began = time.perf_counter()
            run()
            taken.append((time.perf_counter() - began) * 1e3)
    bare, ours = bare[10:], ours[10:]
    ratio = statistics.median(b / a for a, b in zip(bare, ours, strict=True))
    own = statistics.median(_beside_the_run(model, pixels) for _ in range(500))
    print(
        f"k = 3, {threads} threads: {statistics.median(bare):.2f} ms bare; {ratio:.4f} times as long with the library"
    )
    print(f"the library's own work: {own * 1e3:.1f} us a call (runs that take no time)\n")


def _beside_the_run(model: runtime.Model, pixels: Any) -> float:
    """Milliseconds of a call whose run takes none: it gives what the model gave once."""
    outputs = model.answer(pixels, 3).outputs[None] if 3 not in _GIVEN else _GIVEN[3]
    _GIVEN[3] = outputs
    kept, model._runs = model._runs, {3: lambda _image: outputs}
    began = time.perf_counter()
    model.answer(pixels)
    took = (time.perf_counter() - began) * 1e3
    model._runs = kept
    return took


_GIVEN: dict[int, Any] = {}


def deadline(folder: Path, target: str, asked: argparse.Namespace) -> None:
    """Misses and mean head count, in runs that take turns: the controller and fixed head counts."""
    model = runtime.load(folder, target=target, threads=asked.threads)
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    times = model.measure(5)
    ms = (times[6] * times[12]) ** 0.5
    alone = ", ".join(f"k = {k}: {t:.1f} ms" for k, t in times.items())
    print(f"{target} in {model.runtime}: {alone}; budget {ms:.1f} ms")
    print("run | " + " | ".join(["budget: missed %, mean k, p95 ms", *(f"k = {k}: missed %" for k in HEADS)]))
    rows = list[list[float]]()
    for run in range(asked.runs):
        cells, numbers = [], list[float]()
        for fixed in (None, *HEADS):
            model.fixed(fixed) if fixed else model.fixed().budget(ms, references=times)
            taken, heads = _calls(model, pixels, asked.calls)
            missed = 100 * statistics.mean(each > ms for each in taken)
            numbers += [missed, statistics.mean(heads)] if fixed is None else [missed]
            p95 = sorted(taken)[int(0.95 * len(taken))]
            cells.append(f"{missed:.1f}, {statistics.mean(heads):.1f}, {p95:.0f}" if fixed is None else f"{missed:.1f}")
        rows.append(numbers)
        print(f"{run + 1} | " + " | ".join(cells), flush=True)
    means = [statistics.mean(column) for column in zip(*rows, strict=True)]
    print("mean | " + " | ".join([f"{means[0]:.1f}, {means[1]:.1f}", *(f"{each:.1f}" for each in means[2:])]) + "\n")


def _calls(model: runtime.Model, pixels: Any, count: int) -> tuple[list[float], list[int]]:
    taken, heads = list[float](), list[int]()
    hogs = list[multiprocessing.Process]()
    for call in range(count):
        if call == count // 3:
            hogs = [multiprocessing.Process(target=_take_a_core, daemon=True) for _ in range(os.cpu_count() or 1)]
            for hog in hogs:
                hog.start()
        if call == 2 * count // 3:
            for hog in hogs:
                hog.kill()
                hog.join()
        answer = model.answer(pixels)
        taken.append(answer.ms)
        heads.append(answer.heads)
    return taken, heads


def _take_a_core() -> None:
    while True:
        pass


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    main()
