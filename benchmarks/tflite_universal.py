"""TFLite files that hold every width, ViT-B/16-224 size, random weights: ``python benchmarks/tflite_universal.py``.

One file against a self-contained one for each head count: bytes, latency by signature and by ``run``, load time and
memory with and without XNNPACK's weight cache, in fp32, fp16 and int8. First of all everything is proven. Runs that
are compared are interleaved in one process and compared by the median of the ratios of their CPU time, one thread;
memory is read in processes of their own. With ``--peer``, in an environment that has litert-torch, the time to write
k = 3, 6, 12 against that of one litert-torch conversion of three signatures. Results: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measuring import COMPARED, environment, interleaved, isolated, make_checkpoint, memory_bytes

EVERY = tuple(range(3, 13))
PRECISIONS = ("fp32", "fp16", "int8")
ROUNDS = 3  # of sessions: their memory and load time scatter


def step_write(work: Path, precision: str, graph: str, heads: tuple[int, ...], overlap: bool) -> dict[str, Any]:
    """Writes and lints one kind of file; seconds, and bytes of each."""
    from hydra_export import checkpoint, targets
    from hydra_export.target import ExportSpec
    from hydra_export.targets.tflite import TFLiteOptions

    if not (work / "vit-b.safetensors").exists():
        make_checkpoint(work / "vit-b.safetensors")
    loaded, target = checkpoint.load(work / "vit-b.safetensors"), targets.get("tflite")
    out = _folder(work, precision, graph, heads, overlap)
    out.mkdir()
    with tempfile.TemporaryDirectory() as elsewhere:  # the packaged model: everything that an export imports
        target.write(checkpoint.load(), (1,), ExportSpec(), Path(elsewhere))
    spec = ExportSpec(graph=graph, precision=precision, options=TFLiteOptions(overlap=overlap))  # type: ignore[arg-type]
    start = time.perf_counter()
    artifacts = target.write(loaded, heads, spec, out)
    seconds = time.perf_counter() - start
    for artifact in artifacts:
        target.lint(out / artifact.path)
    return {"seconds": seconds, "bytes": [(out / artifact.path).stat().st_size for artifact in artifacts]}


def step_prove(work: Path, precision: str, k: int) -> dict[str, float]:
    """The file of all head counts at *k*, by both signatures, against PyTorch in float64."""
    from hydra_export import checkpoint, parity, targets

    loaded, target = checkpoint.load(work / "vit-b.safetensors"), targets.get("tflite")
    images, data = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8), loaded.info.preprocessing
    of = {
        name: parity.reference(loaded.model, k, images, data, name)  # type: ignore[arg-type]
        for name in {"fp32", precision} - {"int8"}
    }
    worst: dict[str, float] = {"error": 0.0, "cosine": 1.0}
    for heads in (COMPARED, EVERY):
        if k not in heads:
            continue
        path = _path(work, precision, "universal", heads, k)
        logits = target.load(path, k, 1).run(data.normalise(images))  # by `run` too, which has to be the same
        record = parity.compare(logits, of.get(precision, of["fp32"]))  # type: ignore[call-overload]
        if precision != "int8":
            parity.check(str(path), k, record)
        worst = {"error": max(worst["error"], record.max_abs_error), "cosine": min(worst["cosine"], record.cosine)}
    return worst


def step_latency(work: Path, precision: str, heads: tuple[int, ...], k: int, runs: int) -> dict[str, Any]:
    """CPU time of subnetwork *k* by both signatures of a file, over that of the self-contained one."""
    opened = _interpreter(_path(work, precision, "universal", heads, k))
    alone = _interpreter(_path(work, precision, "separate", EVERY, k)).get_signature_runner()
    by_signature, by_k = opened.get_signature_runner(f"k{k}"), opened.get_signature_runner("run")
    image, number = np.random.default_rng(0).standard_normal((1, 224, 224, 3), np.float32), np.array([k], np.int32)
    calls: dict[str, Callable[[], np.ndarray]] = {
        "separate": lambda: alone(image=image)["logits"],
        "signature": lambda: by_signature(image=image)["logits"],
        "run": lambda: by_k(image=image, k=number)["logits"],
    }
    if precision != "fp32":
        wide = _interpreter(_path(work, "fp32", "separate", EVERY, k)).get_signature_runner()
        calls["separate fp32"] = lambda: wide(image=image)["logits"]
    return interleaved(calls, runs)


def step_session(work: Path, path: str, keys: str, cache: str) -> dict[str, float]:
    """Load time and resident memory of LiteRT's compiled model after a run of each signature in *keys*."""
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.options import CpuOptions, Options

    image, before = np.zeros((1, 224, 224, 3), np.float32), _private_bytes()
    resident = memory_bytes("VmRSS")
    start = time.perf_counter()
    cpu = CpuOptions(num_threads=1, xnnpack_weight_cache_path=str(work / cache) if cache != "-" else "")
    model = CompiledModel.from_file(str(work / path), options=Options(cpu_options=cpu))
    seconds = time.perf_counter() - start
    for key in keys.split(","):
        index = model.get_signature_index(key)
        inputs, outputs = model.create_input_buffers(index), model.create_output_buffers(index)
        inputs[0].write(image)
        model.run_by_index(index, inputs, outputs)
    return {
        "load_seconds": seconds,
        "private_bytes": _private_bytes() - before,
        "resident_bytes": memory_bytes("VmRSS") - resident,
    }


