"""What compilers and delegates take, as their makers' tables and sources say: one TOML for each, data only."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

import msgspec

from hydra_export import documents, files
from hydra_export.errors import BadInput, UnknownName, Unreadable
from hydra_export.target import UsedOperator, UsedTensor

Verdict = Literal["taken", "falls back", "refused", "unknown"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


class CitedSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a maker says it, in which version or at which date."""

    text: str
    version: str
    url: str


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One row of a table. It speaks of an operator where all that it says of it holds.

    What is computed are the inputs and outputs that are not in the file; the outputs where everything is.

    Attributes:
        why: for a person; may be left out where the table lists the operator and that is all.
        operators: the names that it is for; empty for any.
        outside: a type of what is computed is none of these.
        touching: a type of what is computed is one of these.
        weights: a type of what is in the file is one of these.
        inputs: the types of its inputs are these, one after the other.
        above_rank: something has more axes.
        inner: an axis has several entries that is not one of so many innermost.
        dynamic: a size is chosen at run time.
        behind: a weight lies behind the structure that describes it.
        above_version: of the operator, or of the set which it is of.
    """

    verdict: Verdict
    source: str
    why: str = ""
    operators: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    touching: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    above_rank: int | None = None
    inner: int | None = None
    dynamic: bool = False
    behind: bool = False
    above_version: int | None = None

    @property
    def is_for_all(self) -> bool:
        """It speaks of every operator."""
        return self == Rule(verdict=self.verdict, source=self.source, why=self.why)

    def holds(self, used: UsedOperator) -> bool:
        """Whether it speaks of *used*."""
        tensors = (*used.inputs, *used.outputs)
        stored = {tensor.dtype for tensor in tensors if tensor.constant}
        computed = {tensor.dtype for tensor in tensors if not tensor.constant and tensor.dtype}
        computed = computed or {tensor.dtype for tensor in used.outputs}
        return (
            (not self.operators or used.name in self.operators)
            and (not self.outside or not computed <= {*self.outside})
            and (not self.touching or bool(computed & {*self.touching}))
            and (not self.weights or bool(stored & {*self.weights}))
            and (not self.inputs or self.inputs == tuple(tensor.dtype for tensor in used.inputs))
            and (self.above_rank is None or max(len(tensor.shape) for tensor in tensors) > self.above_rank)
            and (self.inner is None or any(_reaches_out(tensor, self.inner) for tensor in tensors))
            and (not self.dynamic or any(-1 in tensor.shape for tensor in tensors))
            and (not self.behind or any(tensor.behind for tensor in tensors))
            and (self.above_version is None or used.version > self.above_version)
        )


def _reaches_out(tensor: UsedTensor, inner: int) -> bool:
    return not tensor.constant and any(size != 1 for size in tensor.shape[: -inner or None])


class Delegate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What takes artifacts of some targets to a compute unit.

    Attributes:
        title: how people write its name.
        about: what a person has to know of it as a whole; may be empty.
        takes: by target the rules, of which the first that speaks of an operator counts; the last speaks of all.
    """

    schema_version: Literal[1]
    title: str
    about: str = ""
    sources: dict[str, CitedSource]
    takes: dict[str, tuple[Rule, ...]]

    def __post_init__(self) -> None:
        for target, rules in self.takes.items():
            if not rules or not rules[-1].is_for_all:
                raise ValueError(f"takes.{target} has no rule for operators that it does not list")
            for number, rule in enumerate(rules, 1):
                if rule.source not in self.sources:
                    raise ValueError(f"takes.{target}, rule {number}: '{rule.source}' is not a source")


def names() -> tuple[str, ...]:
    """Every delegate."""
    return tuple(_all())


def get(name: str) -> Delegate:
    """The delegate called *name*; UnknownName with the nearest otherwise."""
    if name not in _all():
        raise UnknownName("delegate", name, names(), field="for_")
    return _all()[name]


@functools.cache
def _all() -> Mapping[str, Delegate]:
    paths = sorted(path for path in Path(__file__).parent.iterdir() if path.suffix == ".toml")
    return MappingProxyType({path.stem: read(path) for path in paths})


def read(path: Path) -> Delegate:
    """The delegate in a TOML file; BadInput where it is none, or a rule of it has no source."""
    try:
        return documents.decode_toml(files.read(path, documents.TOML_BYTES), Delegate)
    except (Unreadable, msgspec.DecodeError) as error:
        reason = error.reason if isinstance(error, Unreadable) else error
        raise BadInput(f"Delegate {path}: {reason}.", "Compare it with those of hydra-export.") from error
