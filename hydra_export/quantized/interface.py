"""Between numbers and the integers that a graph takes and gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from hydra_export.target import TensorInfo


def as_integers(numbers: NDArray[Any], info: TensorInfo) -> NDArray[Any]:
    """*numbers* as the tensor *info* has them: unchanged where it has no scale."""
    if info.scale is None:
        return numbers
    ends = np.iinfo(info.dtype)
    counted = np.rint(numbers / np.float32(info.scale)) + info.zero_point
    integers: NDArray[Any] = np.clip(counted, ends.min, ends.max).astype(info.dtype)
    return integers


def as_numbers(integers: NDArray[Any], info: TensorInfo) -> NDArray[Any]:
    """What *integers* of the tensor *info* stand for, in float32; unchanged where it has no scale."""
    if info.scale is None:
        return integers
    numbers: NDArray[Any] = (integers.astype(np.float32) - info.zero_point) * np.float32(info.scale)
    return numbers
