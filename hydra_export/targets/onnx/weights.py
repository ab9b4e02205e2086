"""The normalised weights as ONNX files hold them: layout, precision, quantization."""

# I input channels of a Linear, O output channels
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hydra_export.model import Weight
from hydra_export.network import Cut, Span
from hydra_export.target import ExportSpec

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint

_TORCH_TYPES = {ir.DataType.FLOAT: torch.float32, ir.DataType.FLOAT16: torch.float16, ir.DataType.INT8: torch.int8}
_LARGEST_INT8 = 127  # symmetric: -128 would have no counterpart


@dataclass(frozen=True)
class StoredWeight:
    """One tensor of the file; it is made a part at a time, so that no second copy of the model is in memory.

    With *scale* [O], the matrix [I, O] is *weight* in units of that, rounded.
    """

    weight: Weight
    dtype: ir.DataType = ir.DataType.FLOAT
    scale: Tensor | None = None

    @property
    def cut(self) -> Cut:
        """How subnetworks are cut from it."""
        return self.weight.cut

    def shape(self, heads: int) -> tuple[int, ...]:
        """Shape of what subnetwork *heads* uses."""
        return self.weight.shape(self.cut.spans(heads))

    def num_bytes(self, heads: int) -> int:
        """Size in the file of what subnetwork *heads* uses."""
        return int(np.prod(self.shape(heads))) * self.dtype.numpy().itemsize

    def part(self, spans: Sequence[Span]) -> NDArray[Any]:
        """The block between two head counts per axis, contiguous and little-endian."""
        part = self.weight.part(spans).detach()
        if self.scale is not None:
            scale_O = self.cut.columns.block(self.scale, spans[-1:])
            part = (part / scale_O).round_().clamp_(-_LARGEST_INT8, _LARGEST_INT8)
        array = part.to(_TORCH_TYPES[self.dtype]).contiguous().numpy()
        return np.asarray(array, array.dtype.newbyteorder("<"))

    def first(self, heads: int) -> NDArray[Any]:
        """What subnetwork *heads* uses."""
        return self.part(self.cut.spans(heads))


def normalised(checkpoint: Checkpoint, spec: ExportSpec) -> dict[str, Weight]:
    """The normalised form with Linears as [I, O], for Gemm.

    fp16 keeps the patch embedding of normalised images also where pixels are given: divided by 255 it would be
    subnormal.
    """
    pixels = checkpoint.info.preprocessing if spec.input == "image" and spec.precision != "fp16" else None
    return {
        name: weight.permuted(1, 0) if weight.is_matrix else weight
        for name, weight in checkpoint.model.normalised_weights(pixels).items()
    }


def stored(weights: dict[str, Weight], spec: ExportSpec, heads: int) -> dict[str, StoredWeight]:
    """What the file of subnetwork *heads*, or of several of which it is the largest, holds.

    int8: the Linears alone, symmetric, in units of a scale per output channel: ``<name>.scale`` beside
    ``<name>.weight``. It is that of the largest subnetwork, so that one number serves all.
    """
    if spec.precision != "int8":
        dtype = ir.DataType.FLOAT16 if spec.precision == "fp16" else ir.DataType.FLOAT
        return {name: StoredWeight(weight, dtype) for name, weight in weights.items()}
    found = {}
    for name, weight in weights.items():
        if not weight.is_matrix:
            found[name] = StoredWeight(weight)
            continue
        scale_O = _scale(weight.first(heads).detach())
        found[name] = StoredWeight(weight, ir.DataType.INT8, scale_O)
        found[f"{name.removesuffix('.weight')}.scale"] = StoredWeight(Weight(scale_O, weight.cut.columns))
    return found


def _scale(weight_IO: Tensor) -> Tensor:
    """Per output channel, so large that no processor overflows.

    x86 without VNNI adds the products of two neighbouring inputs, each 0-255, with their weights in 16 bits, which
    saturate (onnxruntime, "Quantize ONNX models", on U8S8). So neighbours of one sign sum to 127 at most, and to 128
    when rounded. Its reduce_range, a bit less for all, would lose more.
    """
    padded_IO = F.pad(weight_IO, (0, 0, 0, 1))
    positive_IO, negative_IO = padded_IO.clamp(min=0), -padded_IO.clamp(max=0)
    largest_O = torch.maximum(*(part[1:] + part[:-1] for part in (positive_IO, negative_IO))).amax(0)
    return torch.where(largest_O > 0, largest_O / _LARGEST_INT8, 1.0)
