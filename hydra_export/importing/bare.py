"""A state dict without metadata: tensor shapes determine what they can; the rest is assumed and listed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hydra_export.architecture import Activation, HydraConfig
from hydra_export.errors import BadInput
from hydra_export.importing import canonical, shapes
from hydra_export.importing.canonical import Layout
from hydra_export.importing.imported_model import (
    ACTIVATION,
    EPSILON,
    HEAD_WIDTH,
    IMAGE_SIZE,
    NORMS,
    POOLING,
    POSITIONS,
    ROTARY,
    ImportedModel,
)
from hydra_export.preprocess import hydravit

# Widths whose heads are 64 channels wide in most models that timm 1.0.31 registers in vision_transformer.py and
# deit.py (tests/importing/test_bare.py counts them). Elsewhere they are not: 80 at 1280, 88 at 1408, 104 at 1664,
# 72 at 1152, 64, 96 or 128 at 1536, 128 at 2048, 32 at 64 and 96.
USUAL_HEAD_DIM = 64
WIDTHS_OF_USUAL_HEADS = frozenset({192, 256, 320, 384, 512, 640, 768, 832, 896, 1024})

_POOLINGS = {
    "token": "the class token",
    "avg": "the mean of the patches' tokens",
    "attention": "attention over the patches' tokens",
}
_ACTIVATIONS = {"gelu": "exact GELU", "silu": "SiLU"}

# The model that github.com/ds-kiel/HydraViT registers. Its heads are 64 wide, whatever its width.
_OFFICIAL = "hydravit_dyn_patch16_224"


def imported_model(state: dict[str, Tensor], head_dim: int | None, image_size: tuple[int, int] | None) -> ImportedModel:
    """The ViT in *state*, with every assumption that was necessary.

    Raises:
        BadInput: the variant is not supported, or the width does not determine the head width.
    """
    shapes.check_variant(state)
    state, assumed = canonical.converted(state, Layout()), []
    if head_dim is None:
        width = _width(state)
        if width and width not in WIDTHS_OF_USUAL_HEADS:
            raise BadInput(
                f"the checkpoint does not state its head width, and {USUAL_HEAD_DIM} is unusual at width {width}.",
                "Pass `head_dim`, its timm name as `architecture`, or its config.json.",
            )
        assumed.append(f"{HEAD_WIDTH}: {USUAL_HEAD_DIM} channels, as most of timm's ViTs of width {width} have")
    # A gated MLP is a SwiGLU in every ViT that timm registers.
    activation: Activation = "silu" if shapes.is_gated(state) else "gelu"
    config = shapes.config(state, USUAL_HEAD_DIM if head_dim is None else head_dim, image_size, activation=activation)
    assumed.append(f"{POOLING}: {_POOLINGS[config.pooling]}")
    assumed.append(f"{NORMS}: {_norms(config)}")
    if config.positions == "patches" and image_size is None:
        assumed.append(f"{POSITIONS}: only for the patches, as their number is a square")
    assumed.append(f"{ROTARY}: none")
    assumed += [f"{ACTIVATION}: {_ACTIVATIONS[activation]}", f"{EPSILON}: {config.layer_norm_eps:g}"]
    if image_size is None:
        assumed.append(f"{IMAGE_SIZE}: {config.image_text}, a square, as the number of positions allows")
    return ImportedModel(config=config, state=state, assumed=tuple(assumed))


def _norms(config: HydraConfig) -> str:
    kind = "RMSNorm, as they have no bias, " if config.norm == "rms_norm" else ""
    return f"{kind}before attention and MLP" + (", and none at the end" if config.final_norm == "none" else "")


def _width(state: Mapping[str, Tensor]) -> int:
    """0 where there is no patch embedding, which is refused later."""
    patch = state.get("patch_embed.proj.weight")
    return 0 if patch is None else int(patch.shape[0])


def is_official(arguments: Mapping[str, Any]) -> bool:
    """Whether the authors' trainer wrote the checkpoint that carries *arguments*."""
    return arguments.get("model") == _OFFICIAL


def official(state: dict[str, Tensor]) -> ImportedModel:
    """A checkpoint of the authors' trainer, whose code determines the computation and the preprocessing."""
    config = shapes.config(state, USUAL_HEAD_DIM, None)
    return ImportedModel(config=config, state=state, preprocessing=hydravit(config.image_size), universal=True)
