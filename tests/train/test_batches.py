"""Order and augmentation of training images."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from hydra_export.architecture import HydraConfig
from hydra_export.data.datasets import Split
from hydra_export.evaluation.accuracy import accuracy
from hydra_export.preprocess import Preprocessing
from hydra_export.train import recipes
from hydra_export.train.batches import ArrayBatches, Batches, ImageOrder, ReadBatches, augmented
from hydra_export.train.config import Augmentation
from hydra_export.train.finishing import Finish
from tests.conftest import perturbed

MEAN = (0.5,)
GREY_8 = Preprocessing(image_size=8, mean=MEAN, std=(0.25,), crop=1.0)
EVERYTHING = Augmentation(flip=0.5, shift=2, erase=0.5)


def split(n: int = 10) -> Split:
    """Image i has label i and no two equal pixels."""
    pixels = (np.arange(64, dtype=np.uint8) + 100).reshape(1, 8, 8, 1).repeat(n, 0)
    return Split(pixels, np.arange(n))


def finish(how: Augmentation, seed: int, image_size: int | tuple[int, int] = 8) -> Finish:
    preprocessing = msgspec.structs.replace(GREY_8, image_size=image_size)
    base = recipes.digits()
    return Finish.of(msgspec.structs.replace(base, augmentation=how, preprocessing=preprocessing, seed=seed))


def in_memory(images: Split, how: Augmentation, batch_size: int, seed: int) -> ArrayBatches:
    return ArrayBatches(images, how, finish(how, seed), ImageOrder(len(images), batch_size, seed))


def read(images: Split, how: Augmentation, batch_size: int, seed: int, workers: int = 0) -> ReadBatches:
    return ReadBatches(images, how, finish(how, seed), ImageOrder(len(images), batch_size, seed), workers)


def draws(n: int, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(seed).random((n, 8), np.float32)


def test_an_epoch_has_every_image_once_though_batches_reach_over_its_end() -> None:
    batches = in_memory(split(10), Augmentation(), batch_size=4, seed=0)
    labels = np.concatenate([batches.batch(step)[1].numpy() for step in range(5)])
    assert sorted(labels[:10]) == sorted(labels[10:]) == list(range(10))
    assert labels[:10].tolist() != labels[10:].tolist()


def test_a_batch_depends_on_seed_and_step_alone_not_on_those_before() -> None:
    one, other = (in_memory(split(), EVERYTHING, batch_size=4, seed=7) for _ in range(2))
    for step in range(9):
        before = one.batch(step)
    np.testing.assert_array_equal(before[0], other.batch(8)[0])
    np.testing.assert_array_equal(before[1], other.batch(8)[1])
    reseeded = in_memory(split(), EVERYTHING, batch_size=4, seed=8)
    assert not np.array_equal(before[0], reseeded.batch(8)[0])


def test_augmentation_of_an_image_does_not_depend_on_the_batch_around_it() -> None:
    by_one = in_memory(split(), EVERYTHING, batch_size=1, seed=3)
    by_five = in_memory(split(), EVERYTHING, batch_size=5, seed=3)
    np.testing.assert_array_equal(
        np.concatenate([by_one.batch(step)[0] for step in range(10)]),
        np.concatenate([by_five.batch(step)[0] for step in range(2)]),
    )


def test_without_augmentation_images_are_only_normalised() -> None:
    images, labels = in_memory(split(), Augmentation(flip=0), batch_size=10, seed=0).batch(0)
    np.testing.assert_array_equal(images.numpy(), GREY_8.normalise(split().pixels[labels.numpy()]))


def test_flips_are_drawn_per_image() -> None:
    pixels = split(200).pixels
    flipped = augmented(pixels, draws(200), Augmentation(flip=0.5), MEAN)
    is_flipped = (flipped == pixels[:, :, ::-1]).all((1, 2, 3))
    is_kept = (flipped == pixels).all((1, 2, 3))
    assert (is_flipped ^ is_kept).all()
    assert 70 < is_flipped.sum() < 130


def test_shifts_move_each_image_by_whole_pixels_and_bring_in_black() -> None:
    pixels = split(300).pixels
    moved = augmented(pixels, draws(300), Augmentation(flip=0, shift=1), MEAN)
    seen = set()
    padded = np.pad(pixels[0], ((1, 1), (1, 1), (0, 0)))
    windows = {(1 - y, 1 - x): padded[y : y + 8, x : x + 8] for y in range(3) for x in range(3)}
    for image in moved:
        matches = [shift for shift, window in windows.items() if np.array_equal(image, window)]
        assert len(matches) == 1
        seen.add(matches[0])
    assert seen == set(windows)


def test_erasing_fills_one_rectangle_of_the_asked_area_with_the_mean() -> None:
    pixels = np.zeros((400, 28, 28, 1), np.uint8)
    erased = augmented(pixels, draws(400), Augmentation(flip=0, erase=0.25, erase_area=(0.1, 0.2)), MEAN)[..., 0]
    touched = erased.any((1, 2))
    assert 60 < touched.sum() < 140
    assert set(np.unique(erased)) == {0, 128}
    for image in erased[touched]:
        rows, columns = image.any(1), image.any(0)
        assert (image > 0).sum() == rows.sum() * columns.sum()
        assert 0.07 < (image > 0).mean() < 0.23


@pytest.mark.parametrize("how", [Augmentation(), EVERYTHING])
def test_augmentation_leaves_the_dataset_itself_alone(how: Augmentation) -> None:
    images = split(20).pixels
    before = images.copy()
    augmented(images, draws(20), how, MEAN)
    np.testing.assert_array_equal(images, before)


TIMM = Augmentation(
    crop=(0.3, 1.0), color_jitter=0.3, auto_augment="rand-m9-mstd0.5-inc1", erase=0.5, erase_mode="pixel"
)


@pytest.mark.parametrize("how", [EVERYTHING, TIMM])
def test_images_that_are_read_are_augmented_by_seed_epoch_and_sample_alone(how: Augmentation) -> None:
    by_one, by_five = read(split(), how, batch_size=1, seed=3), read(split(), how, batch_size=5, seed=3)
    one_by_one = [by_one.batch(step)[0] for step in range(20)]
    np.testing.assert_array_equal(np.concatenate(one_by_one), np.concatenate([by_five.batch(s)[0] for s in range(4)]))
    assert not np.array_equal(np.sort(one_by_one[:10], 0), np.sort(one_by_one[10:], 0))  # another epoch, other draws
    np.testing.assert_array_equal(by_one.batch(7)[0], one_by_one[7])  # a jump back starts reading anew


@pytest.mark.usefixtures("two_cores")
def test_workers_and_processes_change_nothing() -> None:
    alone = read(split(), TIMM, batch_size=4, seed=1)
    with_workers = read(split(), TIMM, batch_size=4, seed=1, workers=2)
    halves = [ReadBatches(split(), TIMM, finish(TIMM, 1), ImageOrder(10, 4, 1, rank, 2), 0) for rank in range(2)]
    for step in range(4):
        images, labels = alone.batch(step)
        np.testing.assert_array_equal(images, with_workers.batch(step)[0])
        np.testing.assert_array_equal(images, np.concatenate([half.batch(step)[0] for half in halves]))
        np.testing.assert_array_equal(labels, np.concatenate([half.batch(step)[1] for half in halves]))


@dataclass(frozen=True)
class Readers:
    """Images whose label is the process that reads them."""

    def __len__(self) -> int:
        return 10

    def read(self, index: int) -> tuple[Image.Image, int]:
        return Image.new("L", (8, 8)), os.getpid()

    def name(self, index: int) -> str:
        return str(index)


def readers(batches: Batches) -> set[int]:
    return {pid for step in range(6) for pid in batches.batch(step)[1].tolist()}


@pytest.mark.usefixtures("two_cores")
def test_as_many_processes_read_as_are_asked_for() -> None:
    for workers, num_processes in ((0, 1), (1, 1), (2, 2)):
        found = readers(ReadBatches(Readers(), EVERYTHING, finish(EVERYTHING, 1), ImageOrder(10, 4, 1), workers))
        assert len(found) == num_processes
        assert (os.getpid() in found) == (workers == 0)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not bind processes to cores")
def test_no_more_processes_read_than_there_are_usable_cores() -> None:
    config = HydraConfig(heads=1, head_dim=8, depth=1, patch_size=4, image_size=8, channels=1, num_classes=2)
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(usable)})
    try:
        found = readers(ReadBatches(Readers(), EVERYTHING, finish(EVERYTHING, 1), ImageOrder(10, 4, 1), 8))
        measured = accuracy(perturbed(config).eval(), GREY_8, Readers(), [1], workers=8)
    finally:
        os.sched_setaffinity(0, usable)
    assert len(found - {os.getpid()}) == 1
    assert measured[1].num_images == 10


@pytest.mark.parametrize("how", [EVERYTHING, Augmentation(shift=1, flip=0.5)])
def test_images_may_be_wider_than_high(how: Augmentation) -> None:
    wide = finish(how, 1, image_size=(8, 12))
    images_BCHW = ReadBatches(Readers(), how, wide, ImageOrder(10, 4, 1), 0).batch(0)[0]
    assert images_BCHW.shape == (4, 1, 8, 12)


def test_reading_leaves_the_global_generators_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    read(split(), TIMM, batch_size=4, seed=1).batch(0)
    np.testing.assert_array_equal(torch.rand(3), expected)


MIXED = Augmentation(crop=(1.0, 1.0), flip=0.0, erase_mode="pixel", mixup=0.8, cutmix=1.0)


def noise(n: int = 10) -> Split:
    return Split(np.random.default_rng(0).integers(0, 256, (n, 8, 8, 1)).astype(np.uint8), np.arange(n))


def test_erasing_comes_after_mixing_as_in_timms_loader() -> None:
    """A pixel that is erased is noise, in no part another image's: every other pixel is what mixing alone gives."""
    erased = read(noise(), msgspec.structs.replace(MIXED, erase=1.0), batch_size=10, seed=2)
    mixed, places = read(noise(), MIXED, batch_size=10, seed=2), set()
    for step in range(4):
        (noisy_BCHW, labels_BK), (plain_BCHW, same_BK) = erased.batch(step), mixed.batch(step)
        np.testing.assert_array_equal(labels_BK, same_BK)
        for changed_HW in (noisy_BCHW != plain_BCHW)[:, 0].numpy():  # one rectangle each; mixed, it would be two
            assert 0 < changed_HW.sum() == changed_HW.any(0).sum() * changed_HW.any(1).sum() < 64
            places.add(changed_HW.tobytes())
    assert len(places) > 20  # of 40 images, each with its own draws


