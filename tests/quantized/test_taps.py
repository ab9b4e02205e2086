"""The network with a tap at every tensor computes what the model does, and each tap has a name of its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hydra_export.architecture import HydraConfig
from hydra_export.quantized.taps import Tapped
from tests.variants import VARIANTS, checkpoint


def images(config: HydraConfig, count: int = 3) -> Tensor:
    return torch.randn(count, config.channels, *config.image_shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("form", ["whole", "composed", "cut"])
@pytest.mark.parametrize("name", VARIANTS)
def test_taps_that_look_change_nothing(name: str, form: str) -> None:
    source, seen = checkpoint(VARIANTS[name]), list[str]()
    weights, image_BCHW = source.model.normalised_weights(), images(VARIANTS[name])

    def look(tap: str, x: Tensor) -> Tensor:
        seen.append(tap)
        return x

    for heads in (2, 4):
        seen.clear()
        cuts = [k for k in (2, 4) if k <= heads] if form == "cut" else []
        tapped = Tapped(source.info.config, weights, heads, look, composed=form == "composed", cuts=cuts)
        with torch.inference_mode():
            outputs, expected = tapped.run(image_BCHW), source.model(image_BCHW, heads)
        assert torch.allclose(outputs, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
        constants = [tap for tap in seen if tap.startswith("rope.")]  # which each block takes
        assert len(seen) - len(constants) == len(set(seen) - set(constants))


def test_what_a_tap_returns_is_what_the_network_goes_on_with() -> None:
    source = checkpoint(VARIANTS["plain"])
    image_BCHW, weights = images(source.info.config), source.model.normalised_weights()
    with torch.inference_mode():
        exact = Tapped(source.info.config, weights, 4, lambda _name, x: x).run(image_BCHW)
        for place in ("blocks.0/attn/shares", "blocks.1/mlp/act", "blocks.0/norm1/rsqrt", "embed", "tokens"):

            def without(name: str, x: Tensor, place: str = place) -> Tensor:
                return torch.zeros_like(x) if name == place else x

            changed = Tapped(source.info.config, weights, 4, without).run(image_BCHW)
            assert not torch.allclose(changed, exact, rtol=1e-3), place
