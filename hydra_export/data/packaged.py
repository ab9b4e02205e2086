"""The images that come with the package: 100 test images of each class of Fashion-MNIST (MIT, Zalando SE)."""

from __future__ import annotations

from importlib import resources

import numpy as np
from PIL import Image

from hydra_export.data.images import ImageSet, in_turns, shape_of
from hydra_export.preprocess import Preprocessing

FASHION_MNIST_LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FILE_NAME = "fashion-mnist-1000.npz"
LICENSE = "LICENSE-fashion-mnist.txt"


def packaged_images(preprocessing: Preprocessing, limit: int | None = None) -> ImageSet:
    """At most *limit* of the packaged images, fitted; a model of 28x28 grey images gets them unchanged.

    Raises:
        BadData: *limit* is below one.
    """
    with (resources.files("hydra_export.data") / FILE_NAME).open("rb") as file, np.load(file) as arrays:
        pixels, labels = arrays["pixels"], arrays["labels"].astype(np.int64)
    chosen = in_turns(labels, limit)
    fitted = np.stack([preprocessing.fit(Image.fromarray(image)) for image in pixels[chosen]])
    source = f"{len(chosen):,} test images of Fashion-MNIST (MIT, Zalando SE), packaged"
    if fitted.shape[:3] != pixels[chosen].shape or not np.array_equal(fitted[..., 0], pixels[chosen]):
        source += f", resized to {shape_of(preprocessing)}"
    return ImageSet(fitted, labels[chosen], FASHION_MNIST_LABELS, source, LICENSE)
