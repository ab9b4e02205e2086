"""Measuring artifacts on the machine that this runs on."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hydra_export import bundle, targets
from hydra_export.target import Array, InputForm, Session

_WARM_UP_RUNS = 5


@dataclass(frozen=True)
class Timing:
    """One artifact at one head count: milliseconds per call, which takes *batch* images."""

    path: str
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

    A call takes as many images as the artifact's fixed batch, or one.
    """
    manifest = bundle.read(folder)
    golden = bundle.read_golden(folder, manifest)
    images: dict[InputForm, Array] = {"tensor": golden.image, "image": golden.pixels}
    first, loaded = manifest.artifacts[0], []
    targets.get(first.target).load(folder / first.path, first.heads[0], threads)  # the runtime's own start
    for artifact in manifest.artifacts:
        for k in artifact.heads:
            start = time.perf_counter()
            session = targets.get(artifact.target).load(folder / artifact.path, k, threads)
            loaded.append((artifact, k, session, (time.perf_counter() - start) * 1e3))
    sessions = [(session, images[artifact.input][[0] * _batch(artifact)]) for artifact, _k, session, _load_ms in loaded]
    times = _interleaved(sessions, runs, progress)
    timings = (
        Timing(artifact.path, k, _batch(artifact), load_ms, tuple(runs_ms))
        for (artifact, k, _session, load_ms), runs_ms in zip(loaded, times, strict=True)
    )
    return manifest, tuple(timings)


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
