"""A measurement against an older one: ratios of medians, with what chance alone may make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hydra_export.bench.report import Report, Timing

_RESAMPLES = 2000
_INTERVAL = (2.5, 97.5)  # percent: 95 % lie between


@dataclass(frozen=True)
class Comparison:
    """One cell in both: how many times as long it takes now, and the 95 % interval of that.

    Attributes:
        of_fastest: the ratio of the fastest calls, which what else the machine does touches least.
    """

    timing: Timing
    old_ms: float
    ratio: float
    low: float
    high: float
    of_fastest: float

    def regressed(self, most: float) -> bool:
        """Slower by more than the share *most*, not by chance: the whole interval lies above, the fastest call too."""
        return min(self.low, self.of_fastest) > 1 + most

    def doubt(self, most: float) -> str:
        """Why a ratio above the limit is no regression; empty where it is one, or is below."""
        if self.ratio <= 1 + most or self.regressed(most):
            return ""
        return "slower, perhaps by chance" if self.low <= 1 + most else "slower, but its fastest calls are not"


def compare(new: Report, old: Report) -> tuple[list[Comparison], list[Timing], list[Timing]]:
    """What both timed, what the old one did not, and what the new one did not."""
    before = {timing.cell: timing for timing in old.timings}
    now = {timing.cell: timing for timing in new.timings}
    both = [_compared(timing, before[cell]) for cell, timing in now.items() if cell in before]
    return both, [now[cell] for cell in now.keys() - before.keys()], [before[c] for c in before.keys() - now.keys()]


def _compared(new: Timing, old: Timing) -> Comparison:
    random = np.random.default_rng(0)
    ratios = _medians(new.runs_ms, random) / _medians(old.runs_ms, random)
    low, high = np.percentile(ratios, _INTERVAL)
    ratio = float(np.median(new.runs_ms) / np.median(old.runs_ms))
    return Comparison(new, old.median_ms, ratio, float(low), float(high), new.min_ms / old.min_ms)


def _medians(runs_ms: Sequence[float], random: np.random.Generator) -> np.ndarray:
    """Of samples drawn from *runs_ms*, which could as well have been measured."""
    runs = np.asarray(runs_ms)
    return np.asarray(np.median(runs[random.integers(len(runs), size=(_RESAMPLES, len(runs)))], axis=1))
