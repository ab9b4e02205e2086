"""Runs a bundle's model in an app: chooses the head count of each call by a deadline, by its sureness, or by both.

    model = hydra_runtime.load("dist")     # a bundle's folder or archive; hashes are checked
    model("photo.jpg").label               # a path, a Pillow image or an array of pixels
    model.budget(ms=33)                    # the head count that keeps this deadline, call by call
    model.cascade(as_good_as=12)           # a small one first, a larger one only where that is unsure

One file, which a bundle carries as ``snippets/hydra_runtime.py``: it takes Python 3.9, numpy, and onnxruntime or
ai-edge-litert; Pillow for image files. That is why it imports nothing of hydra_export, and why it is longer than other
modules. The rules, ``Budget`` and ``Cascade``, are the same in other languages, which reproduce the same traces.
SPDX-License-Identifier: Apache-2.0
"""

# H height, W width, C channels, K outputs; L pixels along a resized axis, M along the other, N of the crop, T taps
from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import json
import math
import re
import shutil
import tempfile
import threading
import time
import weakref
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Callable

import numpy as np

Array = Any  # numpy.ndarray, whose types older releases of numpy do not have
Run = Callable[[Array], Array]  # one batch in the artifact's input form to its outputs
# Opens a file that the manifest describes so, with so many threads; gives what runs it at a head count.
Opens = Callable[[Path, Mapping[str, Any], int], Callable[[int], Run]]


class RuntimeFailure(Exception):
    """A bundle cannot be used, or an argument is wrong; the message states what to do."""


# Rules, which every language has: +, -, *, /, comparisons, sorting and exp of float64, so that all give one trace.


class Budget:
    """Chooses head counts so that calls take at most *ms* at *quantile* of them.

    The machine's slowness is how much longer recent calls took than *references*, whatever their head count. A head
    count that does not fit at this slowness is replaced at once by the largest that fits; a larger one is tried after
    ``CALM`` calm calls, with room to spare, and twice as late after each failed try.

    Args:
        references: by head count, the milliseconds of a call on the machine when nothing else runs.
        ms: time budget of a call in milliseconds.
        quantile: the share of calls that must meet it, from 0.5 to below 1.
    """

    WINDOW, RECENT, CALM, LONGEST_CALM, ROOM = 32, 6, 12, 192, 0.9

    def __init__(self, references: Mapping[int, float], ms: float, quantile: float = 0.95) -> None:
        if not references or not all(0 < each < math.inf for each in references.values()):
            raise RuntimeFailure(
                f"References of {dict(references)} ms are invalid. Pass a time above 0 for each head count."
            )
        if not 0 < ms < math.inf:
            raise RuntimeFailure(f"A budget of {ms} ms is invalid. Pass milliseconds above 0.")
        if not 0.5 <= quantile < 1:
            raise RuntimeFailure(f"The quantile is {quantile}. Pass a share from 0.5 to below 1, such as 0.95.")
        self.references, self.ms, self.quantile = dict(sorted(references.items())), float(ms), float(quantile)
        self._heads = [*self.references]
        self._slowness: list[float] = []  # of each run: its time over the reference
        self._others: list[float] = []  # of each call: what it took beside its runs
        self._calm, self._wait, self._climbed = 0, self.CALM, False
        self._at = max((at for at, k in enumerate(self._heads) if self._time(k) <= self.ROOM * self.ms), default=0)

    @property
    def heads(self) -> int:
        """The head count of the next call."""
        return self._heads[self._at]

    def plan(self, cascade: Sequence[int] = ()) -> tuple[int, ...]:
        """The head counts to run, in this order: those of *cascade* if all of them fit together, else one."""
        together = 0.0
        for k in cascade:
            together += self._time(k)  # sum() adds otherwise from Python 3.12 on
        if cascade and together * self._slow(self.quantile) <= self._left():
            return tuple(cascade)
        return (self.heads,)

    def saw(self, runs: Sequence[tuple[int, float]], other_ms: float = 0.0) -> None:
        """Records one call: head count and milliseconds of each run, and milliseconds of the rest of the call."""
        self._slowness = [*self._slowness, *(ms / self._time(k) for k, ms in runs)][-self.WINDOW :]
        self._others = [*self._others, other_ms][-self.WINDOW :]
        left, slow = self._left(), self._slow(2 * self.quantile - 1)
        lower = self._at
        while lower > 0 and self._time(self._heads[lower]) * slow > left:
            lower -= 1
        if lower < self._at:
            if self._climbed:
                self._wait = min(2 * self._wait, self.LONGEST_CALM)
            self._at, self._calm, self._climbed = lower, 0, False
            return
        self._calm += 1
        if self._calm < self._wait:
            return
        if self._climbed:
            self._wait, self._climbed = self.CALM, False
        above = self._at + 1
        if above < len(self._heads) and self._time(self._heads[above]) * self._slow(self.quantile) <= self.ROOM * left:
            self._at, self._calm, self._climbed = above, 0, True

    def _time(self, heads: int) -> float:
        return self.references[heads]

    def _left(self) -> float:
        """Milliseconds for the runs of a call."""
        return self.ms - (_quantile(self._others, self.quantile) if self._others else 0.0)

    def _slow(self, share: float) -> float:
        if not self._slowness:
            return 1.0
        return max(_quantile(self._slowness[-self.RECENT :], 0.8), _quantile(self._slowness, share))


