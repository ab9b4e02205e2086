"""How sure a model is, as a probability, and the cascades that this allows: fitted on some images, reported on others.

Each head count gets a temperature, by which its logits are divided before the softmax (Guo et al. 2017, arXiv
1706.04599). A cascade asks a small head count first, and a larger one where the largest probability stays below a
threshold. Of all cascades of two or three head counts, the cheapest is kept that is as good as a given head count on
both halves of the images it is fitted on: of so many, some are as good on one set of images by luck. What is said of
it was counted on the other images.
"""

# n images, K classes, T thresholds
from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from hydra_export.arrays import Array
from hydra_export.errors import BadInput
from hydra_export.parity import Percent, Share

LEAST_IMAGES = 300
FITTED = 0.3  # of the images; the others are reported on
_TEMPERATURES = (0.05, 20.0)
_NUM_THRESHOLDS = 40
_LONGEST = 3  # head counts of a cascade
_BINS = 15  # of the expected calibration error, as Guo et al. have it
_Z = 1.96  # of a normal distribution, 95 % lie within

COLUMNS = ("as good as", "cascade", "answers from", "right", "gain in points", "GMACs", "of k's", "sent on")

Bools = NDArray[np.bool_]
Points = Annotated[float, Meta(ge=-100, le=100)]


class CalibratedHeads(msgspec.Struct, frozen=True, kw_only=True):
    """One head count.

    Attributes:
        temperature: the logits are divided by it.
        ece_before, ece_after: expected calibration error in percentage points, without and with the temperature.
        accuracy: top-1 in percent; *low*, *high*: its 95 % interval (Wilson).
    """

    heads: int
    temperature: Annotated[float, Meta(gt=0, le=1000)]
    ece_before: Percent
    ece_after: Percent
    accuracy: Percent
    low: Percent
    high: Percent


class CalibratedCascade(msgspec.Struct, frozen=True, kw_only=True):
    """Head counts that are run one after the other until one is confident.

    Attributes:
        as_good_as: the head count whose accuracy it was fitted to match.
        thresholds: the probability from which an answer is accepted, for each head count but the last.
        accuracy, low, high: as for a single head count.
        gain: accuracy over that of *as_good_as*, in points; *gain_low*, *gain_high*: its 95 % interval, on the same
            images.
        gmacs: average per image.
        shares: share of the images that reach each head count.
    """

    as_good_as: int
    heads: Annotated[tuple[int, ...], Meta(min_length=2, max_length=_LONGEST)]
    thresholds: tuple[Share, ...]
    accuracy: Percent
    low: Percent
    high: Percent
    gain: Points
    gain_low: Points
    gain_high: Points
    gmacs: Annotated[float, Meta(ge=0)]
    shares: tuple[Share, ...]

    def cells(self, gmacs: Mapping[int, float]) -> tuple[str, ...]:
        """What a row of a table says under ``COLUMNS``; *gmacs* of single head counts."""
        return (
            f"k = {self.as_good_as}",
            " > ".join(map(str, self.heads)),
            ", ".join(f"{threshold:.2f}" for threshold in self.thresholds),
            f"{self.accuracy:.2f} %",
            f"{self.gain:+.2f} ({self.gain_low:+.2f} to {self.gain_high:+.2f})",
            f"{self.gmacs:.3g}",
            f"{self.gmacs / gmacs[self.as_good_as]:.2f}",
            ", ".join(f"{share:.0%}" for share in self.shares[1:]),
        )


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """The calibration of a bundle's head counts.

    Attributes:
        data: a description of the images.
        labels: whether answers are compared with labels; otherwise with those of the largest head count.
        num_fitted, num_reported: how many images temperatures and thresholds were fitted on, and how many the figures
        were measured on.
        within: largest loss of a cascade on the images it was fitted on, in points.
    """

    data: str
    labels: bool
    num_fitted: int
    num_reported: int
    within: Percent
    subnetworks: tuple[CalibratedHeads, ...]
    cascades: tuple[CalibratedCascade, ...] = ()


