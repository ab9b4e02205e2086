"""Operations that multiply tensors: most of the work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from hydra_export.mil.operation import (
    BOOL,
    FLOAT,
    INT,
    INTS,
    STRING,
    Array,
    Outputs,
    broadcast_shapes,
    expect,
    operation,
    optional,
    value,
    weight,
)
from hydra_export.mil.ops.along_axes import softmax
from hydra_export.mil.types import TensorType


def _product(x: TensorType, y: TensorType, transpose_x: bool, transpose_y: bool) -> Outputs:
    expect(x.rank >= 2 and y.rank >= 2, f"a product of {x} and {y} is not supported")
    left, right = (
        (*each.shape[:-2], each.shape[-1], each.shape[-2]) if flipped else each.shape
        for each, flipped in ((x, transpose_x), (y, transpose_y))
    )
    expect(left[-1] == right[-2], f"{x} and {y} do not fit")
    return (TensorType(x.dtype, (*broadcast_shapes(left[:-2], right[:-2]), left[-2], right[-1])),)


def _product_macs(x: TensorType, y: TensorType, transpose_x: bool, transpose_y: bool) -> int:
    (result,) = _product(x, y, transpose_x, transpose_y)
    assert isinstance(result, TensorType)
    return result.size * x.shape[-2 if transpose_x else -1]


@operation(
    _product,
    {
        "x": value(*FLOAT),
        "y": value(*FLOAT),
        "transpose_x": optional(BOOL, False),
        "transpose_y": optional(BOOL, False),
    },
    macs=_product_macs,
)
def matmul(x: Array, y: Array, transpose_x: bool, transpose_y: bool) -> Array:
    left = x.swapaxes(-1, -2) if transpose_x else x
    right = y.swapaxes(-1, -2) if transpose_y else y
    return left @ right


def _linear_type(x: TensorType, weight: TensorType, bias: TensorType | None) -> Outputs:
    expect(1 <= x.rank <= 3 and weight.shape[1] == x.shape[-1], f"{x} does not fit the weight {weight}")
    expect(bias is None or bias.shape == weight.shape[:1], f"bias {bias} does not fit the weight {weight}")
    return (TensorType(x.dtype, (*x.shape[:-1], weight.shape[0])),)


@operation(
    _linear_type,
    {"x": value(*FLOAT), "weight": weight(*FLOAT, rank=(2, 2)), "bias": optional(weight(*FLOAT, rank=(1, 1)))},
    macs=lambda x, weight, bias: x.size * weight.shape[0],
)
def linear(x: Array, weight: Array, bias: Array | None) -> Array:
    rows = x.reshape(-1, x.shape[-1]) @ weight.T
    if bias is not None:
        rows += bias
    return rows.reshape(*x.shape[:-1], weight.shape[0])


def _convolution(x: TensorType, weight: TensorType, bias: TensorType | None, **options: Any) -> Outputs:
    strides, pads, dilations, groups = _conv_options(x.rank - 2, **options)
    expect(3 <= x.rank <= 5 and weight.rank == x.rank, f"{x} and the weight {weight} do not fit")
    expect(
        groups >= 1 and x.shape[1] == weight.shape[1] * groups and weight.shape[0] % groups == 0,
        f"{x} and the weight {weight} do not fit in {groups} groups",
    )
    expect(bias is None or bias.shape == weight.shape[:1], f"bias {bias} does not fit the weight {weight}")
    sizes = []
    for axis, (stride, dilation) in enumerate(zip(strides, dilations, strict=True)):
        covered = x.shape[2 + axis] + sum(pads[axis]) - (weight.shape[2 + axis] - 1) * dilation
        expect(covered >= 1, f"the weight {weight} is larger than {x}")
        sizes.append((covered - 1) // stride + 1)
    return (TensorType(x.dtype, (x.shape[0], weight.shape[0], *sizes)),)


def _conv_options(
    num_axes: int, strides: Any, pad_type: str, pad: Any, dilations: Any, groups: int
) -> tuple[Sequence[int], list[tuple[int, int]], Sequence[int], int]:
    expect(pad_type in ("valid", "custom"), f"pad_type {pad_type!r} is not supported")
    ones = (1,) * max(num_axes, 0)
    strides, dilations = (ones if given is None else given for given in (strides, dilations))
    flat = (0, 0) * num_axes if pad_type == "valid" or pad is None else pad
    expect(len(strides) == len(dilations) == num_axes and len(flat) == 2 * num_axes, "its options have another rank")
    in_range = all(1 <= each < 2**31 for each in (*strides, *dilations)) and all(0 <= each < 2**31 for each in flat)
    expect(in_range, "its strides, dilations or pads are out of range")
    return strides, list(zip(flat[::2], flat[1::2], strict=True)), dilations, groups


def _conv_scratch(x: TensorType, weight: TensorType, bias: TensorType | None, **options: Any) -> int:
    """Every window apart, and the padded input."""
    (result,) = _convolution(x, weight, bias, **options)
    assert isinstance(result, TensorType)
    _, pads, _, groups = _conv_options(x.rank - 2, **options)
    padded = math.prod(size + sum(pad) for size, pad in zip(x.shape[2:], pads, strict=True))
    windows = result.size // weight.shape[0] * groups * math.prod(weight.shape[1:])
    return windows + x.shape[0] * x.shape[1] * padded


def _conv_macs(x: TensorType, weight: TensorType, bias: TensorType | None, **options: Any) -> int:
    (result,) = _convolution(x, weight, bias, **options)
    assert isinstance(result, TensorType)
    return result.size * math.prod(weight.shape[1:])


@operation(
    _convolution,
    {
        "x": value(*FLOAT),
        "weight": weight(*FLOAT),
        "bias": optional(weight(*FLOAT, rank=(1, 1))),
        "strides": optional(INTS),
        "pad_type": optional(STRING, "valid"),
        "pad": optional(INTS),
        "dilations": optional(INTS),
        "groups": optional(INT, 1),
    },
    macs=_conv_macs,
    scratch=_conv_scratch,
)
def conv(x: Array, weight: Array, bias: Array | None, **options: Any) -> Array:
    num_axes = x.ndim - 2
    strides, pads, dilations, groups = _conv_options(num_axes, **options)
    x = np.pad(x, [(0, 0), (0, 0), *pads]) if any(map(any, pads)) else x
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(weight.shape[2:], dilations, strict=True)]
    windows = sliding_window_view(x, reach, axis=tuple(range(2, x.ndim)))
    chosen = [slice(None, None, step) for step in (*strides, *dilations)]
    windows = windows[(slice(None), slice(None), *chosen)]
    result = [
        # [batch, *places, channels out] of each group
        np.tensordot(part, kernel, axes=((1, *range(2 + num_axes, 2 + 2 * num_axes)), tuple(range(1, weight.ndim))))
        for part, kernel in zip(np.split(windows, groups, 1), np.split(weight, groups), strict=True)
    ]
    channels_last = np.concatenate(result, axis=-1)
    channels_last = channels_last if bias is None else channels_last + bias
    return np.moveaxis(channels_last, -1, 1)


def _attended(query: TensorType, key: TensorType, value: TensorType, attn_mask: TensorType | None) -> Outputs:
    expect(query.rank >= 3 and query.rank == key.rank == value.rank, "query, key and value have different ranks")
    expect(query.shape[:-2] == key.shape[:-2] == value.shape[:-2], "query, key and value have different batch sizes")
    expect(query.shape[-1] == key.shape[-1], f"query {query} and key {key} do not fit")
    expect(key.shape[-2] == value.shape[-2], f"key {key} and value {value} do not fit")
    scores = (*query.shape[:-1], key.shape[-2])
    if attn_mask is not None:
        expect(attn_mask.rank >= 1 and attn_mask.shape[-1] == scores[-1], f"mask {attn_mask} does not fit")
        expect(broadcast_shapes(scores, attn_mask.shape) == scores, f"mask {attn_mask} does not fit")
    return (TensorType(query.dtype, (*query.shape[:-1], value.shape[-1])),)


def _attention_scores(query: TensorType, key: TensorType, **_: Any) -> int:
    return query.size // query.shape[-1] * key.shape[-2]


def _attention_macs(query: TensorType, key: TensorType, value: TensorType, **_: Any) -> int:
    return _attention_scores(query, key) * (query.shape[-1] + value.shape[-1])


@operation(
    _attended,
    {
        "query": value(*FLOAT),
        "key": value(*FLOAT),
        "value": value(*FLOAT),
        "attn_mask": optional(value(*FLOAT, "bool", group="M")),
    },
    since=18,
    macs=_attention_macs,
    scratch=_attention_scores,
)
def scaled_dot_product_attention(query: Array, key: Array, value: Array, attn_mask: Array | None) -> Array:
    scores = query @ key.swapaxes(-1, -2)
    scores *= query.dtype.type(query.shape[-1] ** -0.5)
    if attn_mask is not None:
        scores = np.where(attn_mask, scores, -np.inf) if attn_mask.dtype == bool else scores + attn_mask
    return softmax(scores, -1) @ value
