"""Packaged images and folders of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hydra_export.data import FASHION_MNIST_LABELS, folder_images, packaged_images
from hydra_export.data.classes import classes_of
from hydra_export.errors import BadData
from hydra_export.preprocess import Preprocessing, imagenet

GREY_28 = Preprocessing(image_size=28, mean=(0.286,), std=(0.353,), crop=1.0)
STORED = Path(__file__).parents[2] / "hydra_export" / "data" / "fashion-mnist-1000.npz"


def picture(path: Path, value: int = 128, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def test_packaged_images_of_28_grey_pixels_are_the_stored_ones_bit_for_bit() -> None:
    images = packaged_images(GREY_28)
    with np.load(STORED) as stored:
        for label in range(10):
            assert images.labels is not None
            np.testing.assert_array_equal(
                images.pixels[images.labels == label][..., 0], stored["pixels"][stored["labels"] == label]
            )
    assert images.source == "1,000 test images of Fashion-MNIST (MIT, Zalando SE), packaged"


@pytest.mark.parametrize("limit", [10, 25, 1000])
def test_any_first_packaged_images_are_balanced_over_the_classes(limit: int) -> None:
    labels = packaged_images(GREY_28, limit).labels
    assert labels is not None
    counts = np.bincount(labels, minlength=10)
    assert len(labels) == limit
    assert counts.max() - counts.min() <= 1


def test_packaged_images_are_fitted_to_other_sizes_and_colours_and_say_so() -> None:
    images = packaged_images(imagenet(64), 3)
    assert images.pixels.shape == (3, 64, 64, 3)
    assert images.pixels.dtype == np.uint8
    assert images.source.endswith("resized to 64x64 RGB")
    assert images.label_names == FASHION_MNIST_LABELS


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(BadData, match="0 images"):
        packaged_images(GREY_28, 0)


def test_class_folders_give_labels_in_sorted_order(tmp_path: Path) -> None:
    for name, value in (("dog", 10), ("cat", 200)):
        for i in range(2):
            picture(tmp_path / name / f"{i}.png", value)
    images = folder_images(tmp_path, GREY_28)
    assert images.label_names == ("cat", "dog")
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1, 0, 1]
    assert images.pixels[:, 0, 0, 0].tolist() == [200, 10, 200, 10]


def test_class_folders_are_matched_to_the_labels_of_the_model(tmp_path: Path) -> None:
    picture(tmp_path / "t-shirt_top" / "a.png")
    picture(tmp_path / "Bag" / "a.jpg")
    images = folder_images(tmp_path, GREY_28, FASHION_MNIST_LABELS)
    assert images.labels is not None
    assert sorted(images.labels.tolist()) == [0, 8]
    assert images.label_names == FASHION_MNIST_LABELS


def test_a_class_folder_that_is_no_label_is_named_with_the_nearest(tmp_path: Path) -> None:
    picture(tmp_path / "Sneakers" / "a.png")
    with pytest.raises(BadData, match=r"Sneakers.*Did you mean 'Sneaker'"):
        folder_images(tmp_path, GREY_28, FASHION_MNIST_LABELS)


def test_a_flat_folder_has_no_labels_and_a_limit_spreads_over_it(tmp_path: Path) -> None:
    for i in range(10):
        picture(tmp_path / f"{i}.png", i)
    images = folder_images(tmp_path, GREY_28, FASHION_MNIST_LABELS, limit=5)
    assert images.labels is None
    assert images.pixels[:, 0, 0, 0].tolist() == [0, 2, 4, 6, 8]


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    pixels = np.zeros((28, 28), np.uint8)
    pixels[:14] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # orientation: upside down
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    fitted = folder_images(tmp_path, GREY_28).pixels[0, ..., 0]
    np.testing.assert_array_equal(fitted, pixels[::-1])


def no_folder(folder: Path) -> None:
    folder.rmdir()


def no_images(folder: Path) -> None:
    (folder / "notes.txt").write_text("none")


def beside_and_inside(folder: Path) -> None:
    picture(folder / "a.png")
    picture(folder / "cat" / "b.png")


def cut_off(folder: Path) -> None:
    picture(folder / "a.png")
    content = (folder / "a.png").read_bytes()
    (folder / "a.png").write_bytes(content[: len(content) // 2])


def text_as_image(folder: Path) -> None:
    (folder / "a.jpg").write_text("not an image")


def sixteen_bits(folder: Path) -> None:
    Image.fromarray(np.full((30, 30), 40_000, np.uint16)).save(folder / "a.png")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_folder, "There is no folder"),
        (no_images, "contains no images"),
        (beside_and_inside, "both next to and inside"),
        (cut_off, r"a\.png cannot be decoded"),
        (text_as_image, r"a\.jpg cannot be decoded"),
        (sixteen_bits, r"a\.png has more than 8 bits"),
    ],
)
def test_folders_that_cannot_be_used_are_refused(tmp_path: Path, damage: object, message: str) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    assert callable(damage)
    damage(folder)
    with pytest.raises(BadData, match=message):
        folder_images(folder, GREY_28)


# Which of the model's classes the folders are


def test_folders_that_are_none_of_the_models_classes_give_unlabelled_images(tmp_path: Path) -> None:
    for name in ("cat", "dog", "zebra"):
        picture(tmp_path / name / "a.png")
    for labels in ((), FASHION_MNIST_LABELS):
        images = folder_images(tmp_path, GREY_28, labels, num_classes=10)
        assert images.labels is None
        assert "(cat, dog, zebra) are not the model's 10 classes" in images.note
        assert images.source.endswith("unlabelled: its folders (cat, dog, zebra) are not the model's classes")


def test_as_many_folders_as_classes_are_taken_for_them_aloud_where_the_model_names_none(tmp_path: Path) -> None:
    for name in ("cat", "dog", "zebra"):
        picture(tmp_path / name / "a.png")
    images = folder_images(tmp_path, GREY_28, num_classes=3)
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1, 2]
    assert "the 3 folders, sorted by name, are assumed to be classes 0 to 2 (cat to zebra)" in images.note
    assert folder_images(tmp_path, GREY_28, ("Katze", "Hund", "Maus")).labels is None, "it names others"


def test_numbers_are_the_models_own_whatever_their_spelling(tmp_path: Path) -> None:
    for number in range(12):
        picture(tmp_path / str(number) / "a.png", number)
    images = folder_images(tmp_path, GREY_28, num_classes=12)
    assert images.labels is not None
    assert images.labels.tolist() == images.pixels[:, 0, 0, 0].tolist(), "not 0, 1, 10, 11, 2, ..."
    assert "named by number" in images.note


def test_some_folders_named_as_classes_and_some_not_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "Bag" / "a.png")
    picture(tmp_path / "zebra" / "a.png")
    with pytest.raises(BadData, match=r"zebra is not one of the model's 10 classes.* without class folders"):
        folder_images(tmp_path, GREY_28, FASHION_MNIST_LABELS)


def test_synsets_are_imagenets_classes_where_the_model_may_be_of_imagenet() -> None:
    folders = ["n01440764", "n01443537", "n01484850"]  # tench, goldfish, great white shark: 0, 1, 2 in timm
    assert classes_of(folders, (), 1000).numbers == {name: number for number, name in enumerate(folders)}
    own = [f"part {number}" for number in range(1000)]
    assert classes_of(folders, own, 1000).numbers is None
    assert classes_of(folders, (), 100).numbers is None


def test_a_model_without_classes_has_no_labels() -> None:
    found = classes_of(["cat", "dog"], (), 0)
    assert found.numbers is None
    assert "no classes" in found.note
