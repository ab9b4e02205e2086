"""Which head counts a step trains."""

from __future__ import annotations

import collections

import msgspec
import pytest

from hydra_export.errors import BadInput, UnknownName
from hydra_export.train import recipes, sampling
from hydra_export.train.config import TrainConfig
from hydra_export.train.sampling import fixed, sandwich, uniform, weighted


@pytest.mark.parametrize(
    "draw", [uniform((3, 6, 12), 5), weighted((3, 6, 12), 5, (1, 2, 1)), sandwich((1, 4, 5), 5, 1)]
)
def test_a_step_draws_the_same_whenever_and_wherever_it_is_asked(draw: sampling.Sampler) -> None:
    forwards = [draw(step) for step in range(50)]
    assert [draw(step) for step in reversed(range(50))] == forwards[::-1]
    assert len(set(forwards)) > 1 or len(forwards[0]) == 3


def test_uniform_draws_one_head_count_all_equally_often() -> None:
    draw = uniform((3, 6, 12), seed=5)
    counts = collections.Counter(draw(step) for step in range(3000))
    assert set(counts) == {(3,), (6,), (12,)}
    assert all(900 < count < 1100 for count in counts.values())
    assert [uniform((3, 6, 12), seed=6)(step) for step in range(50)] != [draw(step) for step in range(50)]


def test_weighted_draws_by_share_whatever_the_weights_add_up_to() -> None:
    for factor in (1, 0.01, 250):
        draw = weighted((3, 6, 12), 5, [weight * factor for weight in (1, 1, 2)])
        counts = collections.Counter(draw(step) for step in range(2000))
        assert 430 < counts[(3,)] < 570
        assert 430 < counts[(6,)] < 570
        assert 930 < counts[(12,)] < 1070


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1, 1), "2 sampling weights"),
        ((1, 0, 1), "positive"),
        ((1, -2, 1), "positive"),
        ((1, float("nan"), 1), "positive"),
    ],
)
def test_weights_that_do_not_match_the_heads_are_refused(weights: tuple[float, ...], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        weighted((3, 6, 12), 0, weights)


def test_fixed_trains_all_its_head_counts_at_every_step() -> None:
    assert [fixed((12, 3))(step) for step in range(3)] == [(3, 12)] * 3
    assert fixed((6,))(9) == (6,)


def test_sandwich_trains_smallest_largest_and_some_between() -> None:
    draw = sandwich((1, 2, 3, 4, 5), 0, between=2)
    drawn = [draw(step) for step in range(100)]
    assert all(ks[0] == 1 and ks[-1] == 5 and len(ks) == 4 == len(set(ks)) for ks in drawn)
    assert {k for ks in drawn for k in ks} == {1, 2, 3, 4, 5}
    assert sandwich((2, 6), 0, between=3)(0) == (2, 6)
    assert sandwich((6,), 0, between=1)(0) == (6,)


def test_strategies_are_found_by_name_and_take_what_they_need_from_the_configuration() -> None:
    base = recipes.digits()
    assert sampling.names() == ("fixed", "per-rank", "sandwich", "uniform", "weighted")
    for name in sampling.names():
        weights = (1.0,) * 6 if name == "weighted" else ()
        drawn = sampling.get(msgspec.structs.replace(base, sampling=name, weights=weights))(0)
        assert set(drawn) <= set(base.trained_heads)
    with pytest.raises(UnknownName, match=r"strategy 'unifrom'.*'uniform'"):  # codespell:ignore
        sampling.get(msgspec.structs.replace(base, sampling="unifrom"))  # codespell:ignore
    with pytest.raises(BadInput, match="takes no weights"):
        sampling.get(msgspec.structs.replace(base, weights=(1.0,) * 6))


def per_rank(**changes: object) -> TrainConfig:
    return msgspec.structs.replace(recipes.digits(), sampling="per-rank", seed=5, **changes)


def test_per_rank_draws_apart_on_each_process_and_one_alone_is_uniform() -> None:
    config = per_rank()
    alone, first, second = sampling.get(config), sampling.get(config, 0), sampling.get(config, 1)
    drawn = [[draw(step) for step in range(50)] for draw in (alone, first, second)]
    assert drawn[0] == drawn[1] == [uniform(config.trained_heads, 5)(step) for step in range(50)]
    assert drawn[1] != drawn[2] == [uniform(config.trained_heads, 6)(step) for step in range(50)]
    same = msgspec.structs.replace(config, sampling="uniform")
    assert [sampling.get(same, 1)(step) for step in range(50)] == drawn[0]


def test_what_all_processes_draw_is_known_to_each() -> None:
    config = per_rank()
    together, ranks = sampling.of_all(config, 3), [sampling.get(config, rank) for rank in range(3)]
    for step in range(50):
        assert together(step) == tuple(sorted({k for draw in ranks for k in draw(step)}))
    same = msgspec.structs.replace(config, sampling="uniform")
    assert all(len(sampling.of_all(same, 3)(step)) == 1 for step in range(50))


def test_per_rank_takes_weights() -> None:
    draw = sampling.get(per_rank(weights=(1.0, 1e-9, 1e-9, 1e-9, 1e-9, 1.0)), 7)
    assert {draw(step) for step in range(50)} == {(1,), (6,)}
    with pytest.raises(BadInput, match="2 sampling weights"):
        sampling.get(per_rank(weights=(1.0, 1.0)))
