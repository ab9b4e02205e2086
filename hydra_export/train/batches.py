"""The training images of each step: order and augmentation are functions of (seed, epoch, sample)."""

# B batch, H height, W width, C channels, n images of the dataset, U uniform draws
from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from hydra_export.data.datasets import Images, Split, num_readers
from hydra_export.errors import BadData
from hydra_export.preprocess import Preprocessing
from hydra_export.train.config import Augmentation, TrainConfig
from hydra_export.train.finishing import Finish, Place, seeded

_NUM_DRAWS = 8
_LOWEST_ASPECT = 0.3
_MOST_UNREADABLE = 50


class Batches(Protocol):
    """Augmented, normalised batches by step; a batch may reach over the end of an epoch.

    *unreadable* names the images that could not be read so far; the next one took the place of each.
    """

    unreadable: set[str]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """This process's share of *step*, counted from 0: images float32 [B, C, H, W] and labels int64 [B].

        Where they are mixed, the labels are shares of each class, float32 [B, K].
        """


def batches(config: TrainConfig, images: Images, rank: int = 0, size: int = 1, *, pinned: bool = False) -> Batches:
    """The batches of process *rank* of *size*; together they are those of one process alone.

    *pinned* ones are copied to a GPU while it computes.
    """
    places = ImageOrder(len(images), config.batch_size, config.seed, rank, size)
    how, finish = config.augmentation, Finish.of(config)
    if isinstance(images, Split) and how.crop is None:
        return ArrayBatches(images.fitted(config.preprocessing), how, finish, places)
    return ReadBatches(images, how, finish, places, config.workers, pinned)


