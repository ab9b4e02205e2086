"""Operations that make weights from compressed weights, before a program runs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hydra_export.mil.operation import (
    FLOAT,
    INT,
    STRING,
    Array,
    Outputs,
    Param,
    axis_of,
    expect,
    operation,
    optional,
    weight,
)
from hydra_export.mil.types import NAMED, TensorType

_BYTES = ("int8", "uint8")
_QUANTIZED = ("int4", "uint4", *_BYTES)
_INDICES = ("uint1", "uint2", "uint3", "uint4", "uint6", "uint8")
_UINTS = Param("static", ("uint32",), (1, 1))


def _widened(source_val: TensorType, output_dtype: str) -> Outputs:
    expect(output_dtype == "fp32", f"a cast to {output_dtype!r} is not known")
    return (TensorType(output_dtype, source_val.shape),)


@operation(_widened, {"source_val": weight("fp16"), "output_dtype": STRING}, since=16)
def constexpr_cast(source_val: Array, output_dtype: str) -> Array:
    return source_val


def _affine(quantized_data: TensorType, zero_point: TensorType, scale: TensorType, axis: int) -> Outputs:
    axis = axis_of(axis, quantized_data.rank)
    for name, given in (("zero_point", zero_point), ("scale", scale)):
        expect(given.shape in ((), quantized_data.shape[axis : axis + 1]), f"{name} is {given} for {quantized_data}")
    return (TensorType(scale.dtype, quantized_data.shape),)


@operation(
    _affine,
    {
        "quantized_data": weight(*_BYTES, rank=(1, 8)),
        "zero_point": weight(*_BYTES, "fp32", group="", rank=(0, 1)),
        "scale": weight(*FLOAT, group="", rank=(0, 1)),
        "axis": INT,
    },
    since=16,
)
def constexpr_affine_dequantize(quantized_data: Array, zero_point: Array, scale: Array, axis: int) -> Array:
    spread = [1] * quantized_data.ndim
    spread[axis] = -1
    return (quantized_data.astype(scale.dtype) - zero_point.reshape(spread).astype(scale.dtype)) * scale.reshape(spread)


def _blockwise(data: TensorType, scale: TensorType, offset: TensorType | None) -> Outputs:
    expect(_divides(scale.shape, data.shape), f"scale is {scale} for {data}")
    expect(offset is None or offset.shape == scale.shape, f"offset is {offset} for a scale of {scale}")
    same = offset is None or offset.dtype in (*FLOAT, data.dtype)
    expect(same, f"offset is {offset} for {data}")
    return (TensorType(scale.dtype, data.shape),)


def _divides(blocks: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    fits = len(blocks) == len(shape)
    return fits and all(size % count == 0 for count, size in zip(blocks, shape, strict=True))


def _repeated(blocks: Array, shape: tuple[int, ...]) -> Array:
    for axis, size in enumerate(shape):
        blocks = np.repeat(blocks, size // blocks.shape[axis], axis)
    return blocks


@operation(
    _blockwise,
    {
        "data": weight(*_QUANTIZED, *FLOAT, rank=(1, 8), group=""),
        "scale": weight(*FLOAT, group=""),
        "offset": optional(weight(*_QUANTIZED, *FLOAT, group="")),
    },
    since=18,
)
def constexpr_blockwise_shift_scale(data: Array, scale: Array, offset: Array | None) -> Array:
    wide = data.astype(scale.dtype)
    if offset is not None:
        wide = wide - _repeated(offset.astype(scale.dtype), data.shape)
    return wide * _repeated(scale, data.shape)


def _packed_table(indices: TensorType, lut: TensorType, shape: tuple[int, ...]) -> Outputs:
    expect(lut.size in (2, 4, 16, 64, 256), f"a table of {lut} is not known")
    expect(1 <= len(shape) <= 8 and min(shape) >= 1, f"shape {list(shape)} is not valid")
    num_bits = lut.size.bit_length() - 1
    expect(indices.size == -(-math.prod(shape) * num_bits // 8), f"{indices} does not contain {list(shape)} indices")
    return (TensorType(lut.dtype, shape),)


@operation(
    _packed_table,
    {"indices": weight("uint8", rank=(1, 1), group=""), "lut": weight(*FLOAT, rank=(1, 1), group=""), "shape": _UINTS},
    since=16,
    name="constexpr_lut_to_dense",
)
def packed_lut_to_dense(indices: Array, lut: Array, shape: tuple[int, ...]) -> Array:
    num_bits = len(lut).bit_length() - 1
    count = math.prod(shape)
    bits = np.unpackbits(indices, count=count * num_bits, bitorder="little").reshape(count, num_bits)
    places = (bits << np.arange(num_bits, dtype=np.uint8)).sum(axis=1, dtype=np.uint8)
    return lut[places].reshape(shape)


def _table(indices: TensorType, lut: TensorType, vector_axis: int | None) -> Outputs:
    expect(lut.rank == indices.rank + 2 and _divides(lut.shape[:-2], indices.shape), f"a table of {lut} for {indices}")
    expect(lut.shape[-2] == 2 ** NAMED[indices.dtype].bits, f"a table of {lut} for {indices}")
    shape = list(indices.shape)
    expect(vector_axis is not None or lut.shape[-1] == 1, "vector_axis is missing")
    if vector_axis is not None:
        shape[axis_of(vector_axis, indices.rank)] *= lut.shape[-1]
    return (TensorType(lut.dtype, tuple(shape)),)


@operation(
    _table,
    {
        "indices": weight(*_INDICES, rank=(1, 6), group=""),
        "lut": weight(*FLOAT, group=""),
        "vector_axis": optional(INT),
    },
    since=18,
)
def constexpr_lut_to_dense(indices: Array, lut: Array, vector_axis: int | None) -> Array:
    blocks = [
        np.arange(size) // (size // count) for size, count in zip(indices.shape, lut.shape[: indices.ndim], strict=True)
    ]
    vectors = lut[(*np.ix_(*blocks), indices)]
    if vector_axis is None:
        return vectors[..., 0]
    axis = vector_axis % indices.ndim
    shape: list[Any] = list(indices.shape)
    shape[axis] *= lut.shape[-1]
    return np.moveaxis(vectors, -1, axis + 1).reshape(shape)
