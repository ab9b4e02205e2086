"""The size of images: one number for a side, or height and width."""

from __future__ import annotations

ImageSize = int | tuple[int, int]


def as_shape(size: ImageSize) -> tuple[int, int]:
    """Height and width."""
    return (size, size) if isinstance(size, int) else size


def as_size(height: int, width: int) -> ImageSize:
    """As it is written: one number where they are equal, so that equal sizes are equal."""
    return height if height == width else (height, width)
