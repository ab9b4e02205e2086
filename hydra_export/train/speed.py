"""How fast the last steps of a run were, and what they lost per head count."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import torch

from hydra_export import board
from hydra_export.train.loop import StepResult


@dataclass(frozen=True)
class Speed:
    """The speed of some steps, without measuring and saving between them.

    Attributes:
        images_per_s: over all processes.
        waiting: share of the time in which this process waited for its images, 0 to 1.
        memory_mib: the peak so far, of the GPU if there is one, otherwise of the process; None if the system does not
            report it.
    """

    images_per_s: float
    waiting: float
    memory_mib: float | None

    def row(self) -> dict[str, float]:
        """For the metrics: what is known."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class Window:
    """The steps since the last ``taken``; a step waits for its device once, so the clock needs no wait of its own."""

    def __init__(self, batch_size: int, device: torch.device) -> None:
        self._batch_size, self._device = batch_size, device
        self._clear()

    def _clear(self) -> None:
        self._seconds = self._waited = 0.0
        self._losses: list[float] = []
        self._per_k: dict[int, list[float]] = defaultdict(list)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Counts the time of a step."""
        began = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - began

    def add(self, result: StepResult) -> None:
        """Counts what a step did."""
        self._waited += result.waited_s
        self._losses.append(result.loss)
        for k, loss in result.losses.items():
            self._per_k[k].append(loss)

    def taken(self) -> tuple[dict[str, Any], Speed]:
        """The mean losses, of all steps and per head count that they trained, and the speed; starts anew."""
        losses = {"loss": fmean(self._losses), "loss_per_k": {k: fmean(self._per_k[k]) for k in sorted(self._per_k)}}
        images = self._batch_size * len(self._losses)
        speed = Speed(images / self._seconds, self._waited / self._seconds, _peak_mib(self._device))
        self._clear()
        return losses, speed


def _peak_mib(device: torch.device) -> float | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return board.peak_mib()
