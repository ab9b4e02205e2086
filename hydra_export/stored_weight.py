"""The normalised weights as files of several targets hold them: rounded to fp16, or in integers with scales."""

# I input channels of a Linear, O output channels
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydra_export.network import Cut, Span
from hydra_export.normalised import Weight, weights
from hydra_export.target import ExportSpec, Precision

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint

LARGEST_INT8 = 127  # symmetric: -128 would have no counterpart
DTYPES: dict[Precision, str] = {"fp32": "float32", "fp16": "float16", "int8": "float32"}  # of what is not quantized


@dataclass(frozen=True)
class StoredWeight:
    """One tensor of a file; it is made a part at a time, so that no second copy of the model is in memory.

    Attributes:
        scale: [O]; the matrix is *weight* in units of that, rounded.
        output_axis: the axis of O.
    """

    weight: Weight
    dtype: str = "float32"
    scale: Tensor | None = None
    output_axis: int = 0

    @property
    def cut(self) -> Cut:
        """How subnetworks are cut from it."""
        return self.weight.cut

    def shape(self, spans: Sequence[Span]) -> tuple[int, ...]:
        """Shape of the block between two head counts per axis."""
        return self.weight.shape(spans)

    def num_bytes(self, spans: Sequence[Span]) -> int:
        """Size of that block in the file."""
        return np.dtype(self.dtype).itemsize * int(np.prod(self.shape(spans), dtype=np.int64))

    def part(self, spans: Sequence[Span]) -> NDArray[Any]:
        """That block, contiguous and little-endian."""
        part, scale_O = self.weight.part(spans).detach(), self.scales(spans)
        if scale_O is not None:
            units = scale_O.view([-1 if axis == self.output_axis else 1 for axis in range(part.ndim)])
            part = (part / units).round_().clamp_(-LARGEST_INT8, LARGEST_INT8)
        array = part.to(getattr(torch, self.dtype)).contiguous().numpy()
        return np.asarray(array, array.dtype.newbyteorder("<"))

    def scales(self, spans: Sequence[Span]) -> Tensor | None:
        """Those of that block."""
        if self.scale is None:
            return None
        block: Tensor = self.cut.along(self.output_axis).block(self.scale, [spans[self.output_axis]])
        return block


def normalised(checkpoint: Checkpoint, spec: ExportSpec) -> dict[str, Weight]:
    """The normalised form for the input that *spec* asks for.

    fp16 keeps the patch embedding of normalised images also where pixels are given: divided by 255 it would be
    subnormal.
    """
    pixels = checkpoint.info.preprocessing if spec.input == "image" and spec.precision != "fp16" else None
    return weights(checkpoint.info.config, checkpoint.state, pixels)
