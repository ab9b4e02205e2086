"""Real images as a model takes them: those that come with the package, and folders of the user's own."""

from __future__ import annotations

from hydra_export.data.folders import folder_images
from hydra_export.data.images import ImageSet, shape_of
from hydra_export.data.packaged import FASHION_MNIST_LABELS, packaged_images

__all__ = ["FASHION_MNIST_LABELS", "ImageSet", "folder_images", "packaged_images", "shape_of"]
