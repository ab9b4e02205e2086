"""Infers a ViT's architecture from the shapes of its tensors, in our form, and what more is known of it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hydra_export.architecture import HydraConfig
from hydra_export.errors import BadInput

ONLY = "hydra-export supports DeiT, DINOv2, DINOv3, CLIP, SigLIP, EVA-02 and similar ViTs."

# Variants of the ViT that no subnetwork of ours is, by the parameters that give them away.
_REFUSED = {
    "rel_pos": "relative positions",
    "relative_position": "relative positions",
    "patch_embed.backbone": "a convolutional stem",
    "patch_embed.norm": "a norm inside the patch embedding",
    "attn.gate": "gated attention",
    "rope.freqs": "rotary positions that are learned",
    "attn_pool.pos_embed": "attention pooling with positions",
    "attn_pool.q_norm": "attention pooling with qk-norm",
    ".in_proj.": "blocks whose attention and MLP are parallel",
    "attns.": "blocks with several attentions",
    "lambda_q1": "differential attention",
    "layers.0.blocks": "several stages (Swin)",
    "stages.0": "several stages",
}

_NEEDED = {
    "patch_embed.proj.weight": "a patch embedding",
    "blocks.0.attn.qkv.weight": "transformer blocks with attention (qkv)",
    "blocks.0.attn.qkv.bias": "a qkv bias",
    "blocks.0.norm1.weight": "norms before attention and MLP",
    "blocks.0.mlp.fc1.bias": "an MLP",
    "blocks.0.mlp.fc2.weight": "an MLP",
}


def config(state: Mapping[str, Tensor], head_dim: int, image_size: tuple[int, int] | None, **known: Any) -> HydraConfig:
    """The architecture of *state*, which is in our form; *known* is what shapes do not say.

    Raises:
        BadInput: a variant that is not supported, by its name, or shapes that do not fit.
    """
    check_variant(state)
    if any(name.endswith(".embeddings.patch_embeddings.projection.weight") for name in state):
        raise BadInput("its tensors have transformers' names.", "Pass the folder with its config.json.")
    for name, feature in _NEEDED.items():
        if name not in state:
            raise BadInput(f"this model has no tensor {name}.", f"Only ViTs with {feature} are supported.")
    patch, fc1, fc2 = (
        state[name] for name in ("patch_embed.proj.weight", "blocks.0.mlp.fc1.bias", "blocks.0.mlp.fc2.weight")
    )
    if patch.ndim != 4 or patch.shape[2] != patch.shape[3] or not patch.numel():
        raise BadInput(f"its patch embedding is {list(patch.shape)}.", "Only square patches are supported.")
    head = state.get("head.weight")
    if fc1.ndim != 1 or fc2.ndim != 2 or (head is not None and head.ndim != 2):
        raise BadInput("its MLP or classifier is not a Linear layer.", ONLY)
    if "head_dist.weight" in state and "dist_token" not in state:
        raise BadInput("it has a classifier for a distillation token (head_dist), but no such token.", ONLY)
    width = int(patch.shape[0])
    if head_dim < 1 or width % head_dim:
        raise BadInput(f"its width {width} is not a multiple of head_dim {head_dim}.", "Pass the correct `head_dim`.")
    prefix = {
        "class_token": "cls_token" in state,
        "distillation_token": "dist_token" in state,
        "register_tokens": _num_registers(state.get("reg_token")),
    }
    found = {
        **prefix,
        "num_classes": 0 if head is None else int(head.shape[0]),
        "pre_norm": "norm_pre.weight" in state,
        "norm": "layer_norm" if "blocks.0.norm1.bias" in state else "rms_norm",
        "final_norm": (
            "before_pooling" if "norm.weight" in state else "after_pooling" if "fc_norm.weight" in state else "none"
        ),
        "pooling": _pooling(state),
        "gated_mlp": is_gated(state),
        "qk_norm": "blocks.0.attn.q_norm.weight" in state,
        "attention_norm": "blocks.0.attn.norm.weight" in state,
        "mlp_norm": "blocks.0.mlp.norm.weight" in state,
        "layer_scale": 1e-5 if "blocks.0.ls1.gamma" in state else None,
    }
    patch_size, num_prefix = int(patch.shape[2]), sum(map(int, prefix.values()))
    positions, grid = _grid(state.get("pos_embed"), num_prefix, image_size, patch_size, known.get("rotary") is not None)
    height, width_ = (side * patch_size for side in grid)
    blocks = [int(match[1]) for name in state if (match := re.match(r"blocks\.(\d{1,4})\.", name))]
    return HydraConfig(
        heads=width // head_dim,
        head_dim=head_dim,
        depth=max(blocks) + 1,
        patch_size=patch_size,
        image_size=height if height == width_ else (height, width_),
        channels=int(patch.shape[1]),
        mlp_ratio=fc2.shape[1] / width,
        **{**found, "positions": positions, **known},
    )


def _num_registers(tokens: Tensor | None) -> int:
    if tokens is None:
        return 0
    if tokens.ndim != 3:
        raise BadInput(f"its register tokens are {list(tokens.shape)}.", ONLY)
    return int(tokens.shape[1])


def is_gated(state: Mapping[str, Tensor]) -> bool:
    """Whether an MLP's first Linear is twice as wide as its last one takes."""
    fc1, fc2 = (state.get(f"blocks.0.mlp.{name}.weight") for name in ("fc1", "fc2"))
    if fc1 is None or fc2 is None or not fc1.ndim == fc2.ndim == 2:
        return False
    return fc1.shape[0] == 2 * fc2.shape[1]


