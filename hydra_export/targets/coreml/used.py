"""What a package computes by, operation for operation, for tables of what compute units take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hydra_export.mil.constants import Constant
from hydra_export.mil.types import TensorType, ValueType
from hydra_export.target import UsedOperator, UsedTensor
from hydra_export.targets.coreml.session import opened

_DTYPES = {"fp16": "float16", "fp32": "float32"}


def operators(path: Path) -> Iterator[UsedOperator]:
    """Those of a package that lint passed, function for function; what makes weights of weights is a constant."""
    functions = opened(path).functions.values()
    for function in functions:
        known = {name: _tensor(kind, False) for name, kind in function.inputs.items()}
        known |= {name: _tensor(constant.type, True) for name, constant in function.constants.items()}
        for step in function.steps:
            is_constant = step.operation.is_constexpr
            known |= {name: _tensor(kind, is_constant) for name, kind in step.outputs}
            if not is_constant:
                yield UsedOperator(
                    name=step.operation.name,
                    place=step.outputs[0][0],
                    graph=function.name if len(functions) > 1 else "",
                    version=function.ios,
                    inputs=tuple(_given(each, known) for each in step.arguments),
                    outputs=tuple(known[name] for name, _ in step.outputs),
                )


def _given(each: str | Constant, known: dict[str, UsedTensor]) -> UsedTensor:
    return _tensor(each.type, True) if isinstance(each, Constant) else known[each]


def _tensor(kind: ValueType, constant: bool) -> UsedTensor:
    if not isinstance(kind, TensorType):
        return UsedTensor(dtype="", constant=constant)
    return UsedTensor(dtype=_DTYPES.get(kind.dtype, kind.dtype), shape=kind.shape, constant=constant)
