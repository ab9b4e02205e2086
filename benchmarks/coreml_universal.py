"""One Core ML package for every width, ViT-B/16-224 size, random weights: ``python benchmarks/coreml_universal.py``.

Against the package of the largest width alone: bytes on disk. Against coremltools' ``save_multifunction`` over the same
programs: time and memory, once the programs are in packages of their own; and what it saves where weights are not cut.
Every package is proven first. Every figure is read in a process of its own, one thread. Results: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measuring import COMPARED, environment, isolated, make_checkpoint, memory_bytes, restart_memory_peak

EVERY = tuple(range(3, 13))
LISTS = {"3, 6, 12": COMPARED, "3..12": EVERY}
PRECISIONS = ("fp16", "int8")
_SMALLEST_COSINE = {"fp16": 0.99999, "int8": 0.998}  # of random weights


def step_write(work: Path, graph: str, precision: str, heads: str) -> dict[str, float]:
    """Writes with the target; seconds, peak of memory, bytes, seconds of lint."""
    import torch

    from hydra_export import checkpoint, targets
    from hydra_export.target import ExportSpec

    torch.set_num_threads(1)
    target, listed = targets.get("coreml"), [int(k) for k in heads.split(",")]
    with tempfile.TemporaryDirectory() as elsewhere:  # everything that an export imports
        target.write(checkpoint.load(), (1,), ExportSpec(precision="fp16"), Path(elsewhere))
    before = restart_memory_peak()
    loaded = checkpoint.load(work / "vit-b.safetensors")
    out = work / f"{graph}-{precision}-{len(listed)}"
    out.mkdir()
    start = time.perf_counter()
    spec = ExportSpec(graph=graph, precision=precision)  # type: ignore[arg-type]
    artifacts = target.write(loaded, listed, spec, out)
    seconds, own_bytes = time.perf_counter() - start, memory_bytes("VmHWM") - before
    start = time.perf_counter()
    for artifact in artifacts:
        target.lint(out / artifact.path)
    return {
        "seconds": seconds,
        "own_bytes": own_bytes,
        "bytes": _size(out / artifacts[-1].path),
        "lint_seconds": time.perf_counter() - start,
    }


def step_coremltools(work: Path, cut: str, precision: str, heads: str) -> dict[str, float]:
    """Our own programs, cut into shells or whole, in a package for each, joined by coremltools' save_multifunction.

    Seconds and memory are those of joining alone.
    """
    import itertools

    sys.modules["tensorflow"] = None  # type: ignore[assignment]  # it and coremltools cannot share a process
    import torch
    import torchvision  # noqa: F401 (before coremltools: in the other order their native parts crash)

    ct = importlib.import_module("coremltools")

    from hydra_export import checkpoint
    from hydra_export.target import ExportSpec
    from hydra_export.targets.coreml import package

    torch.set_num_threads(1)
    listed = [int(k) for k in heads.split(",")]
    loaded, spec = checkpoint.load(work / "vit-b.safetensors"), ExportSpec(precision=precision)  # type: ignore[arg-type]
    spans = list(itertools.pairwise((0, *listed)))
    with tempfile.TemporaryDirectory() as folder:
        for count, k in enumerate(listed, start=1):
            shells = spans[:count] if cut == "shells" else [(0, k)]
            planned = package.planned(loaded, (k,), spec, f"k{k}")
            package.write(loaded, planned, Path(folder), [(package.ALONE, shells)], "a part")
            Path(folder, planned.path).rename(f"{folder}/k{k}.mlpackage")
        out = work / f"theirs-{cut}-{precision}-{len(listed)}.mlpackage"
        before = restart_memory_peak()
        start = time.perf_counter()
        descriptor = ct.utils.MultiFunctionDescriptor()
        for k in listed:
            descriptor.add_function(f"{folder}/k{k}.mlpackage", "main", f"k{k}")
        descriptor.default_function_name = f"k{listed[-1]}"
        ct.utils.save_multifunction(descriptor, str(out))
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "own_bytes": memory_bytes("VmHWM") - before, "bytes": _size(out)}


def step_prove(work: Path, precision: str, heads: str, k: int) -> dict[str, float]:
    """Function *k* in our evaluator, against PyTorch in float64, weights rounded where the file's are."""
    from hydra_export import checkpoint, parity, targets
    from hydra_export.errors import CheckFailed

    loaded, target = checkpoint.load(work / "vit-b.safetensors"), targets.get("coreml")
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    data, kind = loaded.info.preprocessing, "fp32" if precision == "int8" else precision
    (path,) = (work / f"universal-{precision}-{len(heads.split(','))}").glob("*.mlpackage")
    expected = parity.reference(loaded.model, k, images, data, kind)  # type: ignore[arg-type]
    record = parity.compare(target.load(path, k).run(data.normalise(images)), expected)
    if precision != "int8":
        parity.check(str(path), k, record)
    if record.cosine < _SMALLEST_COSINE[precision]:
        raise CheckFailed(f"{path} has a cosine of {record.cosine} at k = {k}.")
    return {"error": record.max_abs_error, "cosine": record.cosine}


