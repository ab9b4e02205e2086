"""ONNX files that hold every width, ViT-B/16-224 size, random weights: ``python benchmarks/onnx_universal.py``.

The head count as an input, and graphs that fix it, against a self-contained file for each: bytes, latency, load time,
memory, in fp32, fp16 and int8. First of all everything is proven. Runs that are compared are interleaved in one process
and compared by the median of the ratios of their CPU time, one thread; memory is read in processes of their own.
Results: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
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
)

EVERY = tuple(range(3, 13))
PRECISIONS = ("fp32", "fp16", "int8")
ROUNDS = 3  # of sessions: their memory and load time scatter


@dataclass(frozen=True)
class Written:
    """One call of the target's ``write``; its folder is ``<graph>-<precision>-<number of head counts>``."""

    graph: str
    precision: str
    heads: tuple[int, ...]

    @property
    def folder(self) -> str:
        return f"{self.graph}-{self.precision}-{len(self.heads)}"


WRITTEN = [
    *(Written(graph, precision, COMPARED) for graph in ("separate", "universal") for precision in PRECISIONS),
    Written("separate", "fp32", EVERY),
    *(Written("universal", precision, EVERY) for precision in PRECISIONS),
]


def step_write(work: Path) -> dict[str, int]:
    """Writes everything; bytes of each folder."""
    from hydra_export import checkpoint, targets
    from hydra_export.target import ExportSpec

    make_checkpoint(work / "vit-b.safetensors")
    loaded, sizes = checkpoint.load(work / "vit-b.safetensors"), {}
    for written in WRITTEN:
        out = work / written.folder
        out.mkdir()
        spec = ExportSpec(graph=written.graph, precision=written.precision)  # type: ignore[arg-type]
        for artifact in targets.get("onnx").write(loaded, written.heads, spec, out):
            targets.get("onnx").lint(out / artifact.path)
        sizes[written.folder] = sum(path.stat().st_size for path in out.iterdir())
    return sizes


def step_prove(work: Path, k: int) -> dict[str, dict[str, float]]:
    """Every graph that runs subnetwork *k*, against PyTorch in float64, weights rounded where the file's are."""
    from hydra_export import checkpoint, parity, targets
    from hydra_export.errors import CheckFailed

    loaded, target = checkpoint.load(work / "vit-b.safetensors"), targets.get("onnx")
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    data = loaded.info.preprocessing
    expected = {
        precision: parity.reference(loaded.model, k, images, data, precision)  # type: ignore[arg-type]
        for precision in ("fp32", "fp16")
    }
    found: dict[str, dict[str, float]] = {}
    for written in WRITTEN:
        for name in ("chosen", "fixed") if written.graph == "universal" else ("fixed",):
            path = _path(work, written, k, name)
            record = parity.compare(
                target.load(path, k, 1).run(data.normalise(images)), expected.get(written.precision, expected["fp32"])
            )
            if written.precision != "int8":
                parity.check(str(path), k, record)
            elif record.cosine < 0.998:
                raise CheckFailed(f"{path} has a cosine of {record.cosine}.")
            found[f"{written.folder} {name}"] = {"error": record.max_abs_error, "cosine": record.cosine}
    return found


def step_latency(work: Path, k: int, runs: int) -> dict[str, Any]:
    """CPU time of everything that runs subnetwork *k*, over the self-contained fp32 file of the same k."""
    paths = {"separate-fp32-10 fixed": _path(work, Written("separate", "fp32", EVERY), k, "fixed")}
    for written in WRITTEN:
        if k in written.heads and written.folder != "separate-fp32-10":
            for name in ("chosen", "fixed") if written.graph == "universal" else ("fixed",):
                paths[f"{written.folder} {name}"] = _path(work, written, k, name)
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
    return interleaved({name: _call(onnxruntime_session(path), image, k) for name, path in paths.items()}, runs)


def step_session(work: Path, path: str, heads: list[int]) -> dict[str, float]:
    """Load time and resident memory of one session after a run at each of *heads*, over the process before it."""
    image = np.zeros((1, 3, 224, 224), np.float32)
    import onnxruntime  # noqa: F401

    before = memory_bytes("VmRSS")
    start = time.perf_counter()
    session = onnxruntime_session(work / path)
    seconds = time.perf_counter() - start
    for k in heads:
        _call(session, image, k)()
    return {
        "load_seconds": seconds,
        "resident_bytes": memory_bytes("VmRSS") - before,
        "peak_bytes": memory_bytes("VmHWM") - before,
    }


def _path(work: Path, written: Written, k: int, name: str) -> Path:
    parts = [
        "vit-b",
        *([] if written.graph == "separate" else [written.graph]),
        *([f"k{k}"] if name == "fixed" else []),
    ]
    precision = [] if written.precision == "fp32" else [written.precision]
    return work / written.folder / f"{'-'.join(parts + precision)}.onnx"