def _quantile(values: Sequence[float], share: float) -> float:
    """The smallest of *values* that *share* of them do not exceed."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]


def surest(logits: Sequence[float], temperature: float = 1.0) -> tuple[int, float]:
    """The index of the first largest of *logits* [K], and its probability: the softmax of logits / temperature."""
    scaled_K = np.asarray(logits, np.float64) / temperature
    best = int(scaled_K.argmax())
    return best, float(1 / np.exp(scaled_K - scaled_K[best]).sum())


@dataclass(frozen=True)
class Cascade:
    """Head counts in the order in which they run; an answer is accepted if its probability reaches the threshold.

    Attributes:
        heads: ascending. *thresholds*: for all but the last, whose answer is always accepted.
        as_good_as: the head count whose accuracy it matches.
    """

    heads: tuple[int, ...]
    thresholds: tuple[float, ...]
    as_good_as: int = 0

    def __post_init__(self) -> None:
        if not self.heads or len(self.thresholds) != len(self.heads) - 1 or sorted({*self.heads}) != [*self.heads]:
            raise RuntimeFailure(
                f"No cascade has heads {self.heads} and thresholds {self.thresholds}. Pass ascending head counts, and "
                "a threshold for each but the last."
            )

    def accepts(self, heads: int, probability: float) -> bool:
        """Whether the answer of *heads* is accepted."""
        at = self.heads.index(heads)
        return at == len(self.thresholds) or probability >= self.thresholds[at]


# Images: from pixels to what a model takes, Pillow's own pixels without Pillow.

_RESAMPLING = {"nearest": 0, "bilinear": 2, "bicubic": 3}  # PIL.Image.Resampling
# Pixels that may be resized for one that is kept: above, as of a strip of 20,000 x 1, only the crop is computed.
_LARGEST_DETOUR = 8
_BITS = 22  # of a weight's fraction: Pillow computes in integers (its Resample.c)


def _tall_images_down_first() -> bool:
    """Each pass rounds to 8 bits, so that their order shows: https://github.com/python-pillow/Pillow/pull/9549"""
    if importlib.util.find_spec("PIL") is None:
        return True
    return int(importlib.import_module("PIL").__version__.split(".")[0]) >= 13


def fitted(image: Any, preprocessing: Mapping[str, Any]) -> Array:
    """Turns a photograph into the uint8 [H, W, C] that the model takes.

    Args:
        image: a path; a Pillow image, which is turned upright as its EXIF orientation says; or pixels in 0-255, uint8
            [H, W] or [H, W, C] with C = 1, 3 (red, green, blue; for OpenCV frames pass ``frame[..., ::-1]``) or 4 (the
            last is ignored).
        preprocessing: the manifest's.
    """
    has_pillow = importlib.util.find_spec("PIL") is not None
    if not isinstance(image, np.ndarray):
        if not has_pillow:
            raise RuntimeFailure("Image files need Pillow, which is not installed. Run: pip install pillow")
        from PIL import Image, ImageOps

        try:
            return cropped(
                ImageOps.exif_transpose(image if hasattr(image, "getexif") else Image.open(image)), preprocessing
            )
        except OSError as error:
            raise RuntimeFailure(f"{image} cannot be read: {error}.") from error
    channels = 1 if image.ndim == 2 else image.shape[-1]
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in image.shape:
        raise RuntimeFailure(
            f"An image is {image.dtype} {list(image.shape)}. Pass uint8 [height, width] or [height, width, 1, 3 or 4]."
        )
    pixels = image.reshape(image.shape[:2]) if channels == 1 else image[..., :3]
    if has_pillow:
        from PIL import Image

        return cropped(Image.fromarray(np.ascontiguousarray(pixels)), preprocessing)
    return cropped(pixels, preprocessing)


