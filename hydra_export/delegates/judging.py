"""Operators of an artifact against a delegate's table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from hydra_export.delegates import CitedSource, Delegate, Verdict
from hydra_export.target import UsedOperator, UsedTensor

_USUAL_RANK = 4  # what GPUs and NPUs take
_LONG = {"int64", "uint64"}


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What a delegate does with one kind of operator of an artifact, by one rule.

    Attributes:
        places: what the operators are called there, in the order of the file.
    """

    operator: str
    verdict: Verdict
    why: str
    source: CitedSource
    places: tuple[str, ...]


class Noticed(msgspec.Struct, frozen=True, kw_only=True):
    """Something of an artifact that compilers stumble over, whatever their tables say."""

    what: str
    places: tuple[str, ...]


def judge(delegate: Delegate, target: str, operators: Sequence[UsedOperator]) -> tuple[Judged, ...] | None:
    """What *delegate* does with *operators* of an artifact of *target*; None where it takes no such artifacts."""
    if target not in delegate.takes:
        return None
    rules, places = delegate.takes[target], dict[tuple[str, int], list[str]]()
    for used in operators:
        number = next(index for index, rule in enumerate(rules) if rule.holds(used))
        places.setdefault((used.name, number), []).append(_place(used))
    return tuple(
        Judged(
            operator=name,
            verdict=rules[number].verdict,
            why=rules[number].why,
            source=delegate.sources[rules[number].source],
            places=tuple(each),
        )
        for (name, number), each in places.items()
    )


def notice(operators: Sequence[UsedOperator]) -> tuple[Noticed, ...]:
    """Where *operators* leave what is usual: float among integers, many axes, long integers, sizes of run time."""
    found = ((what, tuple(_place(used) for used in operators if test(used))) for what, test in _NOTICED.items())
    return tuple(Noticed(what=what, places=places) for what, places in found if places)


def _place(used: UsedOperator) -> str:
    where = f"{used.graph}: {used.place}" if used.graph else used.place
    return f"{used.name} ({where})"


def _computed(used: UsedOperator) -> Iterable[UsedTensor]:
    return (tensor for tensor in (*used.inputs, *used.outputs) if not tensor.constant)


_NOTICED: dict[str, Callable[[UsedOperator], bool]] = {
    "float islands: computed in float between integers": lambda used: used.is_island,
    f"tensors of more than {_USUAL_RANK} axes": lambda used: any(
        len(tensor.shape) > _USUAL_RANK for tensor in (*used.inputs, *used.outputs)
    ),
    "64-bit integers that are computed": lambda used: any(tensor.dtype in _LONG for tensor in _computed(used)),
    "sizes that are chosen at run time": lambda used: any(-1 in tensor.shape for tensor in _computed(used)),
    "branches": lambda used: used.name.upper() == "IF",
    "weights after the structure of the file": lambda used: any(tensor.behind for tensor in used.inputs),
}
