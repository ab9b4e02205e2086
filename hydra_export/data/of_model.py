"""The labelled images that a model is judged by: packaged ones, a dataset's test images, or a folder's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from hydra_export.data import ImageSet, datasets, folder_images, packaged_images
from hydra_export.errors import BadData, BadInput, UnknownName
from hydra_export.target import OfModel


def labelled(model: OfModel, name: str, unreadable: list[Path]) -> ImageSet:
    """All images of the dataset or folder *name*, fitted to *model*, of whose classes they must be.

    Args:
        unreadable: takes those that cannot be decoded.
    """
    if not _is_folder(name):
        return _of_dataset(model, name)
    folder, num_classes = Path(name), model.config.num_classes
    images = folder_images(
        folder, model.preprocessing, tuple(model.labels), unreadable=unreadable, num_classes=num_classes
    )
    if images.labels is None and images.note:
        raise BadInput(
            f"{folder} cannot judge {model.name}. {images.note}",
            "Pass `data` with a folder for each of the model's classes, named as the model names it.",
        )
    if images.labels is None:
        raise BadData(f"Folder {folder} has images without classes.", "Pass one folder of images per class.")
    return images


def check_classes(model: OfModel) -> None:
    """Raises BadInput where there is nothing to be sure of."""
    if not model.config.num_classes:
        raise BadInput(f"{model.name} has no classes, so it cannot be calibrated.", "Pass a model with classes.")


def fitted_to(model: OfModel, name: str, limit: int) -> ImageSet:
    """At most *limit* images of the dataset or folder *name*, fitted to *model*.

    Those of a folder have no labels where it has no folders that are the model's classes, as their note says.
    """
    if _is_folder(name):
        num_classes = model.config.num_classes
        return folder_images(
            Path(name), model.preprocessing, tuple(model.labels), limit, unreadable=[], num_classes=num_classes
        )
    images = _of_dataset(model, name)
    if len(images) <= limit:
        return images
    assert images.labels is not None
    chosen = np.arange(limit) * len(images) // limit
    source = f"{limit:,} of {images.source}"
    return replace(images, pixels=images.pixels[chosen], labels=images.labels[chosen], source=source)


def _is_folder(name: str) -> bool:
    return Path(name).is_dir() and name not in ("packaged", *datasets.names()) and not _is_idx(name)


def _is_idx(name: str) -> bool:
    return any(Path(name).glob("t10k-images-idx3-ubyte*"))


def _of_dataset(model: OfModel, name: str) -> ImageSet:
    if name == "packaged":
        images = packaged_images(model.preprocessing)
    elif name in datasets.names():
        images = datasets.fitted_test(name, model.preprocessing)
    elif _is_idx(name):
        images = datasets.fitted_test("fashion-mnist", model.preprocessing, Path(name))
    else:
        raise UnknownName("dataset or folder", name, ("packaged", *datasets.names()), field="data")
    labels, num_classes = tuple(model.labels), model.config.num_classes
    if (labels and images.label_names != labels) or len(images.label_names) != num_classes:
        raise BadInput(
            f"{model.name} has {num_classes} classes ({_few(labels)}); "
            f"the images have {len(images.label_names)} ({_few(images.label_names)}).",
            "Pass `data` with images of the model's classes.",
        )
    if not labels:
        note = f"{model.name} does not name its classes; assumed: {_few(images.label_names)}, in this order."
        return replace(images, note=note)
    return images


def _few(labels: Sequence[str]) -> str:
    return ", ".join(labels[:3]) + ", ..." if labels else "names unknown"
