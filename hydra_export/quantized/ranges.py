"""Ranges of activations: what images show of them, and which range of several costs least.

Three methods say what 8 bits count: all that was seen (min-max), all but a ten-thousandth (percentile), and the range
whose rounding has the least mean square (mse). Each is tried for each tensor alone; the one that changes the output of
the tensor's block least is taken. 16 bits count all that was seen.
"""

# B batch, n images, S numbers kept of a tensor
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydra_export import network
from hydra_export.architecture import HydraConfig
from hydra_export.normalised import Weight
from hydra_export.quantized.grid import Method, Range
from hydra_export.quantized.taps import Tapped

Choice = Literal["auto", "min-max", "percentile", "mse"]

_KEPT = 1 << 16  # numbers of a tensor, from which percentiles and errors are taken
_WORTH = 0.8  # of the first method's error: a few images say no more
_TAIL = 5e-5  # of the numbers on each side that percentile leaves out
_BATCH = 8
# Methods are tried on so many images, or as many as so many multiplications allow: each tensor of a block costs a run.
_JUDGED_IMAGES, _JUDGED_MACS, _TAPS_OF_A_BLOCK = 8, 2e12, 32
_CLIPS = np.linspace(0.2, 1.0, 81)  # of the peak, which mse tries
_BINS = 4096
_FIXED = ("/shares", "/sigmoid")
_SHARES = Range(0, 1, 1, method="fixed")
# What comes from outside is counted alike by all head counts; and of what a norm divides by, nothing may be cut off: an
# image with a larger number than those seen would be scaled wrong as a whole.
_WHOLE = ("image", "/mean", "/centred", "/square", "/variance", "/rsqrt")


@dataclass
class Seen:
    """What images showed of one tensor."""

    low: float = 0.0  # 0 is always counted: zeros are padded, and a product without a term is 0
    high: float = 0.0
    parts: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, x: Tensor, share: float) -> None:
        """*share* of the numbers of *x* are kept."""
        low, high = x.aminmax()
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))
        flat = x.flatten()
        step = max(1, int(len(flat) / max(1, _KEPT * share)))
        self.parts.append(flat[len(self.parts) % step :: step].numpy().copy())

    def range(self, method: Method) -> Range:
        """By one method."""
        low, high, peak = self.low, self.high, max(-self.low, self.high)
        if not np.isfinite(peak):
            raise FloatingPointError
        numbers = np.concatenate(self.parts)
        if method == "percentile":
            low, high = (float(np.quantile(numbers, share)) for share in (_TAIL, 1 - _TAIL))
            low, high = min(low, 0.0), max(high, 0.0)
        elif method == "mse":
            low, high = _least_square(numbers, self.low, self.high)
        return Range(low, high, peak, method=method)


def _least_square(numbers: NDArray[np.float32], low: float, high: float) -> tuple[float, float]:
    """The ends, clipped alike, by which 8 bits are off least."""
    counts, edges = np.histogram(numbers, _BINS, (low, high))
    used = counts > 0
    middles, counts = ((edges[1:] + edges[:-1]) / 2)[used], counts[used]
    best, ends = np.inf, (low, high)
    for clip in _CLIPS[::-1] * max(-low, high):
        clipped = (max(low, -clip), min(high, clip))
        scale = (clipped[1] - clipped[0]) / 255 or 1.0
        off = np.clip(np.rint((middles - clipped[0]) / scale), 0, 255) * scale + clipped[0] - middles
        if (error := float((counts * off * off).sum())) < best:
            best, ends = error, (float(clipped[0]), float(clipped[1]))
    return ends


@dataclass(frozen=True)
class Calibrated:
    """The ranges of the tensors of one subnetwork, and what 8 bits of each cost.

    Attributes:
        errors: how far the output of a tensor's block is off, as a share of its size (root mean squares).
        last: the tensor that the subnetwork gives.
    """

    ranges: dict[str, Range]
    errors: dict[str, float]
    last: str


