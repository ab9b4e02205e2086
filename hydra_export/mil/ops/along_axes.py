"""Operations that look at several elements along an axis: normalisations, means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hydra_export.mil.operation import (
    BOOL,
    FLOAT,
    INT,
    INTS,
    NUMBER,
    NUMERAL,
    Array,
    Outputs,
    axes_of,
    axis_of,
    expect,
    operation,
    optional,
    value,
    weight,
)
from hydra_export.mil.types import TensorType


def _softmax_type(x: TensorType, axis: int) -> Outputs:
    axis_of(axis, x.rank)
    return (x,)


@operation(_softmax_type, {"x": value(*FLOAT), "axis": optional(INT, -1)})
def softmax(x: Array, axis: int) -> Array:
    shares = np.exp(x - x.max(axis=axis, keepdims=True))
    shares /= shares.sum(axis=axis, keepdims=True)
    return shares


def _layer_norm_type(x: TensorType, axes: Any, gamma: Any, beta: Any, epsilon: float) -> Outputs:
    axes = _normalised_axes(axes, x.rank)
    for name, given in (("gamma", gamma), ("beta", beta)):
        shape = tuple(x.shape[axis] for axis in axes)
        expect(given is None or given.shape == shape, f"{name} is {given}, the axes have shape {list(shape)}")
    return (x,)


def _normalised_axes(axes: Sequence[int] | None, rank: int) -> tuple[int, ...]:
    return tuple(range(rank)) if axes is None else axes_of(axes, rank)


@operation(
    _layer_norm_type,
    {
        "x": value(*FLOAT),
        "axes": optional(INTS),
        "gamma": optional(weight(*FLOAT)),
        "beta": optional(weight(*FLOAT)),
        "epsilon": optional(NUMERAL, 1e-5),
    },
)
def layer_norm(x: Array, axes: Any, gamma: Array | None, beta: Array | None, epsilon: float) -> Array:
    axes = _normalised_axes(axes, x.ndim)
    spread = [x.shape[axis] if axis in axes else 1 for axis in range(x.ndim)]
    centred = x - x.mean(axis=axes, keepdims=True)
    variance = np.square(centred).mean(axis=axes, keepdims=True)
    result = centred / np.sqrt(variance + x.dtype.type(epsilon))
    result = result if gamma is None else result * gamma.reshape(spread)
    return result if beta is None else result + beta.reshape(spread)


def _reduced(x: TensorType, axes: Any, keep_dims: bool) -> Outputs:
    gone = _normalised_axes(axes, x.rank)
    sizes = [1 if axis in gone else size for axis, size in enumerate(x.shape) if keep_dims or axis not in gone]
    return (TensorType(x.dtype, tuple(sizes)),)


@operation(_reduced, {"x": value(*FLOAT), "axes": optional(INTS), "keep_dims": optional(BOOL, False)})
def reduce_mean(x: Array, axes: Any, keep_dims: bool) -> Array:
    return x.mean(axis=_normalised_axes(axes, x.ndim), keepdims=keep_dims)


@operation(_reduced, {"x": value(*NUMBER), "axes": optional(INTS), "keep_dims": optional(BOOL, False)})
def reduce_max(x: Array, axes: Any, keep_dims: bool) -> Array:
    return x.max(axis=_normalised_axes(axes, x.ndim), keepdims=keep_dims)