def cropped(image: Any, preprocessing: Mapping[str, Any]) -> Array:
    """The same of a Pillow image that is upright, or of pixels [H, W] or [H, W, 3]; Pillow is several times as fast."""
    channels, kept = len(preprocessing["mean"]), _sides(preprocessing)
    if isinstance(image, np.ndarray):
        image = _with_channels(image, channels)
        size = _resized(image.shape, preprocessing)
    else:
        mode = "RGB" if channels == 3 else "L"
        image = image if image.mode == mode else image.convert(mode)
        size = _resized((image.height, image.width), preprocessing)
    top, left = (round((long - short) / 2) for long, short in zip(size, kept))
    if isinstance(image, np.ndarray) or size[0] * size[1] > _LARGEST_DETOUR * kept[0] * kept[1]:
        return resized_crop(image, size, (top, left), kept, preprocessing["interpolation"])
    if image.size != size[::-1]:
        image = image.resize(size[::-1], _RESAMPLING[preprocessing["interpolation"]])
    return np.asarray(image.crop((left, top, left + kept[1], top + kept[0])), np.uint8).reshape(*kept, channels)


def _with_channels(pixels: Array, channels: int) -> Array:
    """uint8 [H, W, C] with as many *channels*, of [H, W] or [H, W, 3]; grey is Pillow's."""
    if channels == 1 and pixels.ndim == 3:
        red, green, blue = (pixels[..., c].astype(np.uint32) for c in range(3))
        pixels = ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).astype(np.uint8)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], channels, axis=2)


