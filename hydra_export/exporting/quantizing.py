"""Checkpoints for graphs of integer activations: evened out, their tensors counted by what images show of them."""

# n images, H height, W width, C channels
from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydra_export import parity
from hydra_export.arrays import Array
from hydra_export.bundle import Quantization
from hydra_export.checkpoint import Checkpoint
from hydra_export.checkpoint_file import CheckpointInfo
from hydra_export.data import FASHION_MNIST_LABELS, ImageSet, packaged_images
from hydra_export.errors import BadInput, ParityFailed
from hydra_export.exporting.plan import Plan
from hydra_export.exporting.sample import Sample
from hydra_export.quantized import equalised, ranges
from hydra_export.quantized.grid import Range
from hydra_export.quantized.ranges import Calibrated, Choice
from hydra_export.quantized.taps import Tapped
from hydra_export.target import STATIC, Precision

LEAST_IMAGES = 8
_EQUALISED_IMAGES = 32
_BATCH = 8
_WORST = 6  # tensors that a message names
_FIRST_WIDE = 4  # of 16 bits, where none is not enough; each try runs all images of the gate

Say = Callable[[str], None]


@dataclass(frozen=True)
class Quantizing:
    """How activations are counted.

    Attributes:
        images: what shows how large they are.
        method: how ranges are chosen.
        smooth: channels are evened out.
        mixed: of int8-static, the tensors that 8 bits cost most get 16, as few as the gate asks for.
    """

    images: ImageSet
    method: Choice = "auto"
    smooth: bool = True
    mixed: bool = False

    @classmethod
    def of(cls, info: CheckpointInfo, images: ImageSet | None, count: int, **how: Any) -> Self | None:
        """By *count* of *images*; of none, by packaged ones where they are the model's own kind."""
        if count < LEAST_IMAGES:
            raise BadInput(f"`calibration_images` is {count}.", f"Use {LEAST_IMAGES} or more.")
        if images is None:
            if info.labels != FASHION_MNIST_LABELS:
                return None
            images = packaged_images(info.preprocessing)
            # The first ones judge.
            return cls(images=_some(images, np.arange(len(images))[-min(count, len(images) // 2) :]), **how)
        count = min(count, len(images))
        return cls(images=_some(images, np.arange(count) * len(images) // count), **how)

    def __post_init__(self) -> None:
        if len(self.images) < LEAST_IMAGES:
            raise BadInput(
                f"{len(self.images)} images are too few to calibrate activations.",
                f"Pass `calibrate` with {LEAST_IMAGES} images or more.",
            )


def _some(images: ImageSet, chosen: NDArray[np.int64]) -> ImageSet:
    source = images.source if len(chosen) == len(images) else f"{len(chosen):,} of {images.source}"
    return replace(
        images,
        pixels=images.pixels[chosen],
        labels=None if images.labels is None else images.labels[chosen],
        source=source,
    )


@dataclass(frozen=True)
class Prepared:
    """What integers need.

    Attributes:
        checkpoints: by precision.
        errors: by head count and tensor, what 8 bits of it cost.
        how: what the manifest says, by precision.
    """

    checkpoints: dict[Precision, Checkpoint]
    errors: dict[int, dict[str, float]]
    how: dict[Precision, Quantization]

    def worst(self, heads: int, precision: Precision) -> str:
        """The tensors that cost most, in words; nothing where they have 16 bits."""
        checkpoint = self.checkpoints.get(precision)
        if checkpoint is None or checkpoint.activations is None:
            return ""
        kept = checkpoint.activations[precision][heads]
        order = sorted(self.errors[heads].items(), key=lambda each: each[1], reverse=True)
        narrow = [f"{name} {error:.1%}" for name, error in order if name in kept and not kept[name].wide]
        return ", ".join(narrow[:_WORST])


def quantized(plan: Plan, how: Quantizing | None, sample: Sample, say: Say) -> Prepared:
    """For the precisions of *plan* that need it.

    Raises:
        BadInput: there are no images to calibrate by.
        ParityFailed: the gate does not even pass where all tensors have 16 bits.
    """
    wanted = [p for p in STATIC if p in plan.num_images]
    if not wanted:
        return Prepared({}, {}, {})
    if how is None:
        raise BadInput(
            f"{wanted[0]} needs images to calibrate activations, and there are none.",
            "Pass `calibrate` with images like those that the app will see, 100 or more.",
        )
    say("equalizing channels")
    info, images = plan.checkpoint.info, how.images.pixels
    image_nCHW = torch.from_numpy(info.preprocessing.normalise(images))
    few = image_nCHW[:: max(1, len(images) // _EQUALISED_IMAGES)][:_EQUALISED_IMAGES]
    state = equalised.equalised(info.config, plan.checkpoint.state, plan.heads, few, how.smooth)
    even = replace(plan.checkpoint, state=state)
    is_cut = any(write.job.spec.graph == "universal" for write in plan.writes)
    found: dict[int, Calibrated] = {}
    weights = even.model.normalised_weights()
    for k in plan.heads:
        say(f"calibrating k = {k}")
        cuts = [each for each in plan.heads if each <= k] if is_cut else []
        found[k] = ranges.calibrated(info.config, weights, k, image_nCHW, how.method, cuts)
    output = _output(info.config.output, found.values())
    kept = {k: each.ranges | output for k, each in found.items()}
    checkpoints, told = {}, {}
    for precision in wanted:
        counted = {
            k: _widened(even, plan, sample, k, of_k, found[k].errors, precision, how.mixed, say)
            for k, of_k in kept.items()
        }
        checkpoints[precision] = replace(even, activations={precision: counted})
        told[precision] = _told(how, counted, precision)
    return Prepared(checkpoints, {k: each.errors for k, each in found.items()}, told)


def _output(name: str, found: Collection[Calibrated]) -> dict[str, Range]:
    """What a subnetwork gives, under its own name and *name*: counted alike by all head counts."""
    shared = functools.reduce(Range.union, [each.ranges[each.last] for each in found])
    return dict.fromkeys((name, next(iter(found)).last), shared)


def _told(how: Quantizing, counted: Mapping[int, Mapping[str, Range]], precision: Precision) -> Quantization:
    methods: dict[str, int] = {}
    wide = {}
    for k, of_k in counted.items():
        for each in (range_ for range_ in of_k.values() if range_.method != "fixed"):
            methods[each.method] = methods.get(each.method, 0) + 1
        if precision != "w8a16":
            wide[k] = tuple(name for name, each in of_k.items() if each.wide)
    return Quantization(
        images=how.images.source,
        methods={} if precision == "w8a16" else methods,
        smooth=how.smooth,
        wide={k: names for k, names in wide.items() if names},
    )


def _widened(
    checkpoint: Checkpoint,
    plan: Plan,
    sample: Sample,
    heads: int,
    ranges: Mapping[str, Range],
    errors: Mapping[str, float],
    precision: Precision,
    mixed: bool,
    say: Say,
) -> dict[str, Range]:
    """*ranges* with 16 bits for all of w8a16, and otherwise for as few as pass the gate where that is asked for."""
    worst = [name for name, _error in sorted(errors.items(), key=lambda each: each[1], reverse=True)]
    if precision == "w8a16":
        return _with_16_bits(ranges, ranges)
    if not mixed:
        return dict(ranges)
    gated = Simulated(checkpoint, plan, sample, heads, precision)
    count = 0
    while True:
        say(f"trying k = {heads} with {count} tensors of 16 bits")
        tried = _with_16_bits(ranges, worst[:count])
        try:
            gated.check(tried)
        except ParityFailed:
            if count >= len(worst):
                raise
            count = min(len(worst), max(_FIRST_WIDE, 2 * count))
        else:
            return tried


def _with_16_bits(ranges: Mapping[str, Range], names: Sequence[str] | Mapping[str, Range]) -> dict[str, Range]:
    chosen = set(names)
    return {name: msgspec.structs.replace(each, wide=name in chosen) for name, each in ranges.items()}


class Simulated:
    """Subnetwork *heads* with its tensors rounded, held to the gate as artifacts are."""

    def __init__(self, checkpoint: Checkpoint, plan: Plan, sample: Sample, heads: int, precision: Precision) -> None:
        self._checkpoint, self._heads, self._gate = checkpoint, heads, sample.gate
        pixels = sample.pixels[precision]
        data = plan.checkpoint.info.preprocessing
        self._expected = parity.reference(plan.checkpoint.model, heads, pixels, data, precision)
        self._images = torch.from_numpy(data.normalise(pixels))
        self._precision = precision

    def check(self, ranges: Mapping[str, Range]) -> None:
        """Raises ParityFailed where it would not pass."""
        runtime = parity.SIMULATION
        expected = {self._precision: self._expected}
        outputs = [(runtime, self._outputs(ranges))]
        parity.judged(outputs, self._heads, self._precision, expected, "The simulation", self._gate)

    def _outputs(self, ranges: Mapping[str, Range]) -> Array:
        config, weights = self._checkpoint.info.config, self._checkpoint.model.normalised_weights()
        grids = {name: each.grid() for name, each in ranges.items()}

        def tap(name: str, x: Tensor) -> Tensor:
            return grids[name].rounded(x)

        with torch.inference_mode():
            tapped = Tapped(config, weights, self._heads, tap, _rounded_matrix)
            parts = [tapped.run(self._images[at : at + _BATCH]) for at in range(0, len(self._images), _BATCH)]
        return np.concatenate([part.numpy() for part in parts])


def _rounded_matrix(name: str, weight: Tensor) -> Tensor:
    scale = weight.flatten(1).abs().amax(1).clamp_min(1e-30).div(127).view(-1, *[1] * (weight.ndim - 1))
    return (weight / scale).round() * scale
