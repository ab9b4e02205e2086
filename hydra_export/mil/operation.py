"""What an operation is, and the table of those that are understood."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hydra_export.mil.types import InvalidProgram, TensorType, ValueType

Array = Any  # numpy's; whatever is computed of NDArray[Any] is Any to mypy
Outputs = tuple[ValueType, ...]

FLOAT = ("fp16", "fp32")
NUMBER = (*FLOAT, "int32")
ANY = (*NUMBER, "bool")


@dataclass(frozen=True)
class Param:
    """One parameter of an operation.

    Attributes:
        kind: "value" for anything; "weight" for what must be known before the program runs; "static" for what shapes
            follow from, given as Python has it.
        group: parameters of one group have the same dtype.
    """

    kind: Literal["value", "weight", "static"]
    dtypes: tuple[str, ...]
    rank: tuple[int, int] = (0, 8)
    group: str = ""
    required: bool = True
    default: Any = None
    many: bool = False


def value(*dtypes: str, group: str = "T", **options: Any) -> Param:
    """A tensor."""
    return Param("value", dtypes, group=group, **options)


def weight(*dtypes: str, group: str = "T", **options: Any) -> Param:
    """A constant tensor."""
    return Param("weight", dtypes, group=group, **options)


def optional(param: Param, default: Any = None) -> Param:
    """*param*, and what it is where it is not given."""
    return Param(param.kind, param.dtypes, param.rank, param.group, required=False, default=default)


INT = Param("static", ("int32",), (0, 0))
INTS = Param("static", ("int32",), (1, 1))
BOOL = Param("static", ("bool",), (0, 0))
BOOLS = Param("static", ("bool",), (1, 1))
STRING = Param("static", ("string",), (0, 0))
NUMERAL = Param("static", FLOAT, (0, 0), group="T")


@dataclass(frozen=True)
class Operation:
    """One kind of operation.

    Attributes:
        since: the iOS version whose opset brought it.
        infer: the types of its outputs, from the types of its values and its static parameters.
        compute: its outputs, from its values and static parameters.
        macs: its multiply-accumulates, as *infer*; the elements that it needs for itself, likewise *scratch*.
    """

    name: str
    since: int
    params: dict[str, Param]
    infer: Callable[..., Outputs]
    compute: Callable[..., Any]
    macs: Callable[..., int] = field(default=lambda **_: 0)
    scratch: Callable[..., int] = field(default=lambda **_: 0)

    @property
    def is_constexpr(self) -> bool:
        """Whether it makes weights from weights."""
        return self.name.startswith("constexpr_")


_REGISTRY: dict[str, list[Operation]] = {}


def find(name: str, ios: int) -> Operation:
    """What *name* means in the opset of an iOS version."""
    known = [operation for operation in _REGISTRY.get(name, ()) if operation.since <= ios]
    if known:
        return max(known, key=lambda operation: operation.since)
    newer = f" before iOS {_REGISTRY[name][0].since}" if name in _REGISTRY else ""
    raise InvalidProgram(f"operation {name!r} is not known{newer}")


def names() -> tuple[str, ...]:
    """Every operation that is understood, besides const."""
    return tuple(sorted(_REGISTRY))


def operation(
    infer: Callable[..., Outputs],
    params: dict[str, Param],
    *,
    since: int = 15,
    macs: Callable[..., int] = lambda **_: 0,
    scratch: Callable[..., int] = lambda **_: 0,
    name: str = "",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function as what an operation computes."""

    def register(compute: Callable[..., Any]) -> Callable[..., Any]:
        known = Operation(name or compute.__name__, since, params, infer, compute, macs, scratch)
        _REGISTRY.setdefault(known.name, []).append(known)
        return compute

    return register


def same_as_x(x: TensorType, **_: Any) -> Outputs:
    return (x,)


def broadcast(x: TensorType, y: TensorType, **_: Any) -> Outputs:
    return (TensorType(x.dtype, broadcast_shapes(x.shape, y.shape)),)


def broadcast_shapes(left: Sequence[int], right: Sequence[int]) -> tuple[int, ...]:
    """The shape of what has both; numpy's rule."""
    rank = max(len(left), len(right))
    pairs = zip((1,) * (rank - len(left)) + tuple(left), (1,) * (rank - len(right)) + tuple(right), strict=True)
    shape = []
    for a, b in pairs:
        if a != b and 1 not in (a, b):
            raise InvalidProgram(f"shapes {list(left)} and {list(right)} do not fit")
        shape.append(max(a, b))
    return tuple(shape)


def axis_of(axis: int, rank: int) -> int:
    """*axis* from the front."""
    if not -rank <= axis < rank:
        raise InvalidProgram(f"axis {axis} is not one of {rank}")
    return axis % rank


def axes_of(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """*axes* from the front, ascending, each once."""
    found = sorted(axis_of(axis, rank) for axis in axes)
    if len(set(found)) != len(found):
        raise InvalidProgram(f"axes {list(axes)} list one twice")
    return tuple(found)


def expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise InvalidProgram(otherwise)
