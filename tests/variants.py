"""Small models of every choice that a configuration has, alone and as known families combine them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import torch

from hydra_export import checkpoint as checkpoints
from hydra_export.architecture import HydraConfig, Rotary
from hydra_export.checkpoint import Checkpoint
from hydra_export.checkpoint_file import CheckpointInfo
from hydra_export.model import HydraViT
from hydra_export.preprocess import Preprocessing

T = TypeVar("T")

_CHOICES: dict[str, dict[str, Any]] = {
    "plain": {},
    "registers": {"register_tokens": 2, "positions": "patches", "layer_scale": 1e-5},  # DINOv2 with registers, DeiT III
    "distilled": {"distillation_token": True},
    "class token and average": {"pooling": "token_avg", "register_tokens": 1},  # DINOv2's classifier in transformers
    "distilled features": {"distillation_token": True, "num_classes": 0},
    "projection": {"pre_norm": True, "num_classes": 0, "projection": 7},  # CLIP
    "distilled projection": {"distillation_token": True, "num_classes": 0, "projection": 7},
    "pre-norm": {"pre_norm": True, "activation": "quick_gelu", "layer_norm_eps": 1e-5},  # CLIP
    "average": {"class_token": False, "pooling": "avg"},
    "average, norm after": {
        "class_token": False,
        "register_tokens": 1,
        "pooling": "avg",
        "final_norm": "after_pooling",
        "positions": "patches",
    },
    "average of all, no norm": {"pooling": "avg", "pool_prefix": True, "final_norm": "none"},
    "maximum": {"pooling": "max"},
    "average and maximum": {"pooling": "avgmax", "register_tokens": 1},
    "attention pooling": {"class_token": False, "pooling": "attention", "activation": "gelu_tanh"},  # SigLIP
    "attention pooling of all": {"register_tokens": 3, "pooling": "attention", "pool_prefix": True, "num_classes": 0},
    "gated": {"gated_mlp": True, "activation": "silu"},
    "gated, norm, uneven": {"gated_mlp": True, "activation": "silu", "mlp_ratio": 86 / 32, "mlp_norm": True},  # EVA-02
    "inner norms": {"qk_norm": True, "attention_norm": True},
    "RMSNorm": {"norm": "rms_norm", "qk_norm": True, "mlp_norm": True, "activation": "relu"},
    "rotary": {  # DINOv3
        "positions": "none",
        "rotary": Rotary(grid="centered", temperature=100.0),
        "register_tokens": 4,
        "layer_scale": 1e-5,
        "num_classes": 0,
    },
    "rotary, average": {
        "rotary": Rotary(reference=(3, 3)),
        "pooling": "avg",
        "final_norm": "after_pooling",
        "gated_mlp": True,
        "activation": "silu",
    },
    "patch tokens": {"pooling": "none", "num_classes": 0, "register_tokens": 1},
    "images wider than high, within patches": {"image_size": (18, 31)},  # SigLIP's 384 pixels in patches of 14
    "no positions": {"positions": "none", "class_token": False, "pooling": "avg"},
}
VARIANTS = {
    name: HydraConfig(
        **{"heads": 4, "head_dim": 8, "depth": 2, "patch_size": 4, "image_size": 16, "num_classes": 7} | v
    )
    for name, v in _CHOICES.items()
}


def turns(forms: Iterable[T], number: int, every: int) -> list[T]:
    """Each *every*-th of *forms*, from that of *number* on: over as many variants all forms are seen."""
    return list(forms)[number % every :: every]


def checkpoint(config: HydraConfig) -> Checkpoint:
    """A model of it whose parameters are random numbers, large enough that each of them matters."""
    torch.manual_seed(0)
    model = HydraViT(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_gain = (name.endswith("weight") and parameter.ndim == 1) or name.endswith("gamma")
            parameter.normal_(1.0 if is_gain else 0.0, 0.2)
    size = config.image_size
    pixels = Preprocessing(image_size=size, mean=(0.5,) * config.channels, std=(0.25,) * config.channels, crop=1.0)
    model.info = CheckpointInfo(name="variant", config=config, preprocessing=pixels)
    return checkpoints.load(model)
