"""Computing what a function computes."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hydra_export.mil.constants import Constant
from hydra_export.mil.operation import FLOAT
from hydra_export.mil.program import Function, Step
from hydra_export.mil.types import InvalidProgram, TensorType, ValueType

Compute = Literal["fp16", "fp32", "fp64"]
_REAL = {"fp16": np.float32, "fp32": np.float32, "fp64": np.float64}


def evaluate(function: Function, inputs: dict[str, NDArray[Any]], compute: Compute) -> dict[str, Any]:
    """The outputs of *function* for *inputs*.

    Raises:
        InvalidProgram: an operation gives something else than it declares.
    """
    real = _REAL[compute]
    known: dict[str, Any] = {}
    for name, kind in function.inputs.items():
        known[name] = _as_declared(np.asarray(inputs[name]), kind, compute, real)

    def fetch(given: Any) -> Any:
        if isinstance(given, tuple):
            return [fetch(each) for each in given]
        if isinstance(given, str) and given not in known:
            given = function.constants[given]
        if isinstance(given, Constant):
            value = given.read()
            return value.astype(real) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value
        return known[given] if isinstance(given, str) else given

    with np.errstate(all="ignore"):  # infinities and NaN are results like others
        for step in function.steps:
            values = {name: fetch(given) for name, given in step.values.items()}
            results = step.operation.compute(**values, **step.static)
            results = results if isinstance(results, tuple) else (results,)
            for (name, declared), result in zip(step.outputs, results, strict=True):
                known[name] = _checked(step, result, declared, compute, real)
            for name in step.last_uses:
                del known[name]
    return {name: fetch(name) for name in function.outputs}


def _checked(step: Step, result: Any, declared: ValueType, compute: Compute, real: Any) -> Any:
    if not isinstance(declared, TensorType) or declared.dtype == "string":
        return result
    result = _as_declared(result, declared, compute, real)
    if result.shape != declared.shape:
        raise InvalidProgram(f"{step.label}: it is declared to give {declared}, and gave {list(result.shape)}")
    return result


def _as_declared(array: NDArray[Any], declared: TensorType, compute: Compute, real: Any) -> NDArray[Any]:
    if declared.dtype not in FLOAT:
        return array
    if compute == "fp16" and declared.dtype == "fp16":
        array = array.astype(np.float16)
    return array.astype(real, copy=False)
