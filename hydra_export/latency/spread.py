"""A time with its 80 % interval, in logarithms: how far up and down it may be off, and what widens it."""

from __future__ import annotations

import math
from dataclasses import dataclass

# 90 % quantile of Student's t, which leaves 80 % between its two sides, for 1, 2, ... degrees of freedom.
_T = (3.08, 1.89, 1.64, 1.53, 1.48, 1.44, 1.41, 1.40, 1.38, 1.37)
Z = 1.2816  # of the normal distribution


@dataclass(frozen=True)
class Spread:
    """*ms*, probably (80 %) between ``ms * exp(-down)`` and ``ms * exp(up)``."""

    ms: float
    down: float = 0.0
    up: float = 0.0

    @property
    def low(self) -> float:
        return self.ms * math.exp(-self.down)

    @property
    def high(self) -> float:
        return self.ms * math.exp(self.up)

    @property
    def width(self) -> float:
        """high / low."""
        return math.exp(self.down + self.up)

    def blurred(self, down: float, up: float) -> Spread:
        """With a further error, independent of those so far."""
        return Spread(self.ms, math.hypot(self.down, down), math.hypot(self.up, up))

    def times(self, factor: float) -> Spread:
        return Spread(self.ms * factor, self.down, self.up)

    def at_most(self, other: Spread) -> Spread:
        """Nowhere above *other*: neither the time nor its interval."""
        ms, low, high = min(self.ms, other.ms), min(self.low, other.low), min(self.high, other.high)
        return Spread(ms, math.log(ms / min(low, ms)), math.log(max(high, ms) / ms))

    def chance_within(self, budget_ms: float) -> float:
        """The probability of at most *budget_ms*, if the error is log-normal on each side."""
        distance = math.log(budget_ms / self.ms)
        side = self.up if distance > 0 else self.down
        if side == 0:
            return float(distance >= 0)
        return 0.5 * (1 + math.erf(distance / side * Z / math.sqrt(2)))


def rounded(ms: float) -> str:
    """Three digits, as much as any of these numbers means."""
    return f"{float(f'{ms:.3g}'):,.12g}"
