"""What 8 bits of each tensor cost is known, so that 16 bits can go to any of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hydra_export.quantized import ranges
from hydra_export.quantized.taps import Tapped
from tests.quantized.test_taps import images
from tests.variants import VARIANTS, checkpoint


@pytest.mark.parametrize("name", ["plain", "attention pooling", "gated"])
def test_every_tensor_has_an_error_also_those_whose_range_the_operation_fixes(name: str) -> None:
    source = checkpoint(VARIANTS[name])
    config, weights, image_BCHW = source.info.config, source.model.normalised_weights(), images(VARIANTS[name], 8)
    names: set[str] = set()

    def look(name: str, x: Tensor) -> Tensor:
        names.add(name)
        return x

    with torch.inference_mode():
        Tapped(config, weights, 4, look).run(image_BCHW)
    found = ranges.calibrated(config, weights, 4, image_BCHW)
    assert set(found.ranges) == set(found.errors) == names
    fixed = {name for name, each in found.ranges.items() if each.method == "fixed"}
    assert {f"blocks.{block}/attn/shares" for block in range(config.depth)} <= fixed
    assert all(found.errors[name] > 0 for name in fixed)
