"""Axes: where a value lies, which ticks it has, and labels that do not touch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_WIDE = 8.0  # from this ratio of the ends on, a logarithmic axis


@dataclass(frozen=True)
class Scale:
    """Maps *low* .. *high* to *start* .. *end* in the picture."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (self._turned(each) for each in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def _turned(self, value: float) -> float:
        return math.log(value) if self.logarithmic else value

    def ticks(self, about: int = 5) -> list[float]:
        """Round values within the axis, about so many."""
        return _log_ticks(self.low, self.high, about) if self.logarithmic else _ticks(self.low, self.high, about)


def over(values: Sequence[float], start: float, end: float, *, from_zero: bool = False) -> Scale:
    """The axis that holds *values*, with some room at its ends.

    Args:
        from_zero: it begins at 0, unless the values differ so much that a logarithmic one shows them better; those
            have no 0.
    """
    low, high = min(values), max(values)
    if from_zero and low > 0 and high / low > _WIDE:
        room = (high / low) ** 0.06
        return Scale(low / room, high * room, start, end, logarithmic=True)
    if from_zero:
        return Scale(0, high * 1.06 or 1.0, start, end)
    room = (high - low) * 0.08 or max(abs(high) * 0.01, 0.5)
    return Scale(low - room, high + room, start, end)


def _ticks(low: float, high: float, about: int) -> list[float]:
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * each for each in _STEPS if power * each >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float, about: int) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        ticks = [digit * 10.0**power for power in powers for digit in digits]
        within = [value for value in ticks if low <= value <= high]
        if len(within) <= about:
            break
    return within


def apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near the *wanted* ones (ascending), at least *gap* from each other, within *low* .. *high*.

    There has to be room for all of them. Neighbours that would touch share the way that they have to move.
    """
    blocks: list[tuple[float, int]] = []  # mean place, as if there were no gaps, and how many share it
    for at, value in enumerate(wanted):
        blocks.append((value - at * gap, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (mean, count), (mean2, count2) = blocks.pop(-2), blocks.pop()
            blocks.append(((mean * count + mean2 * count2) / (count + count2), count + count2))
    places = [mean for mean, count in blocks for _ in range(count)]
    last = high - (len(places) - 1) * gap
    return [min(max(place, low), last) + at * gap for at, place in enumerate(places)]
