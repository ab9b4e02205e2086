"""Which subnetwork a step trains: each strategy is a function of (seed, step), so that a resumed run repeats it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hydra_export.errors import UnknownName

Sampler = Callable[[int], int]
"""The head count that a step, counted from 0, trains."""


def uniform(heads: Sequence[int], seed: int) -> Sampler:
    """One head count per step, all equally likely (HydraViT, section 3.2)."""

    def draw(step: int) -> int:
        return int(np.random.default_rng((seed, step)).choice(heads))

    return draw


_STRATEGIES: dict[str, Callable[[Sequence[int], int], Sampler]] = {"uniform": uniform}


def get(name: str, heads: Sequence[int], seed: int) -> Sampler:
    """The strategy called *name* over *heads*."""
    if name not in _STRATEGIES:
        raise UnknownName("sampling strategy", name, _STRATEGIES)
    return _STRATEGIES[name](heads, seed)
