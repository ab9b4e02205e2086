"""How the numbers of one tensor are counted in integers: number = scale * (integer - zero point)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Bits = Literal[8, 16]
Method = Literal["min-max", "percentile", "mse", "fixed"]

_SMALLEST = float(np.finfo(np.float32).tiny)  # XNNPACK takes no smaller scale


class Grid(msgspec.Struct, frozen=True):
    """Signed integers of so many *bits*, the scale a float32."""

    scale: float
    zero_point: int
    bits: Bits = 8

    @property
    def low(self) -> int:
        """The smallest integer; 16 bits are symmetric, as TFLite's kernels have them."""
        return -128 if self.bits == 8 else -32767

    @property
    def high(self) -> int:
        """The largest."""
        return int(2 ** (self.bits - 1) - 1)

    def rounded(self, x: Tensor) -> Tensor:
        """What the integers of *x* stand for; beyond the ends of the grid they are the ends."""
        integers = (x / self.scale).round_().add_(self.zero_point).clamp_(self.low, self.high)
        return integers.sub_(self.zero_point).mul_(self.scale)

    def integers(self, numbers: NDArray[np.floating]) -> NDArray[np.int32]:
        """Those of *numbers*, of the same shape."""
        counted = np.rint(numbers / np.float32(self.scale)) + self.zero_point
        integers: NDArray[np.int32] = np.clip(counted, self.low, self.high).astype(np.int32)
        return integers


def unit(bits: Bits) -> Grid:
    """Of shares, from 0 to 1: the one that TFLite's SOFTMAX and LOGISTIC give."""
    return Grid(1 / 256, -128) if bits == 8 else Grid(1 / 32768, 0, 16)


class Range(msgspec.Struct, frozen=True):
    """What the numbers of one tensor are.

    Attributes:
        low, high: the ends of what 8 bits count, 0 among it.
        peak: the largest magnitude, which 16 bits count up to.
        wide: it is counted in 16 bits.
        method: how *low* and *high* were chosen; ``fixed`` where the operation says them.
    """

    low: float
    high: float
    peak: float
    wide: bool = False
    method: Method = "min-max"

    @property
    def bits(self) -> Bits:
        """Its own."""
        return 16 if self.wide else 8

    def times(self, factor: float) -> Range:
        """Of numbers that are so many times as large."""
        return msgspec.structs.replace(
            self, low=self.low * factor, high=self.high * factor, peak=self.peak * factor, method="min-max"
        )

    def union(self, other: Range) -> Range:
        """What both are in."""
        return msgspec.structs.replace(
            self, low=min(self.low, other.low), high=max(self.high, other.high), peak=max(self.peak, other.peak)
        )

    def grid(self, bits: Bits | None = None) -> Grid:
        """By which it is counted; with *bits*, in so many."""
        bits = bits or self.bits
        if self.method == "fixed":
            return unit(bits)
        if bits == 16:
            return Grid(_scale(self.peak / 32767), 0, 16)
        scale = _scale((self.high - self.low) / 255)
        return Grid(scale, int(np.clip(round(-128 - self.low / scale), -128, 127)), 8)


Ranges = Mapping[str, Range]  # by the names of taps


def symmetric(largest: float, bits: Bits) -> Grid:
    """Of a constant whose largest magnitude is given."""
    return Grid(_scale(largest / (127 if bits == 8 else 32767)), 0, bits)


def _scale(scale: float) -> float:
    """A float32 that no number is divided by 0 with."""
    return _float32(scale) if scale >= _SMALLEST else 1.0


def _float32(number: float) -> float:
    return float(np.float32(number))
