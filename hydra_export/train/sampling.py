"""Which subnetworks a step trains: functions of (seed, step, rank), so that a resumed run and every process agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from hydra_export.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from hydra_export.train.config import TrainConfig

Sampler = Callable[[int], tuple[int, ...]]
"""The head counts that a step, counted from 0, trains: in ascending order, each once."""


def uniform(heads: Sequence[int], seed: int) -> Sampler:
    """One head count per step, all equally likely (HydraViT, section 3.2)."""
    return lambda step: (int(np.random.default_rng((seed, step)).choice(heads)),)


def weighted(heads: Sequence[int], seed: int, weights: Sequence[float]) -> Sampler:
    """One head count per step, as likely as its share of the *weights*, one positive number each."""
    shown = ",".join(f"{weight:g}" for weight in weights)
    if len(weights) != len(heads):
        raise BadInput(
            f"There are {len(weights)} sampling weights ({shown}) for {len(heads)} head counts.",
            f"Pass one for each of {','.join(map(str, heads))}.",
        )
    if not all(np.isfinite(weight) and weight > 0 for weight in weights):
        raise BadInput(f"The sampling weights are {shown}.", "Use positive numbers; their sum does not matter.")
    shares = np.asarray(weights, np.float64) / np.sum(weights, dtype=np.float64)
    return lambda step: (int(np.random.default_rng((seed, step)).choice(heads, p=shares)),)


def fixed(heads: Sequence[int]) -> Sampler:
    """All *heads* at every step; one alone is a plain ViT."""
    always = tuple(sorted(heads))
    return lambda step: always


def sandwich(heads: Sequence[int], seed: int, between: int) -> Sampler:
    """The smallest, the largest and *between* others at every step (slimmable networks, arXiv 1903.05134)."""
    smallest, *others, largest = sorted(heads) if len(heads) > 1 else [heads[0]] * 2

    def draw(step: int) -> tuple[int, ...]:
        draws = np.random.default_rng((seed, step)).choice(others, min(between, len(others)), replace=False)
        return tuple(sorted({smallest, largest, *map(int, draws)}))

    return draw


def _drawn_alone(config: TrainConfig) -> Sampler:
    if config.weights:
        return weighted(config.trained_heads, config.seed, config.weights)
    return uniform(config.trained_heads, config.seed)


PER_RANK = "per-rank"
_WITH_WEIGHTS = ("weighted", PER_RANK)
_STRATEGIES: dict[str, Callable[[TrainConfig], Sampler]] = {
    "fixed": lambda config: fixed(config.trained_heads),
    PER_RANK: _drawn_alone,
    "sandwich": lambda config: sandwich(config.trained_heads, config.seed, config.between),
    "uniform": lambda config: uniform(config.trained_heads, config.seed),
    "weighted": lambda config: weighted(config.trained_heads, config.seed, config.weights),
}


def names() -> tuple[str, ...]:
    """All strategies."""
    return tuple(_STRATEGIES)


def get(config: TrainConfig, rank: int = 0) -> Sampler:
    """What process *rank* trains by the strategy that *config* names, over its trained head counts.

    Only with ``per-rank`` do processes differ: each draws with the seed + its rank, as HydraViT's authors seed them
    (github.com/ds-kiel/HydraViT at 45a78ae, train.py).

    Raises:
        UnknownName: there is none of that name.
        BadInput: weights that do not match the head counts.
    """
    if config.sampling not in _STRATEGIES:
        raise UnknownName("sampling strategy", config.sampling, _STRATEGIES)
    if config.weights and config.sampling not in _WITH_WEIGHTS:
        raise BadInput(f"Sampling {config.sampling} takes no weights.", "Set sampling to weighted or per-rank.")
    if config.sampling == PER_RANK:
        config = msgspec.structs.replace(config, seed=config.seed + rank)
    return _STRATEGIES[config.sampling](config)


def of_all(config: TrainConfig, size: int) -> Sampler:
    """What the *size* processes of a run train together in a step; every process knows it without asking."""
    if config.sampling != PER_RANK:
        return get(config)
    draws = [get(config, rank) for rank in range(size)]
    return lambda step: tuple(sorted({k for draw in draws for k in draw(step)}))
