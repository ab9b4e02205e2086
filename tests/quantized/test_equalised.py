"""Evening channels out changes no output, and helps where a few channels are much larger than others."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from hydra_export.checkpoint import Checkpoint
from hydra_export.quantized import ranges
from hydra_export.quantized.equalised import equalised
from hydra_export.quantized.folded import readers
from hydra_export.quantized.taps import Tapped
from tests.quantized.test_taps import images
from tests.variants import VARIANTS, checkpoint


@pytest.mark.parametrize(("listed", "smooth"), [((2, 4), False), ((2, 4), True), ((1, 2), True)])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_model_computes_the_same(name: str, listed: tuple[int, ...], smooth: bool) -> None:
    """Also at head counts that are not listed, whose channels no image shows."""
    source = checkpoint(VARIANTS[name])
    config, image_BCHW = source.info.config, images(VARIANTS[name], 12)
    even = dataclasses.replace(source, state=equalised(config, source.state, listed, image_BCHW, smooth))
    with torch.inference_mode():
        for heads in (1, 2, 4):
            expected, outputs = source.model(image_BCHW, heads), even.model(image_BCHW, heads)
            assert torch.allclose(outputs, expected, rtol=1e-4, atol=2e-5 * float(expected.abs().max())), heads


def test_without_smoothing_norms_that_linears_read_multiply_by_one() -> None:
    source = checkpoint(VARIANTS["plain"])
    state = equalised(source.info.config, source.state, (4,), images(source.info.config), smooth=False)
    for place in readers(source.info.config, 4):
        assert bool((state[f"{place.replace('/', '.')}.weight"] == 1).all())


def with_outliers(factor: float) -> Checkpoint:
    """A model of which a few channels of norms are *factor* times as large, and what reads them as much smaller."""
    source = checkpoint(VARIANTS["plain"])
    state = {name: tensor.clone() for name, tensor in source.state.items()}
    for block in range(source.info.config.depth):
        for norm, linear in (("norm1", "attn.qkv"), ("norm2", "mlp.fc1")):
            for kind in ("weight", "bias"):
                state[f"blocks.{block}.{norm}.{kind}"][::11] *= factor
            state[f"blocks.{block}.{linear}.weight"][:, ::11] /= factor
    return dataclasses.replace(source, state=state)


def error(source: Checkpoint, image_BCHW: Tensor) -> float:
    """Of 8 bits, as a share of the outputs' size."""
    config, weights = source.info.config, source.model.normalised_weights()
    grids = {
        name: each.grid() for name, each in ranges.calibrated(config, weights, 4, image_BCHW, "min-max").ranges.items()
    }
    with torch.inference_mode():
        exact = source.model(image_BCHW, 4)
        rounded = Tapped(config, weights, 4, lambda name, x: grids[name].rounded(x), composed=True).run(image_BCHW)
    return float((rounded - exact).square().mean().sqrt() / exact.square().mean().sqrt())


def test_outlier_channels_cost_less_once_they_are_evened_out() -> None:
    source = with_outliers(50.0)
    config, image_BCHW = source.info.config, images(source.info.config, 16)
    even = dataclasses.replace(source, state=equalised(config, source.state, (4,), image_BCHW))
    assert error(even, image_BCHW) < error(source, image_BCHW) / 3


def test_a_channel_that_a_norm_drops_stays_dropped() -> None:
    source = checkpoint(VARIANTS["plain"])
    state = {name: tensor.clone() for name, tensor in source.state.items()}
    state["blocks.0.norm1.weight"][3] = 0.0
    source = dataclasses.replace(source, state=state)
    config, image_BCHW = source.info.config, images(source.info.config)
    even = dataclasses.replace(source, state=equalised(config, source.state, (4,), image_BCHW))
    with torch.inference_mode():
        assert torch.allclose(even.model(image_BCHW, 4), source.model(image_BCHW, 4), rtol=1e-4, atol=1e-5)
