"""A state dict without metadata: tensor shapes determine what they can; the rest is assumed and listed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hydra_export.errors import BadInput
from hydra_export.importing import shapes
from hydra_export.importing.imported_model import ACTIVATION, EPSILON, HEAD_WIDTH, IMAGE_SIZE, POOLING, ImportedModel
from hydra_export.preprocess import hydravit

# Widths whose heads are 64 channels wide in most models that timm 1.0.31 registers in vision_transformer.py and
# deit.py (tests/importing/test_bare.py counts them). Elsewhere they are not: 80 at 1280, 88 at 1408, 104 at 1664,
# 72 at 1152, 64, 96 or 128 at 1536, 128 at 2048, 32 at 64 and 96.
USUAL_HEAD_DIM = 64
WIDTHS_OF_USUAL_HEADS = frozenset({192, 256, 320, 384, 512, 640, 768, 832, 896, 1024})

# The model that github.com/ds-kiel/HydraViT registers. Its heads are 64 wide, whatever its width.
_OFFICIAL = "hydravit_dyn_patch16_224"


def imported_model(state: dict[str, Tensor], head_dim: int | None, image_size: tuple[int, int] | None) -> ImportedModel:
    """The ViT in *state*, with every assumption that was necessary.

    Raises:
        BadInput: the variant is not supported, or the width does not determine the head width.
    """
    shape, assumed = shapes.shape(state), []
    if head_dim is None:
        width = shape.width
        if width not in WIDTHS_OF_USUAL_HEADS:
            raise BadInput(
                f"the checkpoint does not state its head width, and {USUAL_HEAD_DIM} is unusual at width {width}.",
                "Give `head_dim`, its timm name as `architecture`, or its config.json.",
            )
        assumed.append(f"{HEAD_WIDTH}: {USUAL_HEAD_DIM} channels, as most of timm's ViTs of width {width} have")
    config = shape.config(USUAL_HEAD_DIM if head_dim is None else head_dim)
    assumed += [
        f"{POOLING}: the class token",
        f"{ACTIVATION}: exact GELU",
        f"{EPSILON}: {config.layer_norm_eps:g}",
    ]
    if image_size is None:
        side = config.image_size
        assumed.append(f"{IMAGE_SIZE}: {side}x{side}, a square, as the number of positions allows")
    return ImportedModel(config=config, state=state, assumed=tuple(assumed))


def is_official(arguments: Mapping[str, Any]) -> bool:
    """Whether the authors' trainer wrote the checkpoint that carries *arguments*."""
    return arguments.get("model") == _OFFICIAL


def official(state: dict[str, Tensor]) -> ImportedModel:
    """A checkpoint of the authors' trainer, whose code determines the computation and the preprocessing."""
    config = shapes.shape(state).config(USUAL_HEAD_DIM)
    return ImportedModel(config=config, state=state, preprocessing=hydravit(config.image_size), universal=True)
