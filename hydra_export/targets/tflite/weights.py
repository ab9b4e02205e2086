"""The normalised weights in the layout that TFLite wants."""

# E width of the universal model, P patch size, C channels of the image
from __future__ import annotations

from hydra_export.model import HydraViT, Weight
from hydra_export.preprocess import Preprocessing


def tflite_weights(model: HydraViT, pixels: Preprocessing | None = None) -> dict[str, Weight]:
    """Linears as [out, in], which is torch's layout too; the patch embedding as CONV_2D's [out, height, width, in]."""
    weights = model.normalised_weights(pixels)
    patch_ECPP = weights["patch_embed.weight"]
    head_dim = patch_ECPP.units[0]
    weights["patch_embed.weight"] = Weight(patch_ECPP.full.permute(0, 2, 3, 1).contiguous(), (head_dim, 0, 0, 0))
    return weights
