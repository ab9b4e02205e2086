"""Slices, shells and both optimisers."""

from __future__ import annotations

import msgspec
import pytest
import torch

from hydra_export.architecture import HydraConfig
from hydra_export.errors import BadInput
from hydra_export.model import HydraViT
from hydra_export.train import optimizer, recipes
from hydra_export.train.config import TrainConfig
from hydra_export.train.loop import leaves
from tests.conftest import perturbed


def config(model: HydraConfig, **changes: object) -> TrainConfig:
    base = recipes.digits()
    data = msgspec.structs.replace(base.preprocessing, image_size=model.image_size, mean=(0.5,), std=(0.5,))
    small = {"model": model, "preprocessing": data, "trained_heads": (2, 4), "export_heads": (4,), "lr": 0.1}
    return msgspec.structs.replace(base, **(small | changes))


def gradients(model: HydraViT, heads: tuple[int, ...], value: float) -> dict[str, torch.Tensor]:
    active = leaves(dict(model.named_parameters()), model.cuts, heads)
    return {name: torch.full_like(leaf, value) for name, leaf in active.items()}


def stepped(config: TrainConfig, model: HydraViT, steps: list[tuple[tuple[int, ...], float]]) -> HydraViT:
    updates = optimizer.get(config, model)
    for heads, value in steps:
        updates.take(gradients(model, heads, value), heads)
        updates.optimizer.step()
        updates.give(heads)
    return model


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_leaves_are_the_weights_of_the_dense_subnetwork(tiny_model: HydraViT, k: int) -> None:
    dense = dict(tiny_model.subnetwork(k).named_parameters())
    found = leaves(dict(tiny_model.named_parameters()), tiny_model.cuts, (1, k))
    assert found.keys() == dense.keys()
    for name, leaf in found.items():
        assert leaf.shape == dense[name].shape, name
        assert torch.equal(leaf, dense[name]), name
        assert leaf.is_contiguous()


def test_leaves_have_the_classifiers_of_the_steps_heads_alone(scaled_model: HydraViT) -> None:
    found = leaves(dict(scaled_model.named_parameters()), scaled_model.cuts, (2,))
    assert {name for name in found if "head" in name} == {"head.k2.weight", "head.k2.bias"}


@pytest.mark.parametrize("fixture", ["tiny_model", "scaled_model"])
def test_shells_cover_every_weight_once(fixture: str, request: pytest.FixtureRequest) -> None:
    model: HydraViT = request.getfixturevalue(fixture)
    for name, parameter in model.named_parameters():
        cut, counted = model.cuts[name], torch.zeros_like(parameter)
        for low, high in ((0, 1), (1, 3), (3, 4)):
            for spans in cut.shell(low, high):
                cut.block(counted, spans).add_(1)
        assert (counted == 1).all(), name


def test_with_active_slices_what_a_step_did_not_use_stays_and_keeps_its_moments(tiny_config: HydraConfig) -> None:
    wanted = config(tiny_config, active_slices=True, weight_decay=0.5)
    both_then_small = stepped(wanted, perturbed(tiny_config), [((4,), 1.0), ((2,), 1.0), ((2,), -3.0)])
    both = stepped(wanted, perturbed(tiny_config), [((4,), 1.0)])
    weight, before = (m.get_parameter("blocks.0.attn.proj.weight") for m in (both_then_small, both))
    assert torch.equal(weight[16:], before[16:])
    assert torch.equal(weight[:16, 16:], before[:16, 16:])
    assert not torch.isclose(weight[:16, :16], before[:16, :16]).any()


def test_plain_steps_move_every_weight(tiny_config: HydraConfig) -> None:
    before = perturbed(tiny_config)
    after = stepped(config(tiny_config, weight_decay=0.5), perturbed(tiny_config), [((4,), 1.0), ((2,), 1.0)])
    once = stepped(config(tiny_config, weight_decay=0.5), perturbed(tiny_config), [((4,), 1.0)])
    weight = "blocks.0.attn.proj.weight"
    assert not torch.equal(before.state_dict()[weight][16:], once.state_dict()[weight][16:])
    assert not torch.equal(once.state_dict()[weight][16:], after.state_dict()[weight][16:])


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_where_every_step_uses_all_both_optimisers_are_one(tiny_config: HydraConfig, layer_decay: float) -> None:
    steps: list[tuple[tuple[int, ...], float]] = [((4,), 1.0), ((4,), -0.5), ((4,), 2.0)]
    made = [
        stepped(config(tiny_config, active_slices=active, layer_decay=layer_decay), perturbed(tiny_config), steps)
        for active in (False, True)
    ]
    plain, sliced = (model.state_dict() for model in made)
    for name in plain:
        torch.testing.assert_close(plain[name], sliced[name], rtol=0, atol=1e-6, msg=name)


def test_each_classifier_has_its_own_steps(scaled_config: HydraConfig) -> None:
    wanted = config(scaled_config, active_slices=True)
    before, after = perturbed(scaled_config), stepped(wanted, perturbed(scaled_config), [((2,), 1.0)])
    changed = {
        name
        for name, tensor in before.state_dict().items()
        if name.startswith("head") and not torch.equal(tensor, after.state_dict()[name])
    }
    assert changed == {"head.k2.weight", "head.k2.bias"}


def test_weights_that_are_loaded_are_taken_over(tiny_config: HydraConfig) -> None:
    model, other = perturbed(tiny_config), perturbed(tiny_config, seed=1)
    updates = optimizer.get(config(tiny_config, active_slices=True), model)
    model.load_state_dict(other.state_dict())
    updates.refresh()
    updates.give((4,))
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_optimisers_that_look_at_whole_parameters_take_no_slices(tiny_model: HydraViT) -> None:
    wanted = config(tiny_model.config, optimizer="lamb")
    assert type(optimizer.get(wanted, tiny_model).optimizer).__name__ == "Lamb"
    with pytest.raises(BadInput, match="lamb needs whole parameters"):
        optimizer.get(msgspec.structs.replace(wanted, active_slices=True), tiny_model)
    with pytest.raises(BadInput, match="adamx cannot be made"):
        optimizer.get(msgspec.structs.replace(wanted, optimizer="adamx"), tiny_model)


def test_slices_that_few_steps_use_learn_by_the_root_faster(tiny_config: HydraConfig) -> None:
    wanted = config(tiny_config, active_slices=True, sampling="weighted", weights=(3.0, 1.0))
    model = perturbed(tiny_config)
    sizes = {1.0: 0, 2.0: 0}  # every step uses the inner slices, one of four the outer ones
    for group in optimizer.get(wanted, model).optimizer.param_groups:
        assert group["lr_scale"] == pytest.approx(round(group["lr_scale"]), abs=0.1)
        sizes[round(group["lr_scale"])] += sum(vector.numel() for vector in group["params"])
    inner = sum(parameter.numel() for parameter in model.subnetwork(2).parameters())
    assert sizes == {1.0: inner, 2.0: sum(map(torch.numel, model.parameters())) - inner}


def test_where_processes_draw_apart_a_slice_is_used_if_any_of_them_uses_it(tiny_config: HydraConfig) -> None:
    wanted = config(tiny_config, active_slices=True, sampling="per-rank")
    for num_processes in (1, 2):  # the outer slices are used unless all draw the smaller head count
        groups = optimizer.get(wanted, perturbed(tiny_config), num_processes).optimizer.param_groups
        largest = max(group["lr_scale"] for group in groups)
        assert largest == pytest.approx((1 - 0.5**num_processes) ** -0.5, rel=0.02)
