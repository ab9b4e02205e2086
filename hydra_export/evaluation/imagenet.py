"""ImageNet-1K and its variants by folder: which of the 1,000 classes each folder of images is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from hydra_export.data import sources
from hydra_export.data.classes import IMAGENET_CLASSES, Classes, classes_of
from hydra_export.data.sources import ReaderImages


def folder_classes(folder: Path, labels: Sequence[str] = ()) -> Classes | None:
    """The classes of the folders in *folder*, None where they are not ImageNet's, or *labels*, the model's, are not.

    ImageNet, -A, -R and Sketch name folders by synset (n01440764), which timm's map counts; V2 by number (0 to 999).
    """
    names = sorted(child.name for child in folder.iterdir() if child.is_dir())
    classes = classes_of(names, labels, IMAGENET_CLASSES) if names else None
    return classes if classes is not None and classes.known_by in ("by synset", "by number") else None


def images(folder: Path, classes: Classes) -> tuple[ReaderImages, tuple[int, ...] | None]:
    """The images of *folder*, labelled as a model of the 1,000 classes counts, and those classes where they are fewer.

    Of variants with 200 classes, such as -A and -R, accuracy is by custom taken over those classes alone.
    """
    assert classes.numbers is not None
    pictures, names = sources.images(folder)
    numbers = [classes.numbers[name] for name in names]
    labelled = replace(pictures, labels=np.asarray(numbers)[pictures.labels])
    return labelled, None if len(names) == IMAGENET_CLASSES else tuple(sorted(numbers))