def calibrated(
    config: HydraConfig,
    weights: Mapping[str, Weight],
    heads: int,
    image_nCHW: Tensor,
    method: Choice = "auto",
    cuts: Sequence[int] = (),
) -> Calibrated:
    """The ranges of subnetwork *heads*, by normalised images.

    Args:
        weights: the normalised form.
        cuts: head counts at which Linears may be cut.
    """
    seen: dict[str, Seen] = {}
    share = min(1.0, _BATCH / len(image_nCHW))

    def look(name: str, x: Tensor) -> Tensor:
        found = seen.setdefault(name, Seen())
        if not name.endswith(_FIXED):
            found.add(x, share)
        return x

    with torch.inference_mode():
        for cut in {(), tuple(cuts)}:
            for start in range(0, len(image_nCHW), _BATCH):
                batch = image_nCHW[start : start + _BATCH]
                Tapped(config, weights, heads, look, cuts=cut).run(batch)
        methods = get_args(Choice)[1:] if method == "auto" else (method,)
        candidates = {
            name: [_SHARES]
            if name.endswith(_FIXED)
            else [each.range(m) for m in (("min-max",) if name.endswith(_WHOLE) else methods)]
            for name, each in seen.items()
        }
        each = network.macs(config, heads) * _TAPS_OF_A_BLOCK * len(methods)
        few = image_nCHW[: max(1, min(_JUDGED_IMAGES, int(_JUDGED_MACS / each)))]
        return _judged(config, weights, heads, few, candidates, cuts)


def _judged(
    config: HydraConfig,
    weights: Mapping[str, Weight],
    heads: int,
    image_BCHW: Tensor,
    candidates: Mapping[str, Sequence[Range]],
    cuts: Sequence[int],
) -> Calibrated:
    """Of each tensor's *candidates* the one that costs least."""
    ranges, errors = dict[str, Range](), dict[str, float]()
    for cut in dict.fromkeys([(), tuple(cuts)]):
        judging = _Judging(config, weights, heads, {n: c for n, c in candidates.items() if n not in ranges}, cut)
        judging.run(image_BCHW)
        for name, found in judging.errors.items():
            best = int(np.argmin(found))
            best = best if found[best] < _WORTH * found[0] else 0
            ranges[name], errors[name] = candidates[name][best], found[best]
    return Calibrated(ranges, errors, list(judging.names)[-1])


class _Judging(Tapped):
    """Runs each stage of the network once more for each candidate, with one tensor rounded.

    Stages are the embedding, norms between blocks, blocks, and all behind them.
    """

    def __init__(
        self,
        config: HydraConfig,
        weights: Mapping[str, Weight],
        heads: int,
        candidates: Mapping[str, Sequence[Range]],
        cuts: Sequence[int],
    ) -> None:
        super().__init__(config, weights, heads, self._try, cuts=cuts)
        self.candidates, self.errors = candidates, dict[str, list[float]]()
        self.names: dict[str, None] = {}
        self._rounded: tuple[str, Range] | None = None
        self._stage: list[str] | None = None

    def _try(self, name: str, x: Tensor) -> Tensor:
        self.names[name] = None
        if self._stage is not None:
            self._stage.append(name)
        if self._rounded is not None and self._rounded[0] == name:
            return self._rounded[1].grid(8).rounded(x)
        return x

    def run(self, image_BCHW: Tensor) -> Tensor:
        tokens = network.tokens(self, self.config, image_BCHW)
        return self._judge(lambda x: network.output(self, self.config, x, self.heads), tokens)

    def embed(self, image_BCHW: Tensor) -> Tensor:
        return self._judge(super().embed, image_BCHW)

    def block(self, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return self._judge(run, x)

    def norm(self, x: Tensor, place: str) -> Tensor:
        norm = super().norm
        return self._judge(lambda x: norm(x, place), x) if place in ("norm", "norm_pre") else norm(x, place)

    def _judge(self, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        self._stage = []
        exact, names = run(x), [name for name in dict.fromkeys(self._stage) if name in self.candidates]
        self._stage = None
        size = exact - exact.mean(tuple(range(exact.ndim - 1)), keepdim=True)
        for name in names:
            self.errors[name] = [float(off) for off in self._errors(run, x, exact, name, size)]
        return exact

    def _errors(
        self, run: Callable[[Tensor], Tensor], x: Tensor, exact: Tensor, name: str, size: Tensor
    ) -> Iterator[Tensor]:
        for candidate in self.candidates[name]:
            self._rounded = (name, candidate)
            yield (run(x) - exact).square().mean().sqrt() / size.square().mean().sqrt().clamp_min(1e-30)
        self._rounded = None