def _size(package: Path) -> int:
    return sum(path.stat().st_size for path in package.rglob("*") if path.is_file())


def report(work: Path) -> None:
    """All steps, printed as the Markdown tables of benchmarks/README.md."""
    print(environment(("torch", "coremltools")), end="\n\n")
    make_checkpoint(work / "vit-b.safetensors")
    model = (work / "vit-b.safetensors").stat().st_size
    print("| universal | bytes | over k = 12 alone | seconds | memory | seconds of lint |\n|---|---|---|---|---|---|")
    for precision in PRECISIONS:
        alone = isolated(__file__, work, "write", "separate", precision, "12")
        for label, listed in LISTS.items():
            ours = isolated(__file__, work, "write", "universal", precision, _text(listed))
            ratios = f"{ours['bytes'] / alone['bytes']:.4f} | {ours['seconds']:.1f} | {ours['own_bytes'] / model:.2f}"
            print(
                f"| {precision}, k = {label} | {ours['bytes']:,} | {ratios} | {ours['lint_seconds']:.1f} |", flush=True
            )
    print("\n| save_multifunction | bytes | over k = 12 alone | its seconds | memory |")
    print("|---|---|---|---|---|")
    for cut, precision, label in _joined():
        alone = _size(next((work / f"separate-{precision}-1").glob("*.mlpackage")))
        theirs = isolated(__file__, work, "coremltools", cut, precision, _text(LISTS[label]))
        cells = [f"{theirs['bytes']:,}", f"{theirs['bytes'] / alone:.4f}", f"{theirs['seconds']:.1f}"]
        cells += [f"{theirs['own_bytes'] / model:.2f}"]
        print(f"| {cut}, {precision}, k = {label} | {' | '.join(cells)} |", flush=True)
    print("\n| largest difference to float64; int8: cosine | " + " | ".join(f"k = {k}" for k in COMPARED) + " |")
    print("|---|---|---|---|")
    for precision in PRECISIONS:
        for label, listed in LISTS.items():
            found = [isolated(__file__, work, "prove", precision, _text(listed), str(k)) for k in COMPARED]
            cells = [f"{each['cosine']:.5f}" if precision == "int8" else f"{each['error']:.1e}" for each in found]
            print(f"| {precision}, k = {label} | {' | '.join(cells)} |", flush=True)


def _joined() -> Iterator[tuple[str, str, str]]:
    yield from (("shells", precision, label) for precision in PRECISIONS for label in LISTS)
    yield "whole", "fp16", "3, 6, 12"


def _text(heads: tuple[int, ...]) -> str:
    return ",".join(map(str, heads))


def main() -> None:
    """Everything, or one step of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--step", nargs="+")
    given = parser.parse_args()
    if given.step is None:
        with tempfile.TemporaryDirectory() as folder:
            report(given.work or Path(folder))
        return
    name, *rest = given.step
    steps: dict[str, Callable[..., Any]] = {
        "write": step_write,
        "coremltools": step_coremltools,
        "prove": lambda work, precision, heads, k: step_prove(work, precision, heads, int(k)),
    }
    print(json.dumps(steps[name](given.work, *rest)))


if __name__ == "__main__":
    main()
