"""The training images of each step: order and augmentation are functions of (seed, epoch, sample)."""

# B batch, H height, W width, C channels, n images of the dataset
from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydra_export.preprocess import Preprocessing
from hydra_export.train.config import Augmentation
from hydra_export.train.data import Split

_NUM_DRAWS = 8
_LOWEST_ASPECT = 0.3


class Batches:
    """Augmented, normalised batches by step; a batch may reach over the end of an epoch."""

    def __init__(
        self, split: Split, augmentation: Augmentation, preprocessing: Preprocessing, batch_size: int, seed: int
    ) -> None:
        self._split, self._augmentation, self._preprocessing = split, augmentation, preprocessing
        self._batch_size, self._seed = batch_size, seed
        self._epochs: dict[int, tuple[NDArray[np.int64], NDArray[np.float32]]] = {}

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Images float32 [B, C, H, W] and labels int64 [B] of *step*, counted from 0."""
        places = np.arange(step * self._batch_size, (step + 1) * self._batch_size)
        epochs, positions = np.divmod(places, len(self._split))
        chosen, draws = [], []
        for epoch in np.unique(epochs):
            order_n, draws_nU = self._epoch(int(epoch))
            samples = order_n[positions[epochs == epoch]]
            chosen.append(samples)
            draws.append(draws_nU[samples])
        chosen_B = np.concatenate(chosen)
        pixels_BHWC = augmented(
            self._split.pixels[chosen_B], np.concatenate(draws), self._augmentation, self._preprocessing.mean
        )
        images_BCHW = torch.from_numpy(self._preprocessing.normalise(pixels_BHWC))
        return images_BCHW, torch.from_numpy(self._split.labels[chosen_B])

    def _epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The order of the images, and for each image the uniform draws that its augmentation uses."""
        if epoch not in self._epochs:
            random = np.random.default_rng((self._seed, epoch))
            n = len(self._split)
            self._epochs = {e: kept for e, kept in self._epochs.items() if e == epoch - 1}
            self._epochs[epoch] = random.permutation(n), random.random((n, _NUM_DRAWS), np.float32)
        return self._epochs[epoch]


def augmented(
    pixels_BHWC: NDArray[np.uint8], draws_BU: NDArray[np.float32], how: Augmentation, mean: tuple[float, ...]
) -> NDArray[np.uint8]:
    """Each image flipped, shifted and erased by its own eight draws in [0, 1)."""
    H, W = pixels_BHWC.shape[1:3]
    draws = draws_BU.T
    moved_BHWC = _moved(pixels_BHWC, draws[0] < how.flip, _whole(draws[1], how.shift), _whole(draws[2], how.shift))
    if how.erase:
        erased_BHW = _rectangles(draws[4:], how.erase_area, H, W) & (draws[3] < how.erase)[:, None, None]
        moved_BHWC[erased_BHW] = np.round(np.asarray(mean) * 255).astype(np.uint8)
    return moved_BHWC


def _whole(draw_B: NDArray[np.float32], largest: int) -> NDArray[np.int64]:
    """Draws in [0, 1) as whole numbers in -largest..largest."""
    return np.floor(draw_B * (2 * largest + 1)).astype(np.int64) - largest


def _moved(
    pixels_BHWC: NDArray[np.uint8], flip_B: NDArray[np.bool_], down_B: NDArray[np.int64], right_B: NDArray[np.int64]
) -> NDArray[np.uint8]:
    B, H, W, _ = pixels_BHWC.shape
    border = int(max(np.abs(down_B).max(), np.abs(right_B).max()))
    padded = np.pad(pixels_BHWC, ((0, 0), (border, border), (border, border), (0, 0)))
    columns_BW = np.where(flip_B[:, None], np.arange(W)[::-1], np.arange(W)) - right_B[:, None] + border
    rows_BH = np.arange(H) - down_B[:, None] + border
    moved: NDArray[np.uint8] = padded[np.arange(B)[:, None, None], rows_BH[:, :, None], columns_BW[:, None, :]]
    return moved


def _rectangles(draws: NDArray[np.float32], area: tuple[float, float], H: int, W: int) -> NDArray[np.bool_]:
    """One rectangle per image, as true pixels [B, H, W]: area and log aspect uniform, inside the image."""
    size, aspect, top, left = draws
    pixels_B = (area[0] + size * (area[1] - area[0])) * H * W
    ratio_B = np.exp((2 * aspect - 1) * math.log(1 / _LOWEST_ASPECT))
    height_B = np.clip(np.round(np.sqrt(pixels_B * ratio_B)), 1, H)
    width_B = np.clip(np.round(np.sqrt(pixels_B / ratio_B)), 1, W)
    top_B, left_B = np.floor(top * (H - height_B + 1)), np.floor(left * (W - width_B + 1))
    rows, columns = np.arange(H), np.arange(W)
    inside_BH = (rows >= top_B[:, None]) & (rows < (top_B + height_B)[:, None])
    inside_BW = (columns >= left_B[:, None]) & (columns < (left_B + width_B)[:, None])
    inside_BHW: NDArray[np.bool_] = inside_BH[:, :, None] & inside_BW[:, None, :]
    return inside_BHW