def _sides(preprocessing: Mapping[str, Any]) -> tuple[int, int]:
    size = preprocessing["image_size"]
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _resized(shape: Sequence[int], preprocessing: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width that an image of *shape* is resized to before the crop."""
    covered = [math.floor(side / preprocessing["crop"]) for side in _sides(preprocessing)]
    height, width = shape[:2]
    if isinstance(preprocessing["image_size"], int):
        return covered[0] * height // min(height, width), covered[0] * width // min(height, width)
    ratio = min(height / covered[0], width / covered[1])
    return round(height / ratio), round(width / ratio)


def resized_crop(
    image: Any, size: Sequence[int], start: Sequence[int], kept: Sequence[int], interpolation: str
) -> Array:
    """What Pillow's ``resize`` and ``crop`` make of an image, uint8 [*kept, C], at the cost of the crop alone.

    Args:
        image: of Pillow's mode L or RGB, or pixels [H, W, C].
        size: height and width of the whole. *start*, *kept*: the crop's first row and column, its height and width.
        interpolation: nearest, bilinear or bicubic.
    """
    is_array = isinstance(image, np.ndarray)
    height, width = image.shape[:2] if is_array else (image.height, image.width)
    down, across = (
        _taps(old, new, at, at + n, interpolation) for old, new, at, n in zip((height, width), size, start, kept)
    )
    (top, bottom), (left, right) = _reach(down, height), _reach(across, width)
    pixels = image[top:bottom, left:right] if is_array else np.asarray(image.crop((left, top, right, bottom)))
    pixels_HWC = pixels.reshape(bottom - top, right - left, -1)
    if _tall_images_down_first() and height > 2 * width and size[0] < height:
        return _resampled(_resampled(pixels_HWC, down, top).swapaxes(0, 1), across, left).swapaxes(0, 1)
    return _resampled(_resampled(pixels_HWC.swapaxes(0, 1), across, left).swapaxes(0, 1), down, top)


def _taps(old: int, new: int, start: int, stop: int, interpolation: str) -> tuple[Array, Array]:
    """For pixels *start* to *stop* where *old* pixels become *new* ones; sums in Pillow's order, to round alike.

    Of each: the first one that it is made of, int64 [N], and the weights of all, int32 [N, T].
    """
    scale = old / new
    centre_N = (np.arange(start, stop) + 0.5) * scale
    if interpolation == "nearest":
        return centre_N.astype(np.int64), np.full((len(centre_N), 1), 1 << _BITS, np.int32)
    stretch, radius = max(scale, 1.0), {"bilinear": 1.0, "bicubic": 2.0}[interpolation]
    first_N = np.maximum((centre_N - radius * stretch + 0.5).astype(np.int64), 0)
    last_N = np.minimum((centre_N + radius * stretch + 0.5).astype(np.int64), old)
    pixel_NT = first_N[:, None] + np.arange((last_N - first_N).max())
    distance_NT = np.abs((pixel_NT - centre_N[:, None] + 0.5) * (1 / stretch))
    weight_NT = np.where(pixel_NT < last_N[:, None], _kernel(distance_NT, interpolation), 0.0)
    weight_NT /= weight_NT.cumsum(axis=1)[:, -1:]
    return first_N, (weight_NT * (1 << _BITS) + np.copysign(0.5, weight_NT)).astype(np.int32)


def _kernel(distance: Array, interpolation: str) -> Array:
    x = distance
    if interpolation == "bilinear":
        return np.maximum(1.0 - x, 0.0)
    near, far = (1.5 * x - 2.5) * x * x + 1.0, (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5  # a = -0.5
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _reach(taps: tuple[Array, Array], num_pixels: int) -> tuple[int, int]:
    """From the first pixel that is used to behind the last one."""
    first_N, weight_NT = taps
    return int(first_N[0]), min(int(first_N[-1]) + weight_NT.shape[1], num_pixels)


def _resampled(pixels_LMC: Array, taps: tuple[Array, Array], start: int) -> Array:
    """uint8 [N, M, C] of pixels of which *start* lie before the first."""
    first_N, weight_NT = taps
    sum_NMC = np.full((len(first_N), *pixels_LMC.shape[1:]), 1 << (_BITS - 1), np.int32)
    for t, weight_N in enumerate(weight_NT.T):
        pixel_N = np.minimum(first_N + t - start, len(pixels_LMC) - 1)  # beyond the last the weights are 0
        sum_NMC += pixels_LMC[pixel_N] * weight_N[:, None, None]
    return np.clip(sum_NMC >> _BITS, 0, 255).astype(np.uint8)


def normalised(pixels: Array, preprocessing: Mapping[str, Any]) -> Array:
    """float32, of the same shape: (pixel / 255 - mean) / std."""
    mean_C, std_C = (np.array(preprocessing[name], np.float32) for name in ("mean", "std"))
    return (pixels.astype(np.float32) / np.float32(255) - mean_C) / std_C


# Models


@dataclass(frozen=True)
class Answer:
    """A model's answer for one image.

    Attributes:
        label: of the best class; its number if the model does not name its classes, "" if it has none.
        index: the best class. *confidence*: its probability, calibrated if the bundle is; both None without classes.
        heads: the head count that answered. *tried*: all that ran, in this order.
        ms: milliseconds of the whole call, including preprocessing, without the first loading of files.
        outputs: float32, logits, features or patch tokens.
    """

    label: str
    index: int | None
    confidence: float | None
    heads: int
    ms: float
    tried: tuple[int, ...]
    outputs: Array


class Model:
    """A bundle's model; ``load`` makes one. Calls from several threads wait for each other.

    Attributes:
        manifest: the bundle's manifest.
        artifacts: for each head count that can be chosen, the artifact that runs it.
        runtime: the runtime: onnxruntime, litert-compiled, litert or tflite-runtime.

    Args:
        opens: another runtime's name, and what opens artifacts with it (see ``Opens``).
    """

    def __init__(
        self,
        folder: Path,
        manifest: dict[str, Any],
        artifacts: dict[int, dict[str, Any]],
        threads: int = 0,
        memory: str = "all",
        opens: tuple[str, Opens] | None = None,
    ) -> None:
        self.manifest, self.artifacts = manifest, dict(sorted(artifacts.items()))
        self._folder, self._threads, self._memory = folder, threads, memory
        self._target = next(iter(artifacts.values()))["target"]
        self.runtime, self._open = opens or _opener(self._target)
        self._opened: dict[str, Callable[[int], Run]] = {}  # by path
        self._runs: dict[int, Run] = {}
        self._lock = threading.Lock()
        self._fixed = max(self.artifacts)
        self._budget: Budget | None = None
        self._cascade: Cascade | None = None
        calibration = manifest.get("calibration") or {}
        self._temperatures = {each["heads"]: each["temperature"] for each in calibration.get("subnetworks", ())}

    @property
    def heads(self) -> tuple[int, ...]:
        """The head counts that can be chosen, ascending."""
        return tuple(self.artifacts)

    def fixed(self, heads: int | None = None) -> Model:
        """Always runs *heads*, by default the largest, without budget or cascade; returns the model."""
        self._fixed = self._checked(max(self.artifacts) if heads is None else heads)
        self._budget = self._cascade = None
        return self

    def budget(self, ms: float | None, quantile: float = 0.95, references: Mapping[int, float] | None = None) -> Model:
        """Chooses the head count of each call so that a share *quantile* of calls takes at most *ms* milliseconds.

        Args:
            ms: None removes the budget.
            references: milliseconds of a run by head count, as ``measure`` returns them; by default it is called.
        """
        if ms is None:
            self._budget = None
            return self
        Budget({1: 1.0}, ms, quantile)  # wrong numbers are refused before anything is measured
        known = self.measure() if references is None else {self._checked(k): ms for k, ms in references.items()}
        self._budget = Budget(known, ms, quantile)
        return self

    def cascade(self, as_good_as: int | None, heads: Sequence[int] = (), thresholds: Sequence[float] = ()) -> Model:
        """Runs small head counts first, and larger ones only if these are unsure.

        Args:
            as_good_as: the head count whose accuracy the cascade matches; the bundle's calibration must have it. None
                removes the cascade. *heads* and *thresholds* define a cascade of your own.
        """
        if as_good_as is None:
            self._cascade = None
            return self
        if not self.manifest["model"]["config"]["num_classes"]:
            raise RuntimeFailure("This model has no classes, so it cannot be unsure. Pass a head count or a budget.")
        chosen = Cascade(tuple(heads), tuple(thresholds), as_good_as) if heads else self._calibrated(as_good_as)
        for k in chosen.heads:
            self._checked(k)
        self._cascade = chosen
        return self

    def measure(self, calls: int = 3) -> dict[int, float]:
        """Milliseconds of a run by head count: the median of several, after a warm-up."""
        height, width = _sides(self.manifest["model"]["preprocessing"])
        channels = len(self.manifest["model"]["preprocessing"]["mean"])
        image = np.zeros((height, width, channels), np.uint8)
        found = {}
        for k in self.heads:
            _, *counted = (self._timed(image, k) for _ in range(calls + 1))
            found[k] = sorted(counted)[calls // 2]
        return found

    def __call__(self, image: Any, heads: int | None = None) -> Answer:
        """What the model says of *image*, which ``fitted`` takes; with *heads* by that head count, whatever is set."""
        began = time.perf_counter()
        return self._answer(fitted(image, self.manifest["model"]["preprocessing"]), heads, began)

    def answer(self, pixels_HWC: Array, heads: int | None = None) -> Answer:
        """The same for an image that is already fitted: uint8 [H, W, C] as ``fitted`` returns it."""
        return self._answer(pixels_HWC, heads, time.perf_counter())

    def _answer(self, pixels_HWC: Array, heads: int | None, began: float) -> Answer:
        given = self._given(pixels_HWC)
        with self._lock:
            plan = self._plan() if heads is None else (self._checked(heads),)
            runs: list[tuple[int, float]] = []
            for k in plan:
                loading_began = time.perf_counter()
                run = self._run(k)
                run_began = time.perf_counter()
                began += run_began - loading_began  # it says nothing of later calls
                outputs = run(given)[0]
                runs.append((k, (time.perf_counter() - run_began) * 1e3))
                index, confidence = self._surest(outputs, k)
                if k == plan[-1] or (self._cascade is not None and self._cascade.accepts(k, confidence or 0.0)):
                    break
            ms = (time.perf_counter() - began) * 1e3
            if self._budget is not None and heads is None:
                self._budget.saw(runs, ms - sum(took for _, took in runs))
        return Answer(self._label(index), index, confidence, k, ms, tuple(k for k, _ in runs), outputs)

    def top(self, answer: Answer, count: int = 5) -> list[tuple[str, float]]:
        """The *count* best labels of an answer and their probabilities, best first."""
        logits_K = np.asarray(answer.outputs, np.float64) / self._temperatures.get(answer.heads, 1.0)
        shares_K = np.exp(logits_K - logits_K.max())
        shares_K /= shares_K.sum()
        return [(self._label(int(c)), float(shares_K[c])) for c in np.argsort(-shares_K, kind="stable")[:count]]

    def _plan(self) -> tuple[int, ...]:
        cascade = self._cascade.heads if self._cascade is not None else ()
        if self._budget is not None:
            known = {*cascade} <= {*self._budget.references}  # what nobody timed may not fit
            return self._budget.plan(cascade if known else ())
        return cascade or (self._fixed,)

    def _run(self, heads: int) -> Run:
        """What runs *heads*, which is loaded if it is not; with ``memory="one"`` instead of what was."""
        if heads not in self._runs:
            path = self.artifacts[heads]["path"]
            if path not in self._opened:
                if self._memory == "one":
                    self._opened.clear()
                    self._runs.clear()
                self._opened[path] = self._open(self._folder / path, self.artifacts[heads], self._threads)
            self._runs[heads] = _of_numbers(self._opened[path](heads), self.artifacts[heads])
        return self._runs[heads]

    def _timed(self, pixels_HWC: Array, heads: int) -> float:
        given = self._given(pixels_HWC)
        with self._lock:
            run = self._run(heads)
            began = time.perf_counter()
            run(given)
            return (time.perf_counter() - began) * 1e3

    def _given(self, pixels_HWC: Array) -> Array:
        """One batch in the artifacts' input form, which is the same of all."""
        artifact = self.artifacts[max(self.artifacts)]
        image_HWC = pixels_HWC
        if artifact["input"] == "tensor":
            image_HWC = normalised(pixels_HWC, self.manifest["model"]["preprocessing"])
            if self._target != "tflite":
                image_HWC = np.ascontiguousarray(image_HWC.transpose(2, 0, 1))
        return np.repeat(image_HWC[None], _batch(artifact), axis=0)

    def _surest(self, outputs: Array, heads: int) -> tuple[int | None, float | None]:
        if not self.manifest["model"]["config"]["num_classes"]:
            return None, None
        return surest(outputs, self._temperatures.get(heads, 1.0))

    def _label(self, index: int | None) -> str:
        labels = self.manifest["model"]["labels"]
        return "" if index is None else labels[index] if labels else str(index)

    def _checked(self, heads: int) -> int:
        if heads not in self.artifacts:
            raise RuntimeFailure(f"There is no head count {heads} here. Choose from {', '.join(map(str, self.heads))}.")
        return heads

    def _calibrated(self, as_good_as: int) -> Cascade:
        listed = [
            Cascade(tuple(each["heads"]), tuple(each["thresholds"]), each["as_good_as"])
            for each in (self.manifest.get("calibration") or {}).get("cascades", ())
        ]
        fitting = [each for each in listed if each.as_good_as == as_good_as and {*each.heads} <= {*self.artifacts}]
        if fitting:
            return fitting[0]
        if not listed:
            raise RuntimeFailure(
                "This bundle is not calibrated: no thresholds are known. Run `hydra-export calibrate` on it, or pass "
                "heads and thresholds."
            )
        known = ", ".join(str(each.as_good_as) for each in listed)
        raise RuntimeFailure(f"The bundle has no cascade as good as k = {as_good_as}. It has some for {known}.")


def load(
    bundle: str | Path,
    *,
    target: str | None = None,
    graph: str | None = None,
    precision: str | None = None,
    artifact: str | None = None,
    heads: Sequence[int] = (),
    threads: int = 0,
    memory: str = "all",
) -> Model:
    """Loads the model in a bundle, for onnxruntime or else LiteRT. Files are opened when they first run.

    Args:
        bundle: its folder, or its archive, which is unpacked into a temporary folder while the model exists.
        artifact: only this one, by its path in the bundle.
        target, graph, precision: only such artifacts; by default fp32, and one file for all head counts if any.
        heads: the head counts to choose from.
        threads: CPU threads; 0 for the runtime's choice.
        memory: ``all`` keeps every used head count loaded, so a switch costs nothing; ``one`` uses graphs of one head
            count if there are any and keeps only the last one, so a switch loads a file.

    Raises:
        RuntimeFailure: it is not a bundle, a hash differs, it has no such artifact, or no installed runtime runs one.
    """
    if memory not in ("all", "one"):
        raise RuntimeFailure(f"The memory is {memory!r}. Pass 'all' or 'one'.")
    place = Path(bundle)
    temporary = Path(tempfile.mkdtemp(prefix="hydra-runtime-")) if place.is_file() else None
    try:
        folder = place if temporary is None else _unpacked(place, temporary)
        manifest = _manifest(folder, place)
        wanted = {"target": target, "graph": graph, "precision": precision, "path": artifact}
        artifacts = _chosen(manifest, {name: value for name, value in wanted.items() if value}, {*heads}, memory)
        for path in sorted({path for artifact in artifacts.values() for path in artifact["files"]}):
            _check_hash(folder, manifest, path)
        model = Model(folder, manifest, artifacts, threads, memory)
    except BaseException:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    if temporary is not None:
        weakref.finalize(model, shutil.rmtree, temporary, ignore_errors=True)
    return model


def _manifest(folder: Path, named: Path) -> dict[str, Any]:
    """What manifest.json says, whose hash is in SHA256SUMS."""
    try:
        content = (folder / "manifest.json").read_bytes()
        sums = (folder / "SHA256SUMS").read_text(encoding="utf-8")
    except OSError as error:
        raise RuntimeFailure(
            f"{named} is not a bundle: {error}. Pass the folder or archive that an export wrote."
        ) from error
    if f"{hashlib.sha256(content).hexdigest()}  manifest.json" not in sums.splitlines():
        raise RuntimeFailure(f"{named}: manifest.json is not the file that SHA256SUMS lists. Copy or export it again.")
    try:
        manifest: dict[str, Any] = json.loads(content)
    except ValueError as error:
        raise RuntimeFailure(f"{named}: manifest.json is not JSON: {error}. Copy or export it again.") from error
    if (manifest.get("generator"), manifest.get("schema_version")) != ("hydra-export", 1):
        raise RuntimeFailure(f"{named}: manifest.json is of another kind or release. Use the release that wrote it.")
    return manifest


def _check_hash(folder: Path, manifest: Mapping[str, Any], path: str) -> None:
    expected = next((file["sha256"] for file in manifest["files"] if file["path"] == path), None)
    digest = hashlib.sha256()
    try:
        if expected is None or not _is_plain(path):
            raise RuntimeFailure(f"The manifest does not list {path}. Export the bundle again.")
        with (folder / path).open("rb") as file:
            while piece := file.read(2**20):
                digest.update(piece)
    except OSError as error:
        raise RuntimeFailure(f"{path} cannot be read: {error}. Copy or export the bundle again.") from error
    if digest.hexdigest() != expected:
        raise RuntimeFailure(f"{path} is not the file that the manifest lists. Copy or export the bundle again.")


def _is_plain(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and not re.search(r"[\\:\x00]", path) and not path.startswith("/") and ".." not in parts


def _unpacked(file: Path, place: Path) -> Path:
    """The bundle's folder in *place*; entries of an archive are stored, so that it cannot unpack to more than it is."""
    try:
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                if not _is_plain(entry.filename) or entry.compress_type != zipfile.ZIP_STORED:
                    raise RuntimeFailure(
                        f"{file}: {entry.filename[:100]!r} is not as an export writes it. Export it again."
                    )
            archive.extractall(place)
    except (OSError, zipfile.BadZipFile) as error:
        raise RuntimeFailure(
            f"{file} is not a bundle: {error}. Pass the folder or archive that an export wrote."
        ) from error
    roots = [*place.iterdir()]
    if len(roots) != 1:
        raise RuntimeFailure(f"{file} is not a bundle: it has {len(roots)} folders. Export it again.")
    return roots[0]


_PACKAGES = {"onnx": ("onnxruntime",), "tflite": ("ai_edge_litert", "tflite_runtime")}
_GRAPHS = {
    "all": ("universal", "shared", "separate", "fixed"),
    "one": ("separate", "shared", "fixed", "universal"),
}
_PRECISIONS = ("fp32", "fp16", "int8", "w8a16", "int8-static")


def _chosen(
    manifest: Mapping[str, Any], wanted: Mapping[str, str], heads: set[int], memory: str
) -> dict[int, dict[str, Any]]:
    """Of each head count its artifact: all of one kind, the one with most head counts that this machine runs."""
    kinds: dict[tuple[str, ...], dict[int, dict[str, Any]]] = {}
    for artifact in manifest["artifacts"]:
        if all(artifact[name] == value for name, value in wanted.items()) and artifact["target"] in _PACKAGES:
            kind = (artifact["target"], _graph(artifact), artifact["precision"], artifact["input"])
            for k in artifact["heads"]:
                if not heads or k in heads:
                    kinds.setdefault(kind, {})[k] = artifact
    whole = {kind: artifacts for kind, artifacts in kinds.items() if heads <= {*artifacts}}
    if not whole:
        asked = ", ".join([*wanted.values(), *(f"k = {k}" for k in sorted(heads))]) or "ONNX and TFLite"
        held = ", ".join(dict.fromkeys(f"{each['path']} (k = {each['heads']})" for each in manifest["artifacts"]))
        raise RuntimeFailure(f"The bundle has no artifacts for {asked}. It has {held}.")
    runnable = {kind: each for kind, each in whole.items() if _package(kind[0])}
    if not runnable:
        packages = " or ".join(_PACKAGES[target][0].replace("_", "-") for target in dict.fromkeys(k[0] for k in whole))
        raise RuntimeFailure(f"No installed runtime runs these artifacts. Run: pip install {packages}")

    def order(kind: tuple[str, ...]) -> tuple[int, ...]:
        target, graph, precision, _ = kind
        places = (_PRECISIONS.index(precision), _GRAPHS[memory].index(graph), [*_PACKAGES].index(target))
        return (-len(runnable[kind]), *places)

    return runnable[min(runnable, key=order)]


def _graph(artifact: Mapping[str, Any]) -> str:
    of_one = artifact["graph"] == "universal" and len(artifact["heads"]) == len(artifact["inputs"]) == 1
    return "fixed" if of_one else str(artifact["graph"])


def _batch(artifact: Mapping[str, Any]) -> int:
    size = artifact["inputs"][0]["shape"][0]
    return size if isinstance(size, int) and size > 0 else 1


def _package(target: str) -> str:
    return next((name for name in _PACKAGES[target] if importlib.util.find_spec(name) is not None), "")


# Runtimes: each opens an artifact, and gives what runs it at a head count


def _opener(target: str) -> tuple[str, Opens]:
    if target == "onnx":
        return "onnxruntime", _onnxruntime
    package = _package(target)
    newer = ("compiled_model", "environment", "options")  # older releases have the first alone, without threads
    if package == "ai_edge_litert" and all(importlib.util.find_spec(f"{package}.{name}") for name in newer):
        return "litert-compiled", _litert_compiled
    return package.replace("_", "-").replace("ai-edge-", ""), _litert


def _of_numbers(run: Run, artifact: Mapping[str, Any]) -> Run:
    """*run* on numbers, where the graph takes and gives the integers that count them."""
    image, output = artifact["inputs"][0], artifact["outputs"][0]
    if "scale" not in output:
        return run
    ends = np.iinfo(image["dtype"])

    def counted(numbers: Array) -> Array:
        if "scale" not in image:
            return numbers
        integers = np.rint(numbers / np.float32(image["scale"])) + image.get("zero_point", 0)
        return np.clip(integers, ends.min, ends.max).astype(image["dtype"])

    def of_numbers(numbers: Array) -> Array:
        integers = run(counted(numbers)).astype(np.float32)
        return (integers - output.get("zero_point", 0)) * np.float32(output["scale"])

    return of_numbers


def _onnxruntime(path: Path, artifact: Mapping[str, Any], threads: int) -> Callable[[int], Run]:
    ort = importlib.import_module("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 4  # fatal: errors are raised
    options.intra_op_num_threads = threads
    # Between calls the app has the cores: threads that wait busily for the next one would take them.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def at(heads: int) -> Run:
        chosen = {"k": np.array(heads, np.int64)} if "k" in names else {}
        return lambda image: session.run(None, {"image": image, **chosen})[0]

    return at


def _litert_compiled(path: Path, artifact: Mapping[str, Any], threads: int) -> Callable[[int], Run]:
    compiled_model, options = (
        importlib.import_module(f"ai_edge_litert.{name}") for name in ("compiled_model", "options")
    )
    cpu = options.Options(cpu_options=options.CpuOptions(num_threads=threads))
    model = compiled_model.CompiledModel.from_file(str(path), environment=_litert_environment(), options=cpu)

    def at(heads: int) -> Run:
        signature = f"k{heads}" if artifact["graph"] == "universal" else "serving_default"
        index, name = model.get_signature_index(signature), artifact["outputs"][0]["name"]
        (given,), (output,) = model.create_input_buffers(index), model.create_output_buffers(index)
        shape = tuple(model.get_output_tensor_details(signature)[name]["shape"])
        dtype = np.dtype(artifact["outputs"][0]["dtype"])
        through = np.dtype(np.int8) if dtype == np.int16 else dtype  # ai-edge-litert 2.3 knows of int16 the bytes alone

        def run(image: Array) -> Array:
            given.write(image.view(np.int8) if image.dtype == np.int16 else image)
            model.run_by_index(index, [given], [output])
            read: Array = output.read(math.prod(shape) * dtype.itemsize // through.itemsize, through)
            return read.view(dtype).reshape(shape)

        return run

    return at


@functools.cache
def _litert_environment() -> Any:
    """One for all files; it warns of each NPU that it does not find."""
    return importlib.import_module("ai_edge_litert.environment").Environment.create()


def _litert(path: Path, artifact: Mapping[str, Any], threads: int) -> Callable[[int], Run]:
    module = importlib.import_module(f"{_package('tflite')}.interpreter")
    interpreter = module.Interpreter(str(path), num_threads=threads or None)

    def at(heads: int) -> Run:
        signature = f"k{heads}" if artifact["graph"] == "universal" else "serving_default"
        runner, name = interpreter.get_signature_runner(signature), artifact["outputs"][0]["name"]
        return lambda image: runner(image=image)[name]

    return at
