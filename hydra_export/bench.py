"""Measuring artifacts on the machine that this runs on."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hydra_export import bundle, targets
from hydra_export.target import Array, InputForm, Session

Progress = Callable[[str, int, int], None]  # what is being done, steps done, steps in all
_WARM_UP_RUNS = 5


@dataclass(frozen=True)
class Timing:
    """One artifact at one head count: milliseconds per call with the artifact's own batch of golden images."""

    path: str
    heads: int
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
    folder: Path, *, runs: int = 50, threads: int = 1, progress: Progress = lambda _what, _done, _total: None
) -> tuple[bundle.Manifest, tuple[Timing, ...]]:
    """Loads every artifact of a bundle and times single images, interleaved, so that a noisy spell hits all alike."""
    manifest = bundle.read(folder)
    golden = bundle.read_golden(folder, manifest)
    images: dict[InputForm, Array] = {"tensor": golden.image[:1], "image": golden.pixels[:1]}
    loaded = []
    for artifact in manifest.artifacts:
        for k in artifact.heads:
            start = time.perf_counter()
            session = targets.get(artifact.target).load(folder / artifact.path, k, threads)
            loaded.append((artifact, k, session, (time.perf_counter() - start) * 1e3))
    sessions = [(session, images[artifact.input]) for artifact, _k, session, _load_ms in loaded]
    times = _interleaved(sessions, runs, progress)
    timings = (
        Timing(artifact.path, k, load_ms, tuple(runs_ms))
        for (artifact, k, _session, load_ms), runs_ms in zip(loaded, times, strict=True)
    )
    return manifest, tuple(timings)


def _interleaved(sessions: Sequence[tuple[Session, Array]], runs: int, progress: Progress) -> list[list[float]]:
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
