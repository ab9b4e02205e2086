"""Operations on each element by itself."""

from __future__ import annotations

import math

import numpy as np

from hydra_export.mil.operation import (
    ANY,
    FLOAT,
    NUMBER,
    NUMERAL,
    STRING,
    Array,
    Outputs,
    broadcast,
    expect,
    operation,
    optional,
    same_as_x,
    value,
)
from hydra_export.mil.types import TensorType

_NUMBERS = {"x": value(*NUMBER), "y": value(*NUMBER)}


@operation(broadcast, _NUMBERS)
def add(x: Array, y: Array) -> Array:
    return x + y


@operation(broadcast, _NUMBERS)
def sub(x: Array, y: Array) -> Array:
    return x - y


@operation(broadcast, _NUMBERS)
def mul(x: Array, y: Array) -> Array:
    return x * y


@operation(broadcast, {"x": value(*FLOAT), "y": value(*FLOAT)})
def real_div(x: Array, y: Array) -> Array:
    return x / y


@operation(same_as_x, {"x": value(*ANY)})
def identity(x: Array) -> Array:
    return x


@operation(same_as_x, {"x": value(*FLOAT)})
def erf(x: Array) -> Array:
    from scipy import special

    return special.erf(x)


@operation(same_as_x, {"x": value(*FLOAT), "epsilon": optional(NUMERAL, 1e-12)})
def rsqrt(x: Array, epsilon: float) -> Array:
    return 1 / np.sqrt(x + x.dtype.type(epsilon))


def _gelu_type(x: TensorType, mode: str) -> Outputs:
    expect(mode in ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"), f"mode {mode!r} is not known")
    return (x,)


@operation(_gelu_type, {"x": value(*FLOAT), "mode": optional(STRING, "EXACT")})
def gelu(x: Array, mode: str) -> Array:
    half, one = x.dtype.type(0.5), x.dtype.type(1)
    if mode == "EXACT":
        return half * x * (one + erf(x * x.dtype.type(math.sqrt(0.5))))
    if mode == "SIGMOID_APPROXIMATION":
        return x / (one + np.exp(x * x.dtype.type(-1.702)))
    return half * x * (one + np.tanh(x.dtype.type(math.sqrt(2 / math.pi)) * (x + x.dtype.type(0.044715) * x**3)))


@operation(same_as_x, {"x": value(*FLOAT)})
def relu(x: Array) -> Array:
    return np.maximum(x, 0)


@operation(same_as_x, {"x": value(*FLOAT)})
def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


_CASTS = {"fp16": np.float64, "fp32": np.float64, "int32": np.int32, "bool": np.bool_}


def _cast_type(x: TensorType, dtype: str) -> Outputs:
    expect(dtype in _CASTS, f"a cast to {dtype!r} is not known")
    return (TensorType(dtype, x.shape),)


@operation(_cast_type, {"x": value(*ANY), "dtype": STRING})
def cast(x: Array, dtype: str) -> Array:
    return x if x.dtype.kind == "f" and dtype in FLOAT else x.astype(_CASTS[dtype])
