"""Infers a plain ViT's architecture from its tensor shapes, except for the head width."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from hydra_export.architecture import HydraConfig
from hydra_export.errors import BadInput

ONLY = "Only plain ViTs with a class token are supported."

# Variants of the ViT that no subnetwork of ours is, by the parameters that give them away.
_REFUSED = {
    "dist_token": "a distillation token, to which all others attend",
    "head_dist": "a classifier of a distillation token",
    "reg_token": "register tokens",
    "q_norm": "qk-norm",
    "k_norm": "qk-norm",
    "fc_norm": "average pooling (fc_norm)",
    "norm_pre": "a norm before the blocks (CLIP)",
    "attn_pool": "attention pooling",
    "rope": "rotary positions",
    "rel_pos": "relative positions",
    "relative_position": "relative positions",
    "gamma_1": "BEiT's blocks",
    "q_bias": "BEiT's blocks",
    "w12": "a gated MLP (SwiGLU)",
    "fc1_g": "a gated MLP (SwiGLU)",
    "attn.norm": "a norm inside attention",
    "attn.gate": "gated attention",
    "mlp.norm": "a norm inside the MLP",
    "patch_embed.backbone": "a convolutional stem",
    "patch_embed.norm": "a norm inside the patch embedding",
}

_NEEDED = {
    "patch_embed.proj.weight": "a patch embedding",
    "patch_embed.proj.bias": "a bias in the patch embedding",
    "cls_token": "a class token",
    "pos_embed": "learned absolute positions",
    "blocks.0.attn.qkv.weight": "transformer blocks with packed qkv",
    "blocks.0.attn.qkv.bias": "a qkv bias",
    "blocks.0.mlp.fc1.bias": "an MLP",
    "norm.weight": "a final norm",
}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """An architecture without what shapes cannot determine: the head width and LayerNorm's epsilon."""

    width: int
    depth: int
    patch_size: int
    image_size: int
    channels: int
    num_classes: int
    hidden: int
    layer_scale: float | None

    def config(self, head_dim: int, layer_norm_eps: float = 1e-6) -> HydraConfig:
        """The complete architecture.

        Raises:
            BadInput: *head_dim* does not divide the width.
        """
        if head_dim < 1 or self.width % head_dim:
            raise BadInput(
                f"its width {self.width} is not a multiple of head_dim {head_dim}.", "Give the right `head_dim`."
            )
        return HydraConfig(
            heads=self.width // head_dim,
            head_dim=head_dim,
            depth=self.depth,
            patch_size=self.patch_size,
            image_size=self.image_size,
            channels=self.channels,
            num_classes=self.num_classes,
            mlp_ratio=self.hidden / self.width,
            layer_scale=self.layer_scale,
            layer_norm_eps=layer_norm_eps,
        )


def shape(state: Mapping[str, Tensor]) -> Shape:
    """The architecture that the shapes give.

    Raises:
        BadInput: a variant that is not supported, by its name.
    """
    check_variant(state)
    for name, feature in _NEEDED.items():
        if name not in state:
            raise BadInput(f"this model has no tensor {name}.", f"Only plain ViTs with {feature} are supported.")
    patch, positions = state["patch_embed.proj.weight"], state["pos_embed"]
    if patch.ndim != 4 or patch.shape[2] != patch.shape[3] or not patch.numel() or positions.ndim != 3:
        raise BadInput(
            f"patch embedding {list(patch.shape)} and positions {list(positions.shape)} are not a square ViT's.",
            "Only square patches and images are supported.",
        )
    num_patches = int(positions.shape[1]) - 1
    grid = math.isqrt(max(num_patches, 0))
    if grid * grid != num_patches or not grid:
        raise BadInput(
            f"{num_patches + 1} positions are not a square of patches and a class token.",
            "Positions without the class token, and images that are not square, are not supported.",
        )
    blocks = [int(match[1]) for name in state if (match := re.match(r"blocks\.(\d{1,4})\.", name))]
    head, hidden = state.get("head.weight"), state["blocks.0.mlp.fc1.bias"]
    if hidden.ndim != 1 or (head is not None and head.ndim != 2):
        raise BadInput("its MLP or its classifier is no Linear layer.", "Only plain ViTs are supported.")
    return Shape(
        width=int(patch.shape[0]),
        depth=max(blocks) + 1,
        patch_size=int(patch.shape[2]),
        image_size=grid * int(patch.shape[2]),
        channels=int(patch.shape[1]),
        num_classes=0 if head is None else int(head.shape[0]),
        hidden=hidden.shape[0],
        layer_scale=1e-5 if "blocks.0.ls1.gamma" in state else None,
    )


def check_variant(state: Mapping[str, Tensor]) -> None:
    """Refuses ViT variants that subnetworks do not support, naming the variant."""
    for name in state:
        for mark, variant in _REFUSED.items():
            if mark in name:
                raise BadInput(f"this ViT has {variant} ({name}).", ONLY)


def check_size(stated: tuple[int, int], side: int, who: str) -> None:
    """Refuses a stated image size that is not square or does not match *side*, which the positions determine."""
    height, width = stated
    if height != width:
        raise BadInput(
            f"{who} gives images of {height}x{width}, which are not square.",
            "Only square images are supported: positions, preprocessing and every graph are made for them.",
        )
    if height != side:
        raise BadInput(
            f"{who} gives images of {height}x{width}, the positions are those of {side}x{side}.",
            "Give the size that the model was trained with.",
        )
