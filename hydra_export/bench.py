"""Measuring artifacts on the machine that this runs on."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hydra_export import bundle, targets
from hydra_export.errors import BadInput
from hydra_export.target import Array, InputForm, Session

_WARM_UP_RUNS = 5


@dataclass(frozen=True)
class Timing:
    """One artifact at one head count in one runtime: milliseconds per call, which takes *batch* images."""

    path: str
    runtime: str
    heads: int
    batch: int
    load_ms: float
    runs_ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        """Half of the calls took less."""
        return statistics.median(self.runs_ms)

    @property
    def p90_ms(self) -> float:
        """Nine of ten calls took less."""
        return float(np.percentile(self.runs_ms, 90))


def bench(
    folder: Path, *, runs: int = 50, threads: int = 1, progress: bundle.Progress = bundle.silent
) -> tuple[bundle.Manifest, tuple[Timing, ...]]:
    """Loads every artifact of a bundle and times it, interleaved, so that a noisy spell hits all alike.

    A call takes as many images as the artifact's fixed batch, or one. What no runtime here can time is left out.
    """
    manifest = bundle.read(folder)
    golden = bundle.read_golden(folder, manifest)
    images: dict[InputForm, Array] = {"tensor": golden.image, "image": golden.pixels}
    runs_here = {artifact.path: _timed(artifact) for artifact in manifest.artifacts}
    if not any(runs_here.values()):
        raise BadInput(f"Nothing in {folder} can be timed on this machine.", "Core ML runs on a Mac.")
    loaded, started = [], set()
    for artifact in manifest.artifacts:
        target, path = targets.get(artifact.target), folder / artifact.path
        for k in artifact.heads:
            for runtime in runs_here[artifact.path]:
                if runtime not in started:  # its own start is not the artifact's
                    target.load(path, k, threads, runtime)
                    started.add(runtime)
                start = time.perf_counter()
                session = target.load(path, k, threads, runtime)
                loaded.append((artifact, k, runtime, session, (time.perf_counter() - start) * 1e3))
    calls = [(session, images[artifact.input][[0] * _batch(artifact)]) for artifact, _k, _r, session, _ms in loaded]
    times = _interleaved(calls, runs, progress)
    timings = (
        Timing(artifact.path, runtime, k, _batch(artifact), load_ms, tuple(runs_ms))
        for (artifact, k, runtime, _session, load_ms), runs_ms in zip(loaded, times, strict=True)
    )
    return manifest, tuple(timings)


def _timed(artifact: bundle.ArtifactEntry) -> tuple[str, ...]:
    """The first runtime here whose time means something, or none."""
    runtimes = targets.get(artifact.target).runtimes(artifact.precision)
    return tuple(runtime.name for runtime in runtimes if runtime.timed)[:1]


def _batch(artifact: bundle.ArtifactEntry) -> int:
    size = artifact.inputs[0].shape[0]
    return size if isinstance(size, int) else 1


def _interleaved(sessions: Sequence[tuple[Session, Array]], runs: int, progress: bundle.Progress) -> list[list[float]]:
    times: list[list[float]] = [[] for _ in sessions]
    for turn in range(-_WARM_UP_RUNS, runs):
        progress("timing", max(turn, 0), runs)
        for (session, image), taken in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run(image)
            elapsed = (time.perf_counter() - start) * 1e3
            if turn >= 0:
                taken.append(elapsed)
    return times
