"""The normalised weights in the layout that ONNX wants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydra_export.model import HydraViT, Weight
from hydra_export.preprocess import Preprocessing


@dataclass(frozen=True)
class OnnxWeight:
    """A weight and the factor that its values take when they are written."""

    weight: Weight
    factor: float = 1.0

    def part(self, heads: tuple[tuple[int, int], ...]) -> NDArray[np.float32]:
        """The block between two head counts per axis, contiguous; axes that all head counts share are whole."""
        view = self.weight.full[
            tuple(
                slice(low * unit, high * unit) if unit else slice(None)
                for (low, high), unit in zip(heads, self.weight.units, strict=True)
            )
        ]
        return _array(view if self.factor == 1.0 else view * self.factor)

    def shape(self, heads: int) -> tuple[int, ...]:
        """Shape of what subnetwork *heads* uses."""
        full = self.weight.full.shape
        return tuple(unit * heads or size for unit, size in zip(self.weight.units, full, strict=True))

    def first(self, heads: int) -> NDArray[np.float32]:
        """What subnetwork *heads* uses, contiguous."""
        return self.part(((0, heads),) * len(self.weight.units))


def onnx_weights(model: HydraViT, pixels: Preprocessing | None = None) -> dict[str, OnnxWeight]:
    """Linears as [in, out] for Gemm, the attention's scale in q, the class token at its position."""
    scale = model.config.head_dim**-0.5
    weights = {}
    for name, weight in model.normalised_weights(pixels).items():
        is_query = ".attn.q." in name
        if name.endswith(".weight") and weight.full.ndim == 2:
            weight = Weight(weight.full.T, weight.units[::-1])
        weights[name] = OnnxWeight(weight, scale if is_query else 1.0)
    cls_token, positions = weights.pop("cls_token").weight, weights.pop("pos_embed").weight
    tokens = positions.full.clone()
    tokens[:, :1] += cls_token.full
    return {"tokens": OnnxWeight(Weight(tokens, positions.units)), **weights}


def _array(view: Tensor) -> NDArray[np.float32]:
    return np.asarray(view.to(torch.float32).contiguous().numpy(), dtype="<f4")
