"""One model of all times: the logarithm of a time is a sum of independent effects, each shared by those who are alike.

A time is what the chip and the size of the network let expect, plus effects of the compute unit, the line of
accelerators, the chip, the device, the runtime and the arithmetic, and of the shape of the network. Records that share
effects speak for each other: the covariance of two records is the sum of the variances of what they share. Given the
records, any other time follows by linear regression in closed form ("kriging"; Rasmussen and Williams 2006, Gaussian
Processes for Machine Learning, section 2.2), with its variance, and with the weight of each record.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_FULL = 17.56  # GMACs of a ViT-B/16 at 224 px, of whose time the overhead is a share
# Overhead as a share of a ViT-B's time: what is expected, and one standard deviation above. NPUs and GPUs showed 0.03
# (Axera) to 0.41 (Hailo), Orin 0.25; CPUs are 4 to 13 % slower at k = 3 than in proportion to its GMACs, a fourteenth.
_OVERHEAD = {"cpu": (0.003, 0.01), "gpu": (0.2, 0.4), "npu": (0.2, 0.4)}
# Logarithms, for each unit: of the milliseconds that a GMAC takes at speed 1, and of a speed in the middle of all.
# From a Galaxy S24 (NPU), a Jetson Orin Nano (GPU) and a Raspberry Pi 5 (CPU); the effect of the unit corrects them.
_PER_GMAC = {"cpu": 6.2, "gpu": 1.8, "npu": 2.7}
_MIDDLE_SPEED = {"cpu": 3.2, "gpu": 2.5, "npu": 3.0}


@dataclass(frozen=True)
class Coordinates:
    """A time that was taken, or is asked for.

    Attributes:
        line: of accelerators; "cpu" on a CPU.
        kernels: what computes for the runtime on a CPU: the library that several share, or its own.
        log_speed: of the cores or the accelerator that work, as ``chips`` has it.
        vague: the logarithm's standard deviation where the speed is that of devices of its kind.
        threads: on a CPU.
        noise: the standard deviation of what a record has of its own.
    """

    unit: str
    line: str
    soc: str
    device: str
    runtime: str
    kernels: str
    arithmetic: str
    log_speed: float
    gmacs: float
    tokens: int
    vague: float = 0.0
    threads: int | None = None
    noise: float = 0.0


@dataclass(frozen=True)
class Effect:
    """What all points of one *key* share.

    Attributes:
        cpu, accelerator: its standard deviation, of logarithms, on CPUs and on everything else.
        slope: how strongly a point has it; *fades*: it is less alike for shapes that are less alike.
    """

    cpu: float
    accelerator: float
    key: Callable[[Coordinates], tuple[Any, ...]]
    slope: Callable[[Coordinates], float] = lambda point: 1.0
    fades: bool = False

    def scale(self, point: Coordinates) -> float:
        return (self.cpu if point.unit == "cpu" else self.accelerator) * self.slope(point)


# `python benchmarks/latency_effects.py` fits these. Those of units are so large that nothing is expected of a unit.
EFFECTS: tuple[Effect, ...] = (
    Effect(3.0, 2.8, lambda p: (p.unit,)),
    Effect(0.0, 1.0, lambda p: (p.unit, p.line)),
    Effect(0.12, 0.4, lambda p: (p.unit, p.line), lambda p: p.log_speed - _MIDDLE_SPEED[p.unit]),
    Effect(0.25, 0.18, lambda p: (p.unit, p.soc)),
    Effect(0.09, 0.12, lambda p: (p.unit, p.device)),
    Effect(0.8, 0.95, lambda p: (p.unit, p.device), lambda p: p.vague),
    Effect(0.16, 0.0, lambda p: (p.unit, p.soc, p.threads)),
    Effect(0.3, 0.0, lambda p: (p.unit, p.kernels)),
    Effect(0.18, 0.34, lambda p: (p.unit, p.runtime)),
    Effect(0.4, 0.38, lambda p: (p.unit, p.arithmetic)),
    Effect(0.2, 0.9, lambda p: (p.unit, p.line, p.runtime, p.arithmetic)),
    Effect(0.18, 0.14, lambda p: (p.unit, p.soc, p.runtime)),
    Effect(0.19, 0.12, lambda p: (p.unit, p.soc, p.arithmetic)),
    Effect(0.14, 0.18, lambda p: (p.unit, p.device, p.runtime, p.arithmetic)),
    Effect(0.7, 0.5, lambda p: (p.unit,), lambda p: _overhead(p)),
    Effect(0.0, 0.7, lambda p: (p.unit, p.line), lambda p: _overhead(p)),
    Effect(0.68, 0.33, lambda p: (p.unit, p.soc), lambda p: _overhead(p)),
    Effect(0.2, 0.3, lambda p: (p.unit,), fades=True),
    Effect(0.13, 0.14, lambda p: (p.unit, p.soc), fades=True),
)
_FADES = 2.0  # shapes so many e-folds apart, in GMACs and in tokens together, have a third in common


def expected(point: Coordinates) -> float:
    """The logarithm of the time, but for the effects."""
    return _PER_GMAC[point.unit] + math.log(_work(point, _OVERHEAD[point.unit][0])) - point.log_speed


def _work(point: Coordinates, overhead: float) -> float:
    return overhead * _FULL + (1 - overhead) * point.gmacs


def _overhead(point: Coordinates) -> float:
    """What one standard deviation more overhead adds to the logarithm, 0 for a ViT-B."""
    likely, more = _OVERHEAD[point.unit]
    return math.log(_work(point, more) / _work(point, likely))


class _Features:
    """What the covariances of *points* are made of: per effect who shares it, and how strongly each has it."""

    def __init__(self, points: Sequence[Coordinates]) -> None:
        self.keys = [[effect.key(point) for point in points] for effect in EFFECTS]
        self.scales = [np.array([effect.scale(point) for point in points]) for effect in EFFECTS]
        self.shapes = np.log([(point.gmacs, point.tokens) for point in points])

    def variances(self) -> Array:
        total: Array = np.sum([scale**2 for scale in self.scales], axis=0)
        return total

    def covariance(self, others: _Features) -> Array:
        """Of the effects, without what is a record's own."""
        apart = np.abs(self.shapes[:, None, :] - others.shapes[None, :, :]).sum(axis=2)
        alike, total = np.exp(-apart / _FADES), np.zeros(apart.shape)
        for effect, mine, theirs, *scales in zip(
            EFFECTS, self.keys, others.keys, self.scales, others.scales, strict=True
        ):
            codes = {key: code for code, key in enumerate(dict.fromkeys([*mine, *theirs]))}
            same = np.equal.outer(*(np.array([codes[key] for key in keys]) for keys in (mine, theirs)))
            total += same * np.multiply.outer(*scales) * (alike if effect.fades else 1.0)
        return total


class Regression:
    """The times of all *points*, and what they say of any other."""

    def __init__(self, points: Sequence[Coordinates], ms: Sequence[float]) -> None:
        self._known = _Features(points)
        noise = np.diag([point.noise**2 for point in points])
        self._inverse = np.linalg.inv(self._known.covariance(self._known) + noise).astype(np.float64)
        residuals = [math.log(one) - expected(point) for one, point in zip(ms, points, strict=True)]
        self._solved: Array = self._inverse @ np.array(residuals)

    def at(self, points: Sequence[Coordinates]) -> tuple[Array, Array]:
        """Logarithms of the times, and their standard deviations, without the noise that records have of their own."""
        asked = _Features(points)
        shared = asked.covariance(self._known)
        means: Array = np.array([expected(point) for point in points]) + shared @ self._solved
        explained = np.einsum("pr,pr->p", shared @ self._inverse, shared)
        return means, np.sqrt(np.maximum(asked.variances() - explained, 0.0))

    def weights(self, points: Sequence[Coordinates]) -> Array:
        """How much each record moves the logarithm of the time at each of *points*; of one point about 1 together."""
        weights: Array = _Features(points).covariance(self._known) @ self._inverse
        return weights
