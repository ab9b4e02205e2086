"""ImageNet-1K and its variants by folder: which of the 1,000 classes each folder of images is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from timm.data import ImageNetInfo  # type: ignore[attr-defined]

from hydra_export.train import sources
from hydra_export.train.sources import Listed


def folder_classes(folder: Path) -> tuple[int, ...] | None:
    """The class of each folder in *folder*, in the order of their names, or None where they are not ImageNet's.

    ImageNet, -A, -R and Sketch name folders by synset (n01440764), which timm's map counts; V2 by number (0 to 999).
    """
    names = sorted(child.name for child in folder.iterdir() if child.is_dir())
    synsets: list[str] = ImageNetInfo().label_names()  # type: ignore[no-untyped-call]
    number = {name: index for index, name in enumerate(synsets)}
    if names and all(name in number for name in names):
        return tuple(number[name] for name in names)
    if len(names) == len(synsets) and all(name.isdigit() and int(name) < len(synsets) for name in names):
        return tuple(map(int, names))
    return None


def images(folder: Path) -> tuple[Listed, tuple[int, ...] | None]:
    """The images of *folder*, labelled as a model of the 1,000 classes counts, and those classes where they are fewer.

    Of variants with 200 classes, such as -A and -R, accuracy is by custom taken over those classes alone.
    """
    found, names = sources.images(folder)
    by_name = dict(zip(sorted(names), folder_classes(folder) or (), strict=True))
    number = np.asarray([by_name[name] for name in names])
    listed = replace(found, labels=number[found.labels])
    return listed, None if len(names) == 1000 else tuple(sorted(by_name.values()))
