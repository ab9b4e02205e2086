"""Computing what a function computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hydra_export.mil.constants import Constant
from hydra_export.mil.operation import FLOAT
from hydra_export.mil.program import Function, Step
from hydra_export.mil.types import InvalidProgram, TensorType, ValueType

Compute = Literal["fp16", "fp32", "fp64"]
Inputs = Mapping[str, NDArray[Any]]
_REAL = {"fp16": np.float32, "fp32": np.float32, "fp64": np.float64}


def evaluate(function: Function, batches: Sequence[Inputs], compute: Compute) -> list[dict[str, Any]]:
    """The outputs of *function* for each of *batches*, side by side: each weight is read and widened once.

    Raises:
        InvalidProgram: an operation gives something else than it declares.
    """
    real = _REAL[compute]
    runs = [
        {name: _as_declared(np.asarray(inputs[name]), kind, compute, real) for name, kind in function.inputs.items()}
        for inputs in batches
    ]
    with np.errstate(all="ignore"):  # infinities and NaN are results like others
        for step in function.steps:
            constants = _constants(function, step, real)
            for known in runs:
                _run(step, known, constants, compute, real)
    return [
        {name: known[name] if name in known else _widened(function.constants[name], real) for name in function.outputs}
        for known in runs
    ]


def _constants(function: Function, step: Step, real: Any) -> dict[str | Constant, Any]:
    """The constants that *step* uses."""
    found: dict[str | Constant, Any] = {}
    for each in step.arguments:
        if isinstance(each, Constant):
            found[each] = _widened(each, real)
        elif each in function.constants:
            found[each] = _widened(function.constants[each], real)
    return found


def _widened(constant: Constant, real: Any) -> Any:
    value = constant.read()
    return value.astype(real) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value


def _run(step: Step, known: dict[str, Any], constants: dict[str | Constant, Any], compute: Compute, real: Any) -> None:
    """Adds what *step* gives to *known*, and drops what nobody needs any more."""

    def fetch(given: Any) -> Any:
        if isinstance(given, tuple):
            return [fetch(each) for each in given]
        if given is None:
            return None
        return constants[given] if given in constants else known[given]

    results = step.operation.compute(**{name: fetch(given) for name, given in step.values.items()}, **step.static)
    results = results if isinstance(results, tuple) else (results,)
    for (name, declared), result in zip(step.outputs, results, strict=True):
        known[name] = _checked(step, result, declared, compute, real)
    for name in step.last_uses:
        del known[name]


def _checked(step: Step, result: Any, declared: ValueType, compute: Compute, real: Any) -> Any:
    if not isinstance(declared, TensorType) or declared.dtype == "string":
        return result
    result = _as_declared(result, declared, compute, real)
    if result.shape != declared.shape:
        raise InvalidProgram(f"{step.label}: its output is declared as {declared}, but is {list(result.shape)}")
    return result


def _as_declared(array: NDArray[Any], declared: TensorType, compute: Compute, real: Any) -> NDArray[Any]:
    if declared.dtype not in FLOAT:
        return array
    if compute == "fp16" and declared.dtype == "fp16":
        array = array.astype(np.float16)
    return array.astype(real, copy=False)
