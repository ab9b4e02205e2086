"""Re-basing: the function is kept for every variant, narrower subnetworks get the most important parts."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from hydra_export.architecture import HydraConfig
from hydra_export.elastic import rebasing
from hydra_export.elastic.observation import Batch, observe
from hydra_export.elastic.rebasing import How, rebased
from hydra_export.errors import BadInput, CheckFailed
from hydra_export.model import HydraViT
from tests.conftest import perturbed
from tests.variants import VARIANTS, checkpoint

POOLED = {name: config for name, config in VARIANTS.items() if config.pooling != "none"}


def images(config: HydraConfig, count: int = 12) -> Tensor:
    return torch.randn(count, config.channels, *config.image_shape, generator=torch.Generator().manual_seed(0))


def shown(config: HydraConfig, dtype: torch.dtype = torch.float32) -> list[Batch]:
    """Two batches, one of them with labels where there can be any."""
    first, second = images(config).to(dtype).split(8)
    labels = torch.arange(8) % config.num_classes if config.num_classes else None
    return [(first, labels), (second, None)]


def model_of(result: rebasing.Rebased, dtype: torch.dtype = torch.float32) -> HydraViT:
    model = HydraViT(result.config).to(dtype).eval()
    model.load_state_dict(result.state)
    return model


@pytest.mark.parametrize("how", ["rotate", "sort"])
@pytest.mark.parametrize("name", POOLED)
def test_the_full_width_computes_the_same(name: str, how: How) -> None:
    for dtype, bound in ((torch.float32, 5e-6), (torch.float64, 1e-13)):
        dense = checkpoint(POOLED[name]).model.to(dtype).eval()
        result = rebased(dense, shown(dense.config, dtype), how)
        x = images(dense.config, 4).to(dtype)
        with torch.no_grad():
            before, after = dense(x), model_of(result, dtype)(x)
        assert before.shape == after.shape
        assert ((after - before).abs().max() / before.abs().max()).item() <= bound
        assert result.error <= bound


@pytest.mark.parametrize("name", POOLED)
def test_what_cannot_be_rotated_is_sorted_and_says_so(name: str) -> None:
    dense = checkpoint(POOLED[name]).model.eval()
    result = rebased(dense, shown(dense.config))
    cannot = dense.config.pre_norm or dense.config.pooling in ("max", "avgmax")
    assert bool(result.notes) == cannot
    assert not cannot or "are sorted, not rotated" in result.notes[0]
    assert not rebased(dense, shown(dense.config), "sort").notes


def test_the_first_channels_hold_most_of_the_variance(tiny_model: HydraViT) -> None:
    before, after = rebased(tiny_model, shown(tiny_model.config)).energy
    assert all(after[k] > before[k] for k in (1, 2, 3))
    assert before[4] == pytest.approx(1) == after[4]


def test_every_subnetwork_of_a_backbone_gives_features_of_one_length() -> None:
    dense = checkpoint(VARIANTS["rotary"]).model.eval()
    assert not dense.config.num_outputs
    model, x = model_of(rebased(dense, shown(dense.config))), images(dense.config, 3)
    assert {model(x, k).shape for k in range(1, 5)} == {(3, 32)}


def test_heads_and_hidden_units_are_sorted_by_what_they_matter() -> None:
    dense = checkpoint(VARIANTS["plain"]).model.eval()
    with torch.no_grad():  # head 2 and hidden unit 5 of the first block matter most, whatever the others do
        block: Any = dense.blocks[0]
        block.attn.proj.weight.mul_(0.01)
        block.attn.proj.weight[:, 16:24].mul_(1e4)
        block.mlp.fc2.weight.mul_(0.01)
        block.mlp.fc2.weight[:, 5].mul_(1e4)
    seen = observe(dense, shown(dense.config))
    found = rebasing.bases(dense.config, dense.state_dict(), seen, "sort")
    assert found["blocks.0.heads"][:8].tolist() == list(range(16, 24))
    assert found["blocks.0.hidden"][0] == 5


def test_batches_do_not_change_what_is_seen(tiny_model: HydraViT) -> None:
    x = images(tiny_model.config)
    at_once, apart = observe(tiny_model, [(x, None)]), observe(tiny_model, [(part, None) for part in x.split(5)])
    assert at_once.num_images == apart.num_images == 12
    for space, covariance in at_once.covariances.items():
        torch.testing.assert_close(covariance, apart.covariances[space], rtol=1e-5, atol=1e-6)


def test_observing_leaves_the_model_alone(tiny_model: HydraViT) -> None:
    before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    observe(tiny_model, shown(tiny_model.config))
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny_model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in tiny_model.parameters())


def test_a_basis_that_changes_the_function_is_refused(tiny_model: HydraViT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebasing, "principal", lambda covariance, keeps_mean: torch.eye(len(covariance)).double() * 1.1)
    with pytest.raises(CheckFailed, match="the outputs of the full width differ by"):
        rebased(tiny_model, shown(tiny_model.config))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"separate_classifiers": (2, 4)}, "separate classifiers for heads 2,4"), ({"pooling": "none"}, "patch tokens")],
)
def test_what_has_no_full_width_of_its_own_is_refused(
    tiny_config: HydraConfig, changes: dict[str, object], message: str
) -> None:
    classes = {"num_classes": 0} if "pooling" in changes else {}
    model = perturbed(msgspec.structs.replace(tiny_config, **changes, **classes))
    with pytest.raises(BadInput, match=message):
        rebased(model, shown(model.config))


def test_no_images_are_refused(tiny_model: HydraViT) -> None:
    with pytest.raises(BadInput, match="no images"):
        rebased(tiny_model, [])


def test_labels_change_what_matters_and_channels_are_sorted_by_it(tiny_model: HydraViT) -> None:
    x, labels = images(tiny_model.config), torch.arange(12) % 7
    with_labels, without = observe(tiny_model, [(x, labels)]), observe(tiny_model, [(x, None)])
    assert not torch.allclose(with_labels.importances["residual"], without.importances["residual"])
    order = rebasing.bases(tiny_model.config, tiny_model.state_dict(), with_labels, "sort")["residual"]
    in_order = with_labels.importances["residual"][order]
    assert torch.equal(in_order, in_order.sort(descending=True).values)
