"""What the shapes of a plain ViT's tensors say of its architecture: all but the width of its heads."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

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


def config(state: Mapping[str, Tensor], head_dim: int | None) -> HydraConfig:
    """The architecture that the shapes give, of one head where *head_dim* is None.

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
    width, num_patches = int(patch.shape[0]), int(positions.shape[1]) - 1
    grid = math.isqrt(max(num_patches, 0))
    if grid * grid != num_patches or not grid:
        raise BadInput(
            f"{num_patches + 1} positions are not a square of patches and a class token.",
            "Positions without the class token, and images that are not square, are not supported.",
        )
    head_dim = width if head_dim is None else head_dim
    if head_dim < 1 or width % head_dim:
        raise BadInput(f"its width {width} is not a multiple of head_dim {head_dim}.", "Give the right --head-dim.")
    blocks = [int(match[1]) for name in state if (match := re.match(r"blocks\.(\d{1,4})\.", name))]
    head, hidden = state.get("head.weight"), state["blocks.0.mlp.fc1.bias"]
    if hidden.ndim != 1 or (head is not None and head.ndim != 2):
        raise BadInput("its MLP or its classifier is no Linear layer.", "Only plain ViTs are supported.")
    return HydraConfig(
        heads=width // head_dim,
        head_dim=head_dim,
        depth=max(blocks) + 1,
        patch_size=int(patch.shape[2]),
        image_size=grid * int(patch.shape[2]),
        channels=int(patch.shape[1]),
        num_classes=0 if head is None else int(head.shape[0]),
        mlp_ratio=hidden.shape[0] / width,
        layer_scale=1e-5 if "blocks.0.ls1.gamma" in state else None,
    )


def check_variant(state: Mapping[str, Tensor]) -> None:
    """Refuses, by name, a ViT of whose kind no subnetwork is."""
    for name in state:
        for mark, variant in _REFUSED.items():
            if mark in name:
                raise BadInput(f"this ViT has {variant} ({name}).", ONLY)


def check_size(stated: tuple[int, int], config: HydraConfig, who: str) -> None:
    """Refuses an image size, height and width, that *who* states and that is no square or not that of the positions."""
    height, width = stated
    if height != width:
        raise BadInput(
            f"{who} gives images of {height}x{width}, which are not square.",
            "Only square images are supported: positions, preprocessing and every graph are made for them.",
        )
    if height != config.image_size:
        raise BadInput(
            f"{who} gives images of {height}x{width}, the positions are those of "
            f"{config.image_size}x{config.image_size}.",
            "Give the size that the model was trained with.",
        )