def step_peer(work: Path) -> dict[str, float]:
    """One litert-torch conversion of three signatures, as its users would write it."""
    import litert_torch
    import torch

    from hydra_export import checkpoint

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model = checkpoint.load(work / "vit-b.safetensors").model
    litert_torch.convert(torch.nn.Linear(2, 2).eval(), (torch.zeros(1, 2),))  # everything that it imports
    start = time.perf_counter()
    image = (torch.zeros(1, 3, 224, 224),)
    several = litert_torch.signature("k3", model.subnetwork(3).eval(), image)
    for k in COMPARED[1:]:
        several = several.signature(f"k{k}", model.subnetwork(k).eval(), image)
    several.convert().export(str(work / "peer.tflite"))
    return {"seconds": time.perf_counter() - start, "bytes": (work / "peer.tflite").stat().st_size}


def _private_bytes() -> int:
    """Memory that no file stands behind: what the system cannot take back."""
    return memory_bytes("RssAnon")


def _folder(work: Path, precision: str, graph: str, heads: tuple[int, ...], overlap: bool = True) -> Path:
    return work / f"{graph}-{precision}-{len(heads)}{'' if overlap else '-no-overlap'}"


def _path(work: Path, precision: str, graph: str, heads: tuple[int, ...], k: int, overlap: bool = True) -> Path:
    parts = ["vit-b", "universal" if graph == "universal" else f"k{k}", *([] if precision == "fp32" else [precision])]
    return _folder(work, precision, graph, heads, overlap) / f"{'-'.join(parts)}.tflite"


