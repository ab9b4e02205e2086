"""The normalised weights as TFLite files hold them: layout, precision, quantization."""

# E width of the universal model, P patch size, C channels of the image, I input channels of a Linear, O output channels
from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hydra_export import stored_weight
from hydra_export.normalised import Weight
from hydra_export.stored_weight import DTYPES, LARGEST_INT8, StoredWeight
from hydra_export.target import STATIC, ExportSpec, Precision
from hydra_export.targets.tflite import TFLiteOptions

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint


def normalised(checkpoint: Checkpoint, spec: ExportSpec) -> dict[str, Weight]:
    """Linears as [O, I], which is torch's layout too; the patch embedding as CONV_2D's [E, P, P, C].

    Where bytes are shared, tokens lie as [1, E, N].
    """
    weights = stored_weight.normalised(checkpoint, spec)
    weights["patch_embed.weight"] = weights["patch_embed.weight"].permuted(0, 2, 3, 1)
    if spec.precision in STATIC:
        return weights
    if spec.graph == "universal" and TFLiteOptions.of(spec).overlap and "tokens" in weights:
        weights["tokens"] = weights["tokens"].permuted(0, 2, 1)
    return weights


def stored(weights: Mapping[str, Weight], precision: Precision, heads: int) -> dict[str, StoredWeight]:
    """What the file of subnetwork *heads*, or of several of which it is the largest, holds.

    int8: the Linears alone, symmetric, in units of a scale per output channel. It is that of the largest subnetwork, so
    that all of them have the same numbers. The patch embedding stays float32: it is 0.7 % of a ViT-B.
    """
    if precision in STATIC:
        return {
            name: StoredWeight(weight, "int8", _scale(weight.first(heads).detach().flatten(1)))
            for name, weight in weights.items()
            if weight.is_matrix or name == "patch_embed.weight"
        }
    return {
        name: StoredWeight(weight, "int8", _scale(weight.first(heads).detach()))
        if precision == "int8" and weight.is_matrix
        else StoredWeight(weight, DTYPES[precision])
        for name, weight in weights.items()
    }


def begins_alike(stored: StoredWeight) -> bool:
    """Whether what a smaller subnetwork uses is the beginning of what a larger one does, byte by byte."""
    growing = stored.cut.growing
    return not growing or (len(growing) == 1 and all(size == 1 for size in stored.weight.full.shape[: growing[0]]))


def _scale(weight_OI: Tensor) -> Tensor:
    """Per output channel. Runtimes add products in 32 bits: the whole range is used, unlike ONNX's int8."""
    scale_O = weight_OI.abs().amax(1) / LARGEST_INT8
    return torch.where(scale_O >= torch.finfo(torch.float32).tiny, scale_O, 1.0)  # XNNPACK takes no smaller ones
