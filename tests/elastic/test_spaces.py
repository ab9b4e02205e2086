"""Spaces: every axis of every parameter has its own, and what is changed in all of them changes nothing."""

from __future__ import annotations

import pytest
import torch

from hydra_export import network
from hydra_export.elastic import spaces
from tests.variants import VARIANTS, checkpoint


@pytest.mark.parametrize("name", VARIANTS)
def test_an_axis_has_a_space_where_it_grows(name: str) -> None:
    config = VARIANTS[name]
    table = spaces.spaces(config)
    for parameter, cut in network.cuts(config).items():
        assert [bool(space) for space in table[parameter]] == [bool(unit) for unit in cut.units], parameter


def test_the_axes_of_one_space_are_equally_long() -> None:
    for config in VARIANTS.values():
        shapes, cuts = network.shapes(config), network.cuts(config)
        lengths: dict[str, set[int]] = {}
        for parameter, of_axes in spaces.spaces(config).items():
            for axis, space in enumerate(of_axes):
                parts = cuts[parameter].stacked if axis == 0 else 1
                lengths.setdefault(space, set()).add(shapes[parameter][axis] // parts)
        assert all(len(found) == 1 for space, found in lengths.items() if space), lengths


def test_an_order_and_its_inverse_give_the_same_parameters() -> None:
    dense = checkpoint(VARIANTS["gated"])
    order = torch.randperm(dense.info.config.width(4), generator=torch.Generator().manual_seed(0))
    there = spaces.changed(dense.info.config, dense.state, {spaces.RESIDUAL: order})
    assert not torch.equal(there["blocks.0.mlp.fc2.weight"], dense.state["blocks.0.mlp.fc2.weight"])
    back = spaces.changed(dense.info.config, there, {spaces.RESIDUAL: order.argsort()})
    assert all(torch.equal(back[name], tensor) for name, tensor in dense.state.items())


def test_both_halves_of_a_gated_mlp_and_q_k_and_v_are_sorted_alike() -> None:
    dense = checkpoint(VARIANTS["gated"])
    config, hidden = dense.info.config, dense.info.config.hidden(4)
    order = torch.arange(hidden).flip(0)
    new = spaces.changed(config, dense.state, {"blocks.1.hidden": order})
    gate, fc1 = new["blocks.1.mlp.fc1.weight"].split(hidden)
    old_gate, old_fc1 = dense.state["blocks.1.mlp.fc1.weight"].split(hidden)
    assert torch.equal(gate, old_gate.flip(0))
    assert torch.equal(fc1, old_fc1.flip(0))