def _call(session: Any, image: np.ndarray, k: int) -> Callable[[], Any]:
    given: dict[str, Any] = {"image": image}
    if len(session.get_inputs()) == 2:
        given["k"] = np.array(k, np.int64)
    return lambda: session.run(None, given)[0]


def report(work: Path, runs: int) -> None:
    """All steps, printed as the Markdown tables of benchmarks/README.md."""
    print(environment(("torch", "onnxruntime")), end="\n\n")
    sizes = isolated(__file__, work, "write")
    proven = {k: isolated(__file__, work, "prove", str(k)) for k in COMPARED}
    _report_proof(proven)
    largest = _path(work, Written("separate", "fp32", COMPARED), 12, "fixed").stat().st_size
    print("\n| files | bytes | over the fp32 k = 12 file |\n|---|---|---|")
    for written in WRITTEN:
        size = sizes[written.folder]
        listed = "3, 6, 12" if written.heads == COMPARED else "3..12"
        print(f"| {written.graph} {written.precision}, k = {listed} | {size:,} | {size / largest:.4f} |")

    latency = {k: isolated(__file__, work, "latency", str(k), str(runs)) for k in EVERY}
    print("\n| latency over separate fp32 | " + " | ".join(f"k = {k}" for k in COMPARED) + " |\n|---|---|---|---|")
    for name in latency[COMPARED[0]]:
        print(f"| {name} | " + " | ".join(f"{latency[k][name]['ratio']:.3f}" for k in COMPARED) + " |")

    _report_memory(work)
    print("\n| k | " + " | ".join(f"fixed: {what}" for what in ("latency", "load", "resident", "peak")) + " |")
    print("|---" * 5 + "|")
    for k in EVERY:
        separate, fixed = (
            _path(work, Written(graph, "fp32", EVERY), k, "fixed") for graph in ("separate", "universal")
        )
        of_separate, of_fixed = _sessions(work, separate, [k]), _sessions(work, fixed, [k])
        cells = [latency[k]["universal-fp32-10 fixed"]["ratio"]]
        cells += [of_fixed[what] / of_separate[what] for what in ("load_seconds", "resident_bytes", "peak_bytes")]
        print(f"| {k} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |", flush=True)


def _report_proof(proven: dict[int, dict[str, dict[str, float]]]) -> None:
    print(
        "| largest difference to float64 (int8: smallest cosine) | " + " | ".join(f"k = {k}" for k in COMPARED) + " |"
    )
    print("|---|---|---|---|")
    for name in proven[COMPARED[0]]:
        cells = [
            f"{proven[k][name]['cosine']:.5f}" if "int8" in name else f"{proven[k][name]['error']:.1e}"
            for k in COMPARED
        ]
        print(f"| {name} | {' | '.join(cells)} |")


def _report_memory(work: Path) -> None:
    """Of sessions that have run at every compared head count, over two k = 12 sessions."""
    base = {
        graph: _sessions(work, _path(work, Written(graph, "fp32", COMPARED), 12, "fixed"), [12])
        for graph in ("separate", "universal")
    }
    titles = ("session after runs", "load, s", "resident, MB", "peak, MB", "over separate k = 12", "over fixed k = 12")
    print("\n| " + " | ".join(titles) + " |")
    print("|---|---|---|---|---|---|")
    rows = {f"{graph} fp32 k = 12 alone": session for graph, session in base.items()}
    for written in WRITTEN:
        if written.graph == "universal":
            path = _path(work, written, 12, "chosen")
            rows[f"{written.folder}, k = 3, 6, 12 in turns"] = _sessions(work, path, list(COMPARED))
        elif written.precision != "fp32":
            rows[f"{written.folder} k = 12 alone"] = _sessions(work, _path(work, written, 12, "fixed"), [12])
    for name, session in rows.items():
        resident = session["resident_bytes"]
        over = " | ".join(f"{resident / other['resident_bytes']:.2f}" for other in base.values())
        load, peak = session["load_seconds"], session["peak_bytes"]
        print(f"| {name} | {load:.2f} | {resident / 1e6:.0f} | {peak / 1e6:.0f} | {over} |", flush=True)


def _sessions(work: Path, path: Path, heads: list[int]) -> dict[str, float]:
    listed, relative = ",".join(map(str, heads)), str(path.relative_to(work))
    rounds = [isolated(__file__, work, "session", relative, listed) for _ in range(ROUNDS)]
    return {what: statistics.median(found[what] for found in rounds) for what in rounds[0]}


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
        "prove": lambda work, k: step_prove(work, int(k)),
        "latency": lambda work, k, runs: step_latency(work, int(k), int(runs)),
        "session": lambda work, path, heads: step_session(work, path, [int(k) for k in heads.split(",")]),
    }
    print(json.dumps(steps[name](given.work, *rest)))


if __name__ == "__main__":
    main()
