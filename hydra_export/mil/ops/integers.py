"""Operations between floats and 8-bit integers while a program runs."""

from __future__ import annotations

import numpy as np

from hydra_export.mil.operation import (
    FLOAT,
    INT,
    STRING,
    Array,
    Outputs,
    axis_of,
    expect,
    operation,
    optional,
    value,
    weight,
)
from hydra_export.mil.types import TensorType

_INTEGERS = ("int8", "uint8")
_SCALE = weight(*FLOAT, group="float", rank=(0, 1))
_ZERO_POINT = optional(weight(*_INTEGERS, group="integer", rank=(0, 1)))


def _check_grid(x: TensorType, scale: TensorType, zero_point: TensorType | None, axis: int | None) -> None:
    """One number for all of *x*, or one for each place of *axis*."""
    for name, given in (("scale", scale), ("zero_point", zero_point)):
        if given is not None and given.shape:
            expect(axis is not None, f"{name} is {given}, and axis is missing")
            place = axis_of(axis or 0, x.rank)
            expect(given.shape == x.shape[place : place + 1], f"{name} is {given} for {x}")


def _spread(numbers: Array, x: Array, axis: int | None) -> Array:
    if not np.ndim(numbers):
        return numbers
    shape = [1] * x.ndim
    shape[axis or 0] = -1
    return numbers.reshape(shape)


def _quantized_type(
    input: TensorType, scale: TensorType, zero_point: TensorType | None, output_dtype: str, axis: int | None
) -> Outputs:
    expect(output_dtype in _INTEGERS, f"output_dtype {output_dtype!r} is not known")
    expect(zero_point is None or zero_point.dtype == output_dtype, f"zero_point is {zero_point} for {output_dtype}")
    _check_grid(input, scale, zero_point, axis)
    return (TensorType(output_dtype, input.shape),)


@operation(
    _quantized_type,
    {
        "input": value(*FLOAT, group="float", rank=(1, 8)),
        "scale": _SCALE,
        "zero_point": _ZERO_POINT,
        "output_dtype": STRING,
        "axis": optional(INT),
    },
    since=17,
)
def quantize(input: Array, scale: Array, zero_point: Array | None, output_dtype: str, axis: int | None) -> Array:
    ends, zero = np.iinfo(output_dtype), 0.0 if zero_point is None else zero_point.astype(input.dtype)
    integers = np.rint(input / _spread(scale, input, axis)) + _spread(zero, input, axis)
    return np.clip(np.nan_to_num(integers, nan=0.0), ends.min, ends.max).astype(output_dtype)


def _dequantized_type(input: TensorType, scale: TensorType, zero_point: TensorType | None, axis: int | None) -> Outputs:
    _check_grid(input, scale, zero_point, axis)
    return (TensorType(scale.dtype, input.shape),)


@operation(
    _dequantized_type,
    {
        "input": value(*_INTEGERS, group="integer", rank=(1, 8)),
        "scale": _SCALE,
        "zero_point": _ZERO_POINT,
        "axis": optional(INT),
    },
    since=17,
)
def dequantize(input: Array, scale: Array, zero_point: Array | None, axis: int | None) -> Array:
    zero = 0.0 if zero_point is None else zero_point.astype(scale.dtype)
    return (input.astype(scale.dtype) - _spread(zero, input, axis)) * _spread(scale, input, axis)
