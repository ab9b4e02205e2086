"""The training images of each step: order and augmentation are functions of (seed, epoch, sample)."""

# B batch, H height, W width, C channels, n images of the dataset, U uniform draws
from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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

_NUM_DRAWS = 8
_LOWEST_ASPECT = 0.3
_MOST_UNREADABLE = 50
Place = tuple[int, int]  # epoch and image


class Batches(Protocol):
    """Augmented, normalised batches by step; a batch may reach over the end of an epoch.

    *unreadable* names the images that could not be read so far; the next one took the place of each.
    """

    unreadable: set[str]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """This process's share of *step*, counted from 0: images float32 [B, C, H, W] and labels int64 [B]."""


def batches(config: TrainConfig, images: Images, rank: int = 0, size: int = 1, *, pinned: bool = False) -> Batches:
    """The batches of process *rank* of *size*; together they are those of one process alone.

    *pinned* ones are copied to a GPU while it computes.
    """
    places = ImageOrder(len(images), config.batch_size, config.seed, rank, size)
    if isinstance(images, Split) and config.augmentation.crop is None:
        return ArrayBatches(images.fitted(config.preprocessing), config.augmentation, config.preprocessing, places)
    return ReadBatches(images, config.augmentation, config.preprocessing, places, config.workers, pinned)


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

    def __init__(self, split: Split, how: Augmentation, preprocessing: Preprocessing, places: ImageOrder) -> None:
        self._split, self._how, self._preprocessing, self._places = split, how, preprocessing, places
        self._draws: dict[int, NDArray[np.float32]] = {}
        self.unreadable: set[str] = set()

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """See Batches."""
        places = self._places.of(step)
        chosen_B = np.asarray([image for _, image in places])
        draws_BU = np.stack([self._draws_of(epoch)[image] for epoch, image in places])
        pixels_BHWC = augmented(self._split.pixels[chosen_B], draws_BU, self._how, self._preprocessing.mean)
        images_BCHW = torch.from_numpy(self._preprocessing.normalise(pixels_BHWC))
        return images_BCHW, torch.from_numpy(self._split.labels[chosen_B])

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
        preprocessing: Preprocessing,
        places: ImageOrder,
        workers: int,
        pinned: bool = False,
    ) -> None:
        self._samples = _Samples(images, how, preprocessing, places.seed)
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
                collate_fn=_collated,
                pin_memory=self._pinned,
                generator=torch.Generator(),  # else starting would draw from the global one
            )
            self._loaded = iter(loader)
        images_BCHW, labels_B, unreadable = next(self._loaded)
        self.unreadable.update(unreadable)
        self._next_step = step + 1
        return images_BCHW, labels_B


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


class _Samples(Dataset[tuple[Tensor, int, list[str]]]):
    """Images by place, augmented by draws of (seed, epoch, image)."""

    def __init__(self, images: Images, how: Augmentation, preprocessing: Preprocessing, seed: int) -> None:
        self._images, self._how, self._preprocessing, self._seed = images, how, preprocessing, seed
        self._transform = None if how.crop is None else _timm_transform(how, preprocessing)

    def __getitem__(self, place: Place) -> tuple[Tensor, int, list[str]]:
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
            raise BadData(f"No image can be read; the last of many was {unreadable[-1]}.", "Repair the dataset.")
        if self._transform is not None:
            with _seeded(self._seed, epoch, image):
                return self._transform(picture), label, unreadable
        draws_1U = np.random.default_rng((self._seed, epoch, 1, image)).random((1, _NUM_DRAWS), np.float32)
        pixels_1HWC = augmented(self._preprocessing.fit(picture)[None], draws_1U, self._how, self._preprocessing.mean)
        return torch.from_numpy(self._preprocessing.normalise(pixels_1HWC)[0]), label, unreadable


def _collated(samples: Sequence[tuple[Tensor, int, list[str]]]) -> tuple[Tensor, Tensor, list[str]]:
    images, labels, unreadable = zip(*samples, strict=True)
    return torch.stack(images), torch.tensor(labels), [name for names in unreadable for name in names]


def _timm_transform(how: Augmentation, preprocessing: Preprocessing) -> Any:
    """timm's transforms for training; a grey model sees them in grey."""
    first, second, last = create_transform(
        preprocessing.image_size,
        is_training=True,
        scale=how.crop,
        hflip=how.flip,
        color_jitter=how.color_jitter,
        auto_augment=how.auto_augment or None,
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean,
        std=preprocessing.std,
        re_prob=how.erase,
        re_mode=how.erase_mode,
        separate=True,
    )
    colours = [transforms.Grayscale(1)] if preprocessing.channels == 1 else []
    return transforms.Compose([transforms.Lambda(_as_rgb), first, second, *colours, last])


def _as_rgb(picture: Any) -> Any:
    return picture.convert("RGB")


@contextmanager
def _seeded(*numbers: int) -> Iterator[None]:
    """The global generators, from which timm's transforms draw, started from *numbers* and put back afterwards."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    one, two, three = (int(seed) for seed in np.random.SeedSequence(numbers).generate_state(3))
    random.seed(one)
    np.random.seed(two)  # noqa: NPY002
    torch.default_generator.manual_seed(three)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


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
