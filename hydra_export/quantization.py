"""What int8 costs, layer by layer: for whoever wants to know why an int8 artifact lost its accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydra_export.arrays import Pixels
from hydra_export.preprocess import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hydra_export.model import HydraViT

_LARGEST = 127


@dataclass(frozen=True)
class LayerError:
    """How far one linear layer's outputs are off, as a share of their size (root mean squares).

    Attributes:
        weights: with int8 weights, a scale per output channel, as Core ML's int8 packages compute.
        both: with int8 activations as well, a scale per call, as ONNX's and TFLite's int8 artifacts compute.
    """

    name: str
    weights: float
    both: float


def layer_errors(model: HydraViT, heads: int, pixels_BHWC: Pixels, preprocessing: Preprocessing) -> list[LayerError]:
    """One pass of subnetwork *heads* in float32; each linear layer is rounded for itself alone. The worst come first.

    It simulates, so that it says where accuracy goes in any target; no artifact computes exactly this.
    """
    import torch

    dense = model.subnetwork(heads, copy=False).eval()
    found: list[LayerError] = []

    def watch(name: str, layer: nn.Linear) -> None:
        def after(_layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            weight, size = _rounded(layer.weight, per_row=True), output.square().mean().sqrt()
            off = [
                float((nn.functional.linear(x, weight, layer.bias) - output).square().mean().sqrt() / size)
                for x in (inputs[0], _rounded(inputs[0]))
            ]
            found.append(LayerError(name, *off))

        layer.register_forward_hook(after)

    from torch import nn

    for name, layer in dense.named_modules():
        if isinstance(layer, nn.Linear):
            watch(name, layer)
    with torch.inference_mode():
        dense(torch.from_numpy(preprocessing.normalise(pixels_BHWC)))
    return sorted(found, key=lambda error: error.both, reverse=True)


def _rounded(values: Tensor, *, per_row: bool = False) -> Tensor:
    """What symmetric int8 makes of *values*."""
    largest = values.abs().amax(dim=-1, keepdim=True) if per_row else values.abs().amax()
    scale = largest.clamp_min(1e-30) / _LARGEST
    return (values / scale).round() * scale