def _interpreter(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(str(path), num_threads=1)


def report(work: Path, runs: int, peer: bool) -> None:
    """All steps, printed as the Markdown tables of benchmarks/README.md."""
    print(environment(("torch", "ai-edge-litert", "litert-torch")), end="\n\n")
    print("| file | bytes | over the k = 12 file | seconds |\n|---|---|---|---|")
    for precision in PRECISIONS:
        alone = isolated(__file__, work, "write", precision, "separate", _listed(EVERY), "1")
        for heads, overlap in ((COMPARED, True), (EVERY, True), (COMPARED, False)):
            done = isolated(__file__, work, "write", precision, "universal", _listed(heads), str(int(overlap)))
            name = f"{precision}, k = {'3..12' if heads == EVERY else '3, 6, 12'}{'' if overlap else ', no overlap'}"
            ratio = done["bytes"][0] / alone["bytes"][-1]
            print(f"| {name} | {done['bytes'][0]:,} | {ratio:.4f} | {done['seconds']:.2f} |", flush=True)
    if peer:
        theirs = isolated(__file__, work, "peer")
        print(f"\nlitert-torch, three signatures in one call: {theirs['seconds']:.0f} s, {theirs['bytes']:,} bytes")

    print("\n| proven, k = 3, 6, 12 | largest error | smallest cosine |\n|---|---|---|")
    for precision in PRECISIONS:
        found = [isolated(__file__, work, "prove", precision, str(k)) for k in COMPARED]
        error, cosine = max(f["error"] for f in found), min(f["cosine"] for f in found)
        print(f"| {precision} | {error:.1e} | {cosine:.5f} |", flush=True)

    print("\n| latency over separate | k | by signature | by run | separate over fp32 |\n|---|---|---|---|---|")
    rows = [("fp32", COMPARED, COMPARED), ("fp32", EVERY, EVERY)]
    rows += [(precision, heads, COMPARED) for precision in PRECISIONS[1:] for heads in (COMPARED, EVERY)]
    for precision, heads, counts in rows:
        for k in counts:
            found = isolated(__file__, work, "latency", precision, _listed(heads), str(k), str(runs))
            name = f"{precision}, k = {'3..12' if heads == EVERY else '3, 6, 12'}"
            wide = 1 / found["separate fp32"]["ratio"] if precision != "fp32" else 1.0
            cells = f"{found['signature']['ratio']:.3f} | {found['run']['ratio']:.3f} | {wide:.3f}"
            print(f"| {name} | {k} | {cells} |", flush=True)
    _report_memory(work)
    print(f"\nLoad of the machine after: {os.getloadavg()[0]:.1f}")


def _report_memory(work: Path) -> None:
    """Of compiled models that have run every compared head count."""
    print("\n| loaded and run | load, s | private, MB | resident, MB |\n|---|---|---|---|")
    for precision in PRECISIONS:
        alone = _path(work, precision, "separate", EVERY, 12)
        _report_session(f"separate {precision}, k = 12", work, alone, "serving_default", "-")
        for heads, overlap in ((COMPARED, True), (EVERY, True), (COMPARED, False)):
            path = _path(work, precision, "universal", heads, 12, overlap)
            name = f"{path.parent.name}"
            _report_session(name, work, path, "k3,k6,k12", "-")
            if overlap:
                cache = f"{name}.cache"
                isolated(__file__, work, "session", str(path.relative_to(work)), "k3,k6,k12", cache)
                _report_session(f"{name}, weight cache", work, path, "k3,k6,k12", cache)


def _report_session(name: str, work: Path, path: Path, keys: str, cache: str) -> None:
    rounds = [isolated(__file__, work, "session", str(path.relative_to(work)), keys, cache) for _ in range(ROUNDS)]
    load, private, resident = (statistics.median(found[what] for found in rounds) for what in rounds[0])
    print(f"| {name} | {load:.2f} | {private / 1e6:.0f} | {resident / 1e6:.0f} |", flush=True)


def _listed(heads: tuple[int, ...]) -> str:
    return ",".join(map(str, heads))


def _counts(listed: str) -> tuple[int, ...]:
    return tuple(int(k) for k in listed.split(","))


def main() -> None:
    """Everything, or one step of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--step", nargs="+")
    given = parser.parse_args()
    if given.step is None:
        with tempfile.TemporaryDirectory() as folder:
            report(given.work or Path(folder), given.runs, given.peer)
        return
    name, *rest = given.step
    steps: dict[str, Callable[..., Any]] = {
        "write": lambda work, precision, graph, heads, overlap: step_write(
            work, precision, graph, _counts(heads), overlap == "1"
        ),
        "prove": lambda work, precision, k: step_prove(work, precision, int(k)),
        "latency": lambda work, precision, heads, k, runs: step_latency(
            work, precision, _counts(heads), int(k), int(runs)
        ),
        "session": step_session,
        "peer": step_peer,
    }
    print(json.dumps(steps[name](given.work, *rest)))


if __name__ == "__main__":
    main()
