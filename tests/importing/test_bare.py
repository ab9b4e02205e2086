"""The one number that the shapes of a plain ViT do not give."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import pytest
import timm
import torch
from timm.models import is_model_in_modules

from hydra_export.importing.bare import USUAL_HEAD_DIM, WIDTHS_OF_USUAL_HEADS


@pytest.mark.slow
def test_the_usual_widths_are_those_of_timms_vits() -> None:
    found: dict[int, Counter[int]] = defaultdict(Counter)
    for name in timm.list_models():
        if is_model_in_modules(name, ("vision_transformer", "deit")):
            with torch.device("meta"):
                module: Any = timm.create_model(name, depth=1)
            if attn := getattr(module.blocks[0], "attn", None):
                found[module.embed_dim][attn.head_dim] += 1
    usual = {width for width, heads in found.items() if 2 * heads[USUAL_HEAD_DIM] > heads.total()}
    assert usual == WIDTHS_OF_USUAL_HEADS
    assert {1152, 1280, 1408, 1536, 1664} <= found.keys() - usual