def _pooling(state: Mapping[str, Tensor]) -> str:
    if "attn_pool.latent" in state:
        return "attention"
    return "token" if "cls_token" in state and "fc_norm.weight" not in state else "avg"


def _grid(
    positions: Tensor | None, num_prefix: int, image_size: tuple[int, int] | None, patch_size: int, is_rotary: bool
) -> tuple[str, tuple[int, int]]:
    """Which tokens have learned positions, and the rows and columns of patches.

    Where nobody says how large images are, the patches are a square.
    """
    stated = None
    if image_size is not None:
        stated = (image_size[0] // patch_size, image_size[1] // patch_size)
    if positions is None:
        if stated is None or not is_rotary:
            raise BadInput(
                "this model has no tensor pos_embed, and nothing states what other positions it has.",
                "Pass its timm name as `architecture`.",
            )
        return "none", stated
    if positions.ndim != 3:
        raise BadInput(f"its positions are {list(positions.shape)}.", ONLY)
    count = int(positions.shape[1])
    for kind, num_patches in (("all", count - num_prefix), ("patches", count)):
        side = math.isqrt(max(num_patches, 0))
        grid = stated or (side, side)
        if side and math.prod(grid) == num_patches:
            return kind, grid
    if image_size is None:
        raise BadInput(
            f"{count} positions are not a square of patches, with or without {num_prefix} tokens before them.",
            "Pass the `image_size` that the model was trained with.",
        )
    raise BadInput(
        "images of {}x{} have {} patches, and the model has {} positions.".format(
            *image_size, math.prod(stated or ()), count
        ),
        "Pass the size that the model was trained with.",
    )


def check_size(stated: tuple[int, int], config: HydraConfig, who: str) -> None:
    """Refuses a stated image size that is not the one that the positions are of."""
    if stated != config.image_shape:
        raise BadInput(
            "{} states images of {}x{}, but the positions are for {}.".format(who, *stated, config.image_text),
            "Pass the size that the model was trained with.",
        )


def check_names(state: Mapping[str, Tensor]) -> None:
    """Refuses tensors without numbers, which no ViT has."""
    for name, tensor in state.items():
        if not tensor.ndim or not tensor.numel():
            raise BadInput(f"tensor {name} has shape {list(tensor.shape)}.", "Download it again, or save it again.")


def check_variant(state: Mapping[str, Tensor]) -> None:
    """Refuses ViT variants that subnetworks do not support, naming the variant."""
    for name in state:
        for mark, variant in _REFUSED.items():
            if mark in name:
                raise BadInput(f"this ViT has {variant} ({name}).", ONLY)
