"""Order and augmentation of training images."""

from __future__ import annotations

import numpy as np
import pytest

from hydra_export.preprocess import Preprocessing
from hydra_export.train.batches import Batches, augmented
from hydra_export.train.config import Augmentation
from hydra_export.train.data import Split

MEAN = (0.5,)
GREY_8 = Preprocessing(image_size=8, mean=MEAN, std=(0.25,), crop=1.0)
EVERYTHING = Augmentation(flip=0.5, shift=2, erase=0.5)


def split(n: int = 10) -> Split:
    """Image i has label i and no two equal pixels."""
    pixels = (np.arange(64, dtype=np.uint8) + 100).reshape(1, 8, 8, 1).repeat(n, 0)
    return Split(pixels, np.arange(n))


def draws(n: int, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(seed).random((n, 8), np.float32)


def test_an_epoch_has_every_image_once_though_batches_reach_over_its_end() -> None:
    batches = Batches(split(10), Augmentation(), GREY_8, batch_size=4, seed=0)
    labels = np.concatenate([batches.batch(step)[1].numpy() for step in range(5)])
    assert sorted(labels[:10]) == sorted(labels[10:]) == list(range(10))
    assert labels[:10].tolist() != labels[10:].tolist()


def test_a_batch_depends_on_seed_and_step_alone_not_on_those_before() -> None:
    one, other = (Batches(split(), EVERYTHING, GREY_8, batch_size=4, seed=7) for _ in range(2))
    for step in range(9):
        before = one.batch(step)
    np.testing.assert_array_equal(before[0], other.batch(8)[0])
    np.testing.assert_array_equal(before[1], other.batch(8)[1])
    reseeded = Batches(split(), EVERYTHING, GREY_8, batch_size=4, seed=8)
    assert not np.array_equal(before[0], reseeded.batch(8)[0])


def test_augmentation_of_an_image_does_not_depend_on_the_batch_around_it() -> None:
    by_one = Batches(split(), EVERYTHING, GREY_8, batch_size=1, seed=3)
    by_five = Batches(split(), EVERYTHING, GREY_8, batch_size=5, seed=3)
    np.testing.assert_array_equal(
        np.concatenate([by_one.batch(step)[0] for step in range(10)]),
        np.concatenate([by_five.batch(step)[0] for step in range(2)]),
    )


def test_without_augmentation_images_are_only_normalised() -> None:
    images, labels = Batches(split(), Augmentation(flip=0), GREY_8, batch_size=10, seed=0).batch(0)
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
