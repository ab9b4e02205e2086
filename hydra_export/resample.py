"""The centre of a resized image without the rest of it: Pillow's own pixels, whatever shape the image has."""

# C channels, L pixels along the resized axis, M along the other one, N of the crop, T weights of each
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

_BITS = 22  # of a weight's fraction: Pillow computes in integers (its Resample.c)
# Each pass rounds to 8 bits, so that their order shows: https://github.com/python-pillow/Pillow/pull/9549
_TALL_IMAGES_DOWN_FIRST = int(PIL.__version__.split(".")[0]) >= 13


@dataclass(frozen=True)
class _Taps:
    """Of each pixel of the crop: the first one that it is made of, int64 [N], and the weights of all, int32 [N, T]."""

    first: NDArray[np.int64]
    weights: NDArray[np.int32]

    def reach(self, num_pixels: int) -> tuple[int, int]:
        """From the first pixel that is used to behind the last one, of *num_pixels*."""
        return int(self.first[0]), min(int(self.first[-1]) + self.weights.shape[1], num_pixels)


def resized_crop(
    image: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int], interpolation: str
) -> NDArray[np.uint8]:
    """What ``image.resize(size, interpolation).crop(box)`` holds, uint8 [H, W, C], at the cost of the crop alone.

    Args:
        image: of mode L or RGB.
        size: width and height.
        box: left, top, right and bottom, inside of *size*.
        interpolation: nearest, bilinear or bicubic.
    """
    across, down = (_taps(*sides, interpolation) for sides in zip(image.size, size, box[:2], box[2:], strict=True))
    (left, right), (top, bottom) = across.reach(image.width), down.reach(image.height)
    pixels_HWC = np.asarray(image.crop((left, top, right, bottom))).reshape(bottom - top, right - left, -1)
    if _TALL_IMAGES_DOWN_FIRST and image.height > 2 * image.width and size[1] < image.height:
        return _resampled(_resampled(pixels_HWC, down, top).swapaxes(0, 1), across, left).swapaxes(0, 1)
    return _resampled(_resampled(pixels_HWC.swapaxes(0, 1), across, left).swapaxes(0, 1), down, top)


def _taps(old: int, new: int, start: int, stop: int, interpolation: str) -> _Taps:
    """For pixels *start* to *stop* where *old* pixels become *new* ones; sums in Pillow's order, to round alike."""
    scale = old / new
    centre_N = (np.arange(start, stop) + 0.5) * scale
    if interpolation == "nearest":
        return _Taps(centre_N.astype(np.int64), np.full((len(centre_N), 1), 1 << _BITS, np.int32))
    stretch, radius = max(scale, 1.0), {"bilinear": 1.0, "bicubic": 2.0}[interpolation]
    first_N = np.maximum((centre_N - radius * stretch + 0.5).astype(np.int64), 0)
    last_N = np.minimum((centre_N + radius * stretch + 0.5).astype(np.int64), old)
    pixel_NT = first_N[:, None] + np.arange((last_N - first_N).max())
    distance_NT = np.abs((pixel_NT - centre_N[:, None] + 0.5) * (1 / stretch))
    weight_NT = np.where(pixel_NT < last_N[:, None], _kernel(distance_NT, interpolation), 0.0)
    weight_NT /= weight_NT.cumsum(axis=1)[:, -1:]
    return _Taps(first_N, (weight_NT * (1 << _BITS) + np.copysign(0.5, weight_NT)).astype(np.int32))


def _kernel(distance: NDArray[np.float64], interpolation: str) -> NDArray[np.float64]:
    x = distance
    if interpolation == "bilinear":
        return np.maximum(1.0 - x, 0.0)
    near, far = (1.5 * x - 2.5) * x * x + 1.0, (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5  # a = -0.5
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _resampled(pixels_LMC: NDArray[np.uint8], taps: _Taps, start: int) -> NDArray[np.uint8]:
    """uint8 [N, M, C] of pixels of which *start* lie before the first."""
    sum_NMC = np.full((len(taps.first), *pixels_LMC.shape[1:]), 1 << (_BITS - 1), np.int32)
    for t, weight_N in enumerate(taps.weights.T):
        pixel_N = np.minimum(taps.first + t - start, len(pixels_LMC) - 1)  # beyond the last the weights are 0
        sum_NMC += pixels_LMC[pixel_N] * weight_N[:, None, None]
    pixels_NMC: NDArray[np.uint8] = np.clip(sum_NMC >> _BITS, 0, 255).astype(np.uint8)
    return pixels_NMC
