"""The normalised weights as TFLite files hold them: layout, precision, quantization."""

# E width of the universal model, P patch size, C channels of the image, I input channels of a Linear, O output channels
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydra_export.model import Span, Weight
from hydra_export.target import ExportSpec, Precision
from hydra_export.targets.tflite import TFLiteOptions

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint

_TORCH_TYPES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}
_LARGEST_INT8 = 127  # symmetric: -128 would have no counterpart


@dataclass(frozen=True)
class StoredWeight:
    """One tensor of the file; it is made a part at a time, so that no second copy of the model is in memory.

    With *scale* [O], the matrix [O, I] is *weight* in units of that, rounded.
    """

    weight: Weight
    dtype: str = "float32"
    scale: Tensor | None = None

    def spans(self, heads: int, columns: Span | None) -> list[Span]:
        """What subnetwork *heads* uses, per axis; of a matrix [O, I] the input channels of the heads *columns*."""
        spans = [(0, heads)] * len(self.weight.units)
        return spans if columns is None else [spans[0], columns]

    def shape(self, spans: Sequence[Span]) -> tuple[int, ...]:
        """Shape of the block between two head counts per axis."""
        sizes = zip(spans, self.weight.units, self.weight.full.shape, strict=True)
        return tuple((high - low) * unit or size for (low, high), unit, size in sizes)

    @property
    def begins_alike(self) -> bool:
        """Whether what a smaller subnetwork uses is the beginning of what a larger one does, byte by byte."""
        growing = [axis for axis, unit in enumerate(self.weight.units) if unit]
        return not growing or (len(growing) == 1 and all(size == 1 for size in self.weight.full.shape[: growing[0]]))

    def num_bytes(self, spans: Sequence[Span]) -> int:
        """Size of that block."""
        return _TORCH_TYPES[self.dtype].itemsize * int(np.prod(self.shape(spans), dtype=np.int64))

    def part(self, spans: Sequence[Span]) -> NDArray[Any]:
        """That block, contiguous and little-endian."""
        part = self.weight.part(spans).detach()
        if self.scale is not None:
            part = (part / self._scale(spans)[:, None]).round_().clamp_(-_LARGEST_INT8, _LARGEST_INT8)
        array = part.to(_TORCH_TYPES[self.dtype]).contiguous().numpy()
        return np.asarray(array, array.dtype.newbyteorder("<"))

    def scales(self, spans: Sequence[Span]) -> NDArray[np.float32] | None:
        """One per row of that block."""
        return None if self.scale is None else np.ascontiguousarray(self._scale(spans).numpy())

    def _scale(self, spans: Sequence[Span]) -> Tensor:
        assert self.scale is not None
        (low, high), unit = spans[0], self.weight.units[0]
        return self.scale[low * unit : high * unit] if unit else self.scale


def normalised(checkpoint: Checkpoint, spec: ExportSpec) -> dict[str, Weight]:
    """Linears as [O, I], which is torch's layout too; the patch embedding as CONV_2D's [E, P, P, C].

    fp16 keeps the patch embedding of normalised images also where pixels are given. Where bytes are shared, tokens lie
    as [1, E, N].
    """
    pixels = checkpoint.info.preprocessing if spec.input == "image" and spec.precision != "fp16" else None
    weights = checkpoint.model.normalised_weights(pixels)
    patch_ECPP = weights["patch_embed.weight"]
    head_dim = patch_ECPP.units[0]
    weights["patch_embed.weight"] = Weight(patch_ECPP.full.permute(0, 2, 3, 1).contiguous(), (head_dim, 0, 0, 0))
    if spec.graph == "universal" and TFLiteOptions.of(spec).overlap:
        tokens_1NE = weights["tokens"]
        weights["tokens"] = Weight(tokens_1NE.full.transpose(1, 2), (0, head_dim, 0))
    return weights


def stored(weights: Mapping[str, Weight], precision: Precision, heads: int) -> dict[str, StoredWeight]:
    """What the file of subnetwork *heads*, or of several of which it is the largest, holds.

    int8: the Linears alone, symmetric, in units of a scale per output channel. It is that of the largest subnetwork, so
    that all of them have the same numbers. The patch embedding stays float32: it is 0.7 % of a ViT-B.
    """
    if precision != "int8":
        dtype = "float16" if precision == "fp16" else "float32"
        return {name: StoredWeight(weight, dtype) for name, weight in weights.items()}
    return {
        name: StoredWeight(weight, "int8", _scale(weight.first(heads).detach()))
        if name.endswith(".weight") and weight.full.ndim == 2
        else StoredWeight(weight)
        for name, weight in weights.items()
    }


def _scale(weight_OI: Tensor) -> Tensor:
    """Per output channel. Runtimes add products in 32 bits: the whole range is used, unlike ONNX's int8."""
    scale_O = weight_OI.abs().amax(1) / _LARGEST_INT8
    return torch.where(scale_O >= torch.finfo(torch.float32).tiny, scale_O, 1.0)  # XNNPACK takes no smaller ones
