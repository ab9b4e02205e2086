"""What a set of images is, and the order in which its classes take turns."""

# n images, H height, W width, C channels
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hydra_export.errors import BadData
from hydra_export.preprocess import Preprocessing

_GREY = 16  # of 255: how far a grey pixel's channels lie apart at most


@dataclass(frozen=True)
class ImageSet:
    """Images fitted to one model's size and channels, not yet normalised.

    Attributes:
        pixels: uint8 [n, H, W, C] in 0-255; the classes take turns, so that any first few are balanced.
        labels: int64 [n], None if unknown.
        label_names: the names of the classes; empty if unknown.
        source: a description of their origin, for a manifest.
        license: for packaged images, the file in this folder with the license text.
        note: what was assumed about the labels, to show the user.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    label_names: tuple[str, ...]
    source: str
    license: str = ""
    note: str = ""

    def __len__(self) -> int:
        return len(self.pixels)


def in_turns(labels: NDArray[np.int64], limit: int | None) -> NDArray[np.int64]:
    """Positions of at most *limit* images: the first of each class, then the second of each, and so on."""
    check_limit(limit)
    rank_in_class = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        members = labels == label
        rank_in_class[members] = np.arange(members.sum())
    return np.lexsort((labels, rank_in_class))[:limit]


def is_coloured(picture: Image.Image) -> bool:
    """Whether any of its pixels is more than grey, beyond what JPEG makes of grey ones."""
    small = picture.convert("RGB")
    small.thumbnail((64, 64))
    return bool(np.ptp(np.asarray(small, np.int16), axis=2).max() > _GREY)


def check_limit(limit: int | None) -> None:
    """Refuses a number of images below one."""
    if limit is not None and limit < 1:
        raise BadData(f"{limit} images were asked for.", "Ask for at least one.")


def shape_of(preprocessing: Preprocessing) -> str:
    """The size and colours that images are fitted to, for a person: ``224x224 RGB``."""
    return f"{preprocessing.image_text} {'RGB' if preprocessing.channels == 3 else 'grey'}"