class ImageOrder:
    """Which images a step takes: each epoch has an order of its own, and draws for each image."""

    def __init__(self, num_images: int, batch_size: int, seed: int, rank: int = 0, size: int = 1) -> None:
        self._n, self._batch_size, self.seed = num_images, batch_size, seed
        share = batch_size // size
        self._mine = slice(rank * share, (rank + 1) * share)
        self._orders: dict[int, NDArray[np.int64]] = {}

    def of(self, step: int) -> list[Place]:
        """This process's share of *step*."""
        places = np.arange(step * self._batch_size, (step + 1) * self._batch_size)[self._mine]
        return [
            (int(epoch), int(self._order(int(epoch))[i])) for epoch, i in zip(*divmod(places, self._n), strict=True)
        ]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._orders:
            self._orders = {e: kept for e, kept in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = np.random.default_rng((self.seed, epoch)).permutation(self._n)
        return self._orders[epoch]


class ArrayBatches:
    """From images in memory, augmented all at once."""

    def __init__(self, split: Split, how: Augmentation, finish: Finish, places: ImageOrder) -> None:
        self._split, self._how, self._finish, self._places = split, how, finish, places
        self._draws: dict[int, NDArray[np.float32]] = {}
        self.unreadable: set[str] = set()

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """See Batches."""
        places = self._places.of(step)
        chosen_B = np.asarray([image for _, image in places])
        draws_BU = np.stack([self._draws_of(epoch)[image] for epoch, image in places])
        mean = self._finish.preprocessing.mean
        pixels_BHWC = augmented(self._split.pixels[chosen_B], draws_BU, self._how, mean)
        return self._finish(pixels_BHWC, self._split.labels[chosen_B], places)

    def _draws_of(self, epoch: int) -> NDArray[np.float32]:
        if epoch not in self._draws:
            self._draws = {e: kept for e, kept in self._draws.items() if e == epoch - 1}
            self._draws[epoch] = np.random.default_rng((self._places.seed, epoch, 1)).random(
                (len(self._split), _NUM_DRAWS), np.float32
            )
        return self._draws[epoch]


class ReadBatches:
    """From images that are read as they are needed, in other processes where there are workers."""

    def __init__(
        self,
        images: Images,
        how: Augmentation,
        finish: Finish,
        places: ImageOrder,
        workers: int,
        pinned: bool = False,
    ) -> None:
        self._samples, self._finish = _Samples(images, how, finish.preprocessing, places.seed), finish
        self._places, self._workers, self._pinned = places, workers, pinned
        self._loaded: Iterator[tuple[Tensor, Tensor, list[str]]] = iter(())
        self._next_step = -1
        self.unreadable: set[str] = set()

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """See Batches. Reading ahead goes on from the step before, and starts anew anywhere else."""
        if step != self._next_step:
            loader = DataLoader(
                self._samples,
                batch_sampler=_FromStep(self._places, step),
                num_workers=num_readers(self._workers),
                collate_fn=partial(_collated, self._finish),
                pin_memory=self._pinned,
                generator=torch.Generator(),  # else starting would draw from the global one
            )
            self._loaded = iter(loader)
        images_BCHW, labels_B, unreadable = next(self._loaded)
        self.unreadable.update(unreadable)
        self._next_step = step + 1
        return images_BCHW, labels_B


# Bytes [H, W, C], label, place, and the images that could not be read
_Sample = tuple[NDArray[np.uint8], int, Place, list[str]]


@dataclass(frozen=True)
class _FromStep:
    """The places of all steps from *step* on, without end."""

    places: ImageOrder
    step: int

    def __iter__(self) -> Iterator[list[Place]]:
        step = self.step
        while True:
            yield self.places.of(step)
            step += 1


class _Samples(Dataset[_Sample]):
    """Images by place, augmented by draws of (seed, epoch, image)."""

    def __init__(self, images: Images, how: Augmentation, preprocessing: Preprocessing, seed: int) -> None:
        self._images, self._how, self._preprocessing, self._seed = images, how, preprocessing, seed
        self._transform = None if how.crop is None else _timm_transform(how, preprocessing)

    def __getitem__(self, place: Place) -> _Sample:
        epoch, image = place
        unreadable: list[str] = []
        for _ in range(_MOST_UNREADABLE):
            try:
                picture, label = self._images.read(image)
                break
            except BadData:
                unreadable.append(self._images.name(image))
                image = (image + 1) % len(self._images)
        else:
            raise BadData(f"No image can be read; the last unreadable one is {unreadable[-1]}.", "Repair the dataset.")
        if self._transform is not None:
            with seeded(self._seed, epoch, image):
                pixels_CHW = self._transform(picture)
            return pixels_CHW.permute(1, 2, 0).numpy(), label, place, unreadable
        draws_1U = np.random.default_rng((self._seed, epoch, 1, image)).random((1, _NUM_DRAWS), np.float32)
        pixels_1HWC = augmented(self._preprocessing.fit(picture)[None], draws_1U, self._how, self._preprocessing.mean)
        return pixels_1HWC[0], label, place, unreadable


def _collated(finish: Finish, samples: Sequence[_Sample]) -> tuple[Tensor, Tensor, list[str]]:
    pixels, labels, places, unreadable = zip(*samples, strict=True)
    images_BCHW, labels_B = finish(np.stack(pixels), np.asarray(labels, np.int64), places)
    return images_BCHW, labels_B, [name for names in unreadable for name in names]


def _timm_transform(how: Augmentation, preprocessing: Preprocessing) -> Any:
    """timm's transforms for training, to bytes [C, H, W]; a grey model sees them in grey."""
    first, second, last = create_transform(
        preprocessing.image_size,
        is_training=True,
        scale=how.crop,
        hflip=how.flip,
        color_jitter=how.color_jitter,
        auto_augment=how.auto_augment or None,
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean,
        normalize=False,
        separate=True,
    )
    colours = [transforms.Grayscale(1)] if preprocessing.channels == 1 else []
    return transforms.Compose([transforms.Lambda(_as_rgb), first, second, *colours, last])


def _as_rgb(picture: Any) -> Any:
    return picture.convert("RGB")


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