def calibrated(
    logits: Mapping[int, Array],
    labels: NDArray[np.int64] | None,
    gmacs: Mapping[int, float],
    data: str,
    *,
    within: float = 0.0,
    seed: int = 0,
) -> Calibration:
    """The calibration that *logits* allow, [n, K] by head count.

    Args:
        labels: int64 [n]; without, the largest head count's answers stand for them.
        within: percentage points that a cascade may lose where it is fitted.
        seed: of which images are fitted on.

    Raises:
        BadInput: there are too few images.
    """
    heads, count = sorted(logits), len(logits[max(logits)])
    if count < LEAST_IMAGES:
        raise BadInput(
            f"{count} images are too few to calibrate on.", f"Pass `data` with {LEAST_IMAGES} images or more."
        )
    if not 0 <= within <= 100:
        raise BadInput(f"`within` is {within}.", "Use percentage points from 0 to 100, such as 0.5.")
    right_n = logits[heads[-1]].argmax(axis=1) if labels is None else labels
    order = np.random.default_rng(seed).permutation(count)
    fitted, reported = np.split(order, [round(FITTED * count)])
    temperatures = {k: _temperature(logits[k][fitted], right_n[fitted]) for k in heads}
    if labels is None:
        temperatures[heads[-1]] = 1.0  # it agrees with itself, however sure it is
    surest = {k: softmax(logits[k].astype(np.float64) / temperatures[k], axis=1).max(axis=1) for k in heads}
    is_right = {k: logits[k].argmax(axis=1) == right_n for k in heads}
    subnetworks = tuple(
        CalibratedHeads(
            heads=k,
            temperature=temperatures[k],
            ece_before=_ece(softmax(logits[k][reported], axis=1).max(axis=1), is_right[k][reported]),
            ece_after=_ece(surest[k][reported], is_right[k][reported]),
            **_interval(is_right[k][reported]),
        )
        for k in heads
    )
    fits = _Outcomes(heads, _cut(surest, fitted), _cut(is_right, fitted), gmacs)
    others = _Outcomes(heads, _cut(surest, reported), _cut(is_right, reported), gmacs)
    cascades = [others.told(k, *found) for k in heads[1:] if (found := fits.cheapest(k, within)) is not None]
    return Calibration(
        data=data,
        labels=labels is not None,
        num_fitted=len(fitted),
        num_reported=len(reported),
        within=within,
        subnetworks=subnetworks,
        cascades=tuple(cascades),
    )


def _temperature(logits_nK: Array, right_n: NDArray[np.int64]) -> float:
    """By which the right classes are most likely."""
    wide_nK, rows = logits_nK.astype(np.float64), np.arange(len(right_n))

    def surprise(log_temperature: float) -> float:
        return -float(log_softmax(wide_nK / math.exp(log_temperature), axis=1)[rows, right_n].mean())

    low, high = map(math.log, _TEMPERATURES)
    return round(math.exp(minimize_scalar(surprise, bounds=(low, high), method="bounded").x), 4)


def _cut(by_heads: Mapping[int, Array], images: NDArray[np.int64]) -> dict[int, Array]:
    return {k: values[images] for k, values in by_heads.items()}


