"""The ViTs that timm registers, and what their families are called."""

from __future__ import annotations

import re

import timm
import torch
from torch import nn

_FAMILIES = {  # the first whose pattern is found
    "DeiT, distilled": r"^deit_.*distilled",
    "DeiT": r"^deit_",
    "DeiT III": r"^deit3_",
    "DINOv2, TIPS": r"dinov2|tipsv2",
    "DINOv3, LingBot": r"dinov3|lingbot",
    "SigLIP": r"siglip(?!_gap)",
    "SigLIP, average": r"siglip_gap",
    "EVA-02": r"^eva02_",
    "EVA": r"^eva_",
    "BEiT-3": r"^beit3_",
    "CLIP, OpenCLIP": r"_clip_",
    "rotary, learned": r"rope_mixed",
    "rotary": r"_rope_",
    "Perception Encoder": r"vit_pe_",
    "RADIO": r"_radio_",
    "Sapiens 2": r"sapiens",
    "relative positions": r"relpos",
    "hybrids": r"_r\d*_s\d+_|_resnet|_mci_",
    "parallel or several attentions": r"_xp_|18x2|_pwee_|rpn|_d(little|pwee|wee)_",
    "registers, average": r"_reg\d",
    "average": r"_gap_",
    "FlexiViT": r"^flexivit",
    "plain": r"",
}


def names() -> list[str]:
    """All that are ViTs by their names, Swin and such left out."""
    return [name for name in timm.list_models() if re.match(r"vit_|deit|eva|beit3|flexivit", name)]


def shell(name: str) -> nn.Module:
    """timm's module without weights, of two blocks where it is built with so few."""
    with torch.device("meta"):
        try:
            return timm.create_model(name, depth=2)
        except AssertionError:
            return timm.create_model(name)


def family(name: str) -> str:
    """Of one of *names*."""
    return next(family for family, pattern in _FAMILIES.items() if re.search(pattern, name))
