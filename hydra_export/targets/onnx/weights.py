"""The normalised weights as ONNX files hold them: layout, precision, quantization."""

# I input channels of a Linear, O output channels
from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor

from hydra_export import stored_weight
from hydra_export.normalised import Weight
from hydra_export.stored_weight import DTYPES, LARGEST_INT8, StoredWeight
from hydra_export.target import STATIC, ExportSpec

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint

# Of a bias: where weights are much smaller, what they add is too, and in their units the bias were beyond 32 bits.
_LEAST_SCALE = 2.0**-16


def normalised(checkpoint: Checkpoint, spec: ExportSpec) -> dict[str, Weight]:
    """The normalised form as the graph takes it.

    Linears are [I, O], for Gemm, rotary positions [1, N, 1, C]; where the batch is known, or nothing stands before the
    patches, tokens are in two, of which those are left out that say nothing.
    """
    weights, config = stored_weight.normalised(checkpoint, spec), checkpoint.info.config
    count = config.num_prefix_tokens
    if "tokens" in weights and not (count and spec.batch == "dynamic"):
        tokens = weights.pop("tokens")
        if spec.batch != "dynamic" and count:
            weights["tokens.prefix"] = Weight(tokens.full[:, :count].expand(spec.batch, -1, -1), tokens.cut)
        if config.num_positions:
            weights["tokens.positions"] = Weight(tokens.full[:, count:], tokens.cut)
    for name, weight in weights.items():
        if weight.is_matrix:
            weights[name] = weight.permuted(1, 0)
        elif name in ("rope.cos", "rope.sin"):
            weights[name] = weight.permuted(0, 2, 1, 3)
    return weights


def stored(weights: Mapping[str, Weight], spec: ExportSpec, heads: int) -> dict[str, StoredWeight]:
    """What the file of subnetwork *heads*, or of several of which it is the largest, holds.

    int8: the Linears alone, symmetric, in units of a scale per output channel: ``<name>.scale`` beside
    ``<name>.weight``. It is that of the largest subnetwork, so that one number serves all.
    """
    kept: dict[str, StoredWeight] = {}
    for name, weight in weights.items():
        if spec.precision in STATIC:
            kept |= _counted(name, weight, weights, heads)
            continue
        if spec.precision != "int8" or not weight.is_matrix:
            kept[name] = StoredWeight(weight, DTYPES[spec.precision])
            continue
        scale_O = _scale(weight.first(heads).detach())
        kept[name] = StoredWeight(weight, "int8", scale_O, output_axis=1)
        kept[f"{name.removesuffix('.weight')}.scale"] = StoredWeight(Weight(scale_O, weight.cut.along(1)))
    return kept


def _counted(name: str, weight: Weight, weights: Mapping[str, Weight], heads: int) -> dict[str, StoredWeight]:
    """A weight of a product in graphs of integer activations, and its scale; the graph's builder has all else."""
    if not (weight.is_matrix or name == "patch_embed.weight"):
        return {}
    layer, first = name.removesuffix(".weight"), weight.first(heads).detach()
    output_axis = 1 if weight.is_matrix else 0
    # Of a patch embedding the neighbours are those of either order of its channels.
    orders = [first] if weight.is_matrix else [first.flatten(1).T, first.permute(0, 2, 3, 1).flatten(1).T]
    least_O = weights[f"{layer}.bias"].first(heads).detach().abs() * _LEAST_SCALE
    scale_O = torch.stack([_scale(order) for order in orders]).amax(0).maximum(least_O)
    return {
        name: StoredWeight(weight, "int8", scale_O, output_axis),
        f"{layer}.scale": StoredWeight(Weight(scale_O, weight.cut.along(output_axis))),
    }


def onnx_type(stored: StoredWeight) -> ir.DataType:
    """What ONNX calls its type."""
    return ir.DataType.from_numpy(np.dtype(stored.dtype))


def _scale(weight_IO: Tensor) -> Tensor:
    """Per output channel, so large that no processor overflows.

    x86 without VNNI adds the products of two neighbouring inputs, each 0-255, with their weights in 16 bits, which
    saturate (onnxruntime, "Quantize ONNX models", on U8S8). So neighbours of one sign sum to 127 at most, and to 128
    when rounded. Its reduce_range, a bit less for all, would lose more.
    """
    padded_IO = F.pad(weight_IO, (0, 0, 0, 1))
    positive_IO, negative_IO = padded_IO.clamp(min=0), -padded_IO.clamp(max=0)
    largest_O = torch.maximum(*(part[1:] + part[:-1] for part in (positive_IO, negative_IO))).amax(0)
    return torch.where(largest_O > 0, largest_O / LARGEST_INT8, 1.0)