class _Outcomes:
    """What each of *heads* says of some images: the probability of its answer [n], and whether it is right [n]."""

    def __init__(
        self,
        heads: Sequence[int],
        surest: Mapping[int, Array],
        is_right: Mapping[int, Bools],
        gmacs: Mapping[int, float],
    ) -> None:
        self._heads, self._surest, self._is_right, self._gmacs = heads, surest, is_right, gmacs
        self._count = len(is_right[heads[0]])
        steps = np.arange(_NUM_THRESHOLDS) / _NUM_THRESHOLDS
        self._thresholds = {k: np.unique([0.0, *np.round(np.quantile(surest[k], steps), 4)]) for k in heads}

    def cheapest(self, as_good_as: int, within: float) -> tuple[tuple[int, ...], tuple[float, ...]] | None:
        """The head counts and thresholds with fewest GMACs that are right as often; None where none has fewer."""
        halves = [np.arange(self._count) % 2 == half for half in (0, 1)]
        least = [self._is_right[as_good_as][half].sum() - within / 100 * half.sum() for half in halves]
        best, found = self._gmacs[as_good_as], None
        for heads in self._sequences():
            right, gmacs = self._tried(heads, halves)
            good = np.logical_and(*(each >= enough for each, enough in zip(right, least, strict=True)))
            gmacs = np.where(good, gmacs, np.inf)
            at = np.unravel_index(gmacs.argmin(), gmacs.shape)
            if gmacs[at] < best:
                thresholds = zip(heads[:-1], at, strict=True)
                best, found = float(gmacs[at]), (heads, tuple(float(self._thresholds[k][i]) for k, i in thresholds))
        return found

    def _sequences(self) -> Iterator[tuple[int, ...]]:
        for length in range(2, _LONGEST + 1):
            yield from itertools.combinations(self._heads, length)

    def _tried(self, heads: tuple[int, ...], parts: Sequence[Bools]) -> tuple[list[Array], Array]:
        """For all thresholds of all but the last of *heads*: right answers in each part, and GMACs of an image.

        Images are counted once, by how many thresholds their probability reaches at each of the head counts; sums along
        these axes then say how many pass which thresholds.
        """
        asked = heads[:-1]
        reached = tuple(np.searchsorted(self._thresholds[k], self._surest[k], side="right") for k in asked)

        def counted(weights_n: Array) -> Array:
            counts = np.zeros([len(self._thresholds[k]) + 1 for k in asked])
            np.add.at(counts, reached, weights_n)
            return counts

        def right(part: Bools) -> Array:
            found: Array = np.zeros(1)
            for axis, k in enumerate(heads):  # answered by k: not by those before it
                counts = counted(self._is_right[k] & part)
                for before in range(axis):
                    counts = _below(counts, before)
                found = found + (_any(_from(counts, axis), axis + 1) if k != heads[-1] else counts)
            return found

        going_on, gmacs = counted(np.ones(self._count)), np.asarray(self._gmacs[heads[0]])
        for axis, k in enumerate(heads[1:]):
            going_on = _below(going_on, axis)
            gmacs = gmacs + self._gmacs[k] * _any(going_on, axis + 1) / self._count
        return [right(part) for part in parts], gmacs

    def told(self, as_good_as: int, heads: tuple[int, ...], thresholds: tuple[float, ...]) -> CalibratedCascade:
        """What the cascade is worth on these images."""
        going_on, is_right = np.ones(self._count, np.bool_), np.zeros(self._count, np.bool_)
        shares, gmacs = [], 0.0
        for k, threshold in zip(heads, (*thresholds, 0.0), strict=True):
            shares.append(round(float(going_on.mean()), 4))
            gmacs += self._gmacs[k] * going_on.mean()
            answered = going_on & (self._surest[k] >= threshold)
            is_right |= answered & self._is_right[k]
            going_on &= ~answered
        gain_n = is_right.astype(float) - self._is_right[as_good_as]
        gain, spread = float(gain_n.mean()), _Z * float(gain_n.std()) / math.sqrt(self._count)
        return CalibratedCascade(
            as_good_as=as_good_as,
            heads=heads,
            thresholds=thresholds,
            **_interval(is_right),
            gain=_points(gain),
            gain_low=_points(max(gain - spread, -1)),
            gain_high=_points(min(gain + spread, 1)),
            gmacs=float(f"{gmacs:.6g}"),
            shares=tuple(shares),
        )


def _below(counts: Array, axis: int) -> Array:
    """Of counts by thresholds reached: for each threshold, what does not reach it."""
    return np.delete(counts.cumsum(axis), -1, axis)


def _from(counts: Array, axis: int) -> Array:
    """For each threshold, what reaches it."""
    return np.asarray(counts.sum(axis, keepdims=True) - _below(counts, axis))


def _any(counts: Array, first: int) -> Array:
    """Whatever the thresholds from axis *first* on are."""
    return np.asarray(counts.sum(tuple(range(first, counts.ndim)), keepdims=True))


def _ece(surest_n: Array, is_right_n: Bools) -> float:
    """Expected calibration error in points: how far confidence and accuracy lie apart in bins of confidence."""
    bins = np.minimum((surest_n * _BINS).astype(int), _BINS - 1)
    apart = [abs(surest_n[bins == b].sum() - is_right_n[bins == b].sum()) for b in range(_BINS)]
    return _points(float(sum(apart)) / len(surest_n))


def _interval(is_right_n: Bools) -> dict[str, float]:
    """Accuracy in percent with Wilson's interval."""
    n, share = len(is_right_n), float(is_right_n.mean())
    middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    low, high = max(middle - half, 0), min(middle + half, 1)
    return {"accuracy": _points(share), "low": _points(low), "high": _points(high)}


def _points(share: float) -> float:
    return round(100 * share, 2)
