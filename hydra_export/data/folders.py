"""The user's own images: a folder with one folder per class, or a flat one without labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hydra_export.data.classes import classes_of, named
from hydra_export.data.decoding import decoded
from hydra_export.data.images import ImageSet, check_limit, in_turns
from hydra_export.errors import BadData
from hydra_export.preprocess import Preprocessing

Pixels = NDArray[np.uint8]

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def folder_images(
    folder: Path,
    preprocessing: Preprocessing,
    labels: tuple[str, ...] = (),
    limit: int | None = None,
    unreadable: list[Path] | None = None,
    *,
    num_classes: int | None = None,
) -> ImageSet:
    """The images of *folder*, fitted: from folders named after their class, or all in one place without labels.

    Args:
        labels: the model's classes, which class folders are matched to by name, letter case and punctuation
            aside ("t-shirt_top" is "T-shirt/top").
        limit: at most so many, evenly over the classes.
        unreadable: takes the images that cannot be decoded, which are left out then; without it they are an error.
        num_classes: of the model; folders that are none of its classes give unlabelled images (``classes_of``). Without
            it and *labels* there is no model to ask, and the sorted names of the folders are the classes.

    Raises:
        BadData: no such folder, no images in it, images both beside and inside class folders, class folders of which
            some are in *labels* and some not, or an image that cannot be decoded.
    """
    if not folder.is_dir():
        raise BadData(f"There is no folder {folder}.", "Pass a folder of images, or of one folder per class.")
    check_limit(limit)
    classes = {child.name: _images_in(child) for child in _visible(folder) if child.is_dir()}
    flat = _images_in(folder)
    if not flat and not any(classes.values()):
        raise BadData(f"Folder {folder} contains no images.", f"Known suffixes: {', '.join(sorted(_SUFFIXES))}.")
    if flat and any(classes.values()):
        raise BadData(
            f"Folder {folder} has images both next to and inside its folders.",
            "Keep one folder per class, or all images in one place.",
        )
    name = folder.resolve().name
    if flat:
        chosen = [flat[i] for i in _spread(len(flat), limit)]
        pixels, _ = _fitted(chosen, preprocessing, unreadable)
        return ImageSet(pixels, None, (), f"{len(pixels):,} images of the folder {name}, unlabelled")
    count = num_classes if num_classes is not None else len(labels) or len(classes)
    found = classes_of(tuple(classes), labels, count)
    places = np.repeat(np.arange(len(classes)), [len(images) for images in classes.values()])
    paths = [path for images in classes.values() for path in images]
    order = in_turns(places, limit)
    pixels, read = _fitted([paths[i] for i in order], preprocessing, unreadable)
    source = f"{len(pixels):,} images of the folder {name}, "
    if found.numbers is None:
        source += f"unlabelled: its folders ({named(tuple(classes))}) are not the model's classes"
        return ImageSet(pixels, None, (), source, note=found.note)
    source += f"{len(np.unique(places))} classes {found.known_by}"
    targets = np.asarray([found.numbers[child] for child in classes], np.int64)[places[order][read]]
    no_model = num_classes is None and not labels
    return ImageSet(pixels, targets, found.names, source, note="" if no_model else found.note)


def _visible(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if not child.name.startswith("."))


def _images_in(folder: Path) -> list[Path]:
    return [child for child in _visible(folder) if child.suffix.lower() in _SUFFIXES and child.is_file()]


def _spread(count: int, limit: int | None) -> list[int]:
    """Positions of *limit* out of *count*, evenly: neighbours in a folder are often alike."""
    taken = min(count, limit or count)
    return [i * count // taken for i in range(taken)]


def _fitted(paths: list[Path], preprocessing: Preprocessing, unreadable: list[Path] | None) -> tuple[Pixels, list[int]]:
    """The images, and which of *paths* they are."""
    pixels, read = [], []
    for index, path in enumerate(paths):
        try:
            pixels.append(preprocessing.fit(decoded(path)))
        except BadData as error:
            if unreadable is None or error.__cause__ is None:  # the cause is what Pillow said of it
                raise
            unreadable.append(path)
        else:
            read.append(index)
    if not pixels:
        raise BadData(f"None of the {len(paths)} images can be decoded.", "Pass images that Pillow can open.")
    return np.stack(pixels), read
