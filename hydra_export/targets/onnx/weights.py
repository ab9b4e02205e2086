"""The normalised weights in the layout that ONNX wants."""

from __future__ import annotations

from hydra_export.model import HydraViT, Weight
from hydra_export.preprocess import Preprocessing


def onnx_weights(model: HydraViT, pixels: Preprocessing | None = None) -> dict[str, Weight]:
    """Linears as [in, out] for Gemm."""
    return {
        name: weight.transposed if name.endswith(".weight") and weight.full.ndim == 2 else weight
        for name, weight in model.normalised_weights(pixels).items()
    }