def test_images_are_mixed_as_bytes_with_their_labels() -> None:
    """By the shares of the labels, one and the batch read backwards give what was mixed, rounded to whole bytes."""
    plain = msgspec.structs.replace(MIXED, mixup=0.0, cutmix=0.0)
    alone_BCHW, labels_B = read(noise(), plain, batch_size=10, seed=2).batch(0)
    mixed_BCHW, labels_BK = read(noise(), msgspec.structs.replace(MIXED, cutmix=0.0), batch_size=10, seed=2).batch(0)
    share = labels_BK[0, labels_B[0]]
    assert 0.01 < share < 0.99
    np.testing.assert_allclose(labels_BK.sum(1), 1, rtol=1e-6)
    alone_BCHW, mixed_BCHW = ((images_BCHW * 0.25 + 0.5) * 255 for images_BCHW in (alone_BCHW, mixed_BCHW))
    expected_BCHW = alone_BCHW * share + alone_BCHW.flip(0) * (1 - share)
    np.testing.assert_allclose(mixed_BCHW, expected_BCHW, atol=0.501)
    np.testing.assert_allclose(mixed_BCHW, mixed_BCHW.round(), atol=1e-3)
    assert (mixed_BCHW - alone_BCHW).abs().max() > 10


@pytest.mark.parametrize("read_as", [read, in_memory])
def test_mixing_is_a_function_of_seed_and_place_alone(read_as: Callable[..., Batches]) -> None:
    how = Augmentation(mixup=0.8)
    one, other, reseeded = (read_as(split(2), how, batch_size=2, seed=seed) for seed in (3, 3, 4))
    for step in range(8):
        before = one.batch(step)
    for part, again in zip(before, other.batch(7), strict=True):
        np.testing.assert_array_equal(part, again)
    shares, others = ({float(b.batch(step)[1].max()) for step in range(8)} for b in (other, reseeded))
    assert len(shares) > 4  # one per step
    assert not shares & others
