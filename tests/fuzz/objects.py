"""Changes trees of Python objects, such as the classes that flatc makes of a schema."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.fuzz import trees
from tests.fuzz.reader import Random

_MOST_LISTED = 50  # of the items of a list


def mutate(random: Random, root: Any) -> None:
    """Changes an attribute or an item, or a few."""
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        _change(random, *random.choice(_places(root)))


def _places(root: Any) -> list[tuple[Any, Any]]:
    """Every object or list with a name or index of what is in it."""
    everywhere: list[tuple[Any, Any]] = []
    waiting = [root]
    while waiting:
        inside = waiting.pop()
        keys: Any = range(min(len(inside), _MOST_LISTED)) if isinstance(inside, list) else vars(inside)
        for key in keys:
            value = inside[key] if isinstance(inside, list) else getattr(inside, key)
            everywhere.append((inside, key))
            if isinstance(value, list) or hasattr(value, "__dict__"):
                waiting.append(value)
    return everywhere


def _change(random: Random, inside: Any, key: Any) -> None:
    new = _changed(random, inside[key] if isinstance(inside, list) else getattr(inside, key))
    if isinstance(inside, list):
        inside[key] = new
    else:
        setattr(inside, key, new)


def _changed(random: Random, old: Any) -> Any:
    if isinstance(old, bool):
        return not old
    if isinstance(old, int):
        return random.choice([old + 1, old - 1, -old, old * 2, *trees.NUMBERS])
    if isinstance(old, float):
        return random.choice([-old, old * 2, *trees.FLOATS])
    if isinstance(old, bytes):
        texts = [text.encode() for text in trees.TEXTS]
        return random.choice([old[1:], old + old, old + b"\0", b"\xff\xfe", *texts])
    if isinstance(old, np.ndarray):
        return _array(random, old)
    if isinstance(old, list):
        shuffled = random.sample(old, len(old))
        return random.choice([shuffled, old[1:], old[:1], old + old[:1], old + old, [], (old * 1000)[:5000], None])
    return random.choice([None, old, 0, b"x"]) if old is not None else random.choice([0, b"x", []])


def _array(random: Random, old: Any) -> Any:
    if not old.size:
        return np.zeros(random.choice((1, 4, 100)), old.dtype)
    choice, new = random.random(), old.copy()
    if choice < 0.6:
        limits = np.iinfo(old.dtype)
        number = random.choice([int(old[0]) + 1, int(old[-1]) - 1, *trees.NUMBERS])
        new[random.randrange(len(new))] = min(max(number, int(limits.min)), int(limits.max))
        return new
    return random.choice([old[1:], old[:-1], old[::-1].copy(), np.concatenate([old, old]), old[:0], None])
