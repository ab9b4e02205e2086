"""Operations that only move elements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hydra_export.mil.operation import (
    ANY,
    BOOL,
    BOOLS,
    INT,
    INTS,
    Array,
    Outputs,
    axes_of,
    axis_of,
    expect,
    operation,
    optional,
    value,
)
from hydra_export.mil.types import TensorType


def _concatenated(values: Sequence[TensorType], axis: int, interleave: bool) -> Outputs:
    expect(not interleave, "interleave is not supported")
    rank = values[0].rank
    axis = axis_of(axis, rank)
    rests = {each.shape[:axis] + each.shape[axis + 1 :] for each in values if each.rank == rank}
    expect(len(rests) == 1 and all(each.rank == rank for each in values), "the shapes of its values do not fit")
    total = sum(each.shape[axis] for each in values)
    return (TensorType(values[0].dtype, (*values[0].shape[:axis], total, *values[0].shape[axis + 1 :])),)


@operation(_concatenated, {"values": value(*ANY, many=True), "axis": INT, "interleave": optional(BOOL, False)})
def concat(values: Sequence[Array], axis: int, interleave: bool) -> Array:
    return np.concatenate(values, axis=axis)


def _reshaped(x: TensorType, shape: Sequence[int]) -> Outputs:
    expect(
        all(-1 <= size < 2**31 for size in shape) and list(shape).count(-1) <= 1, f"shape {list(shape)} is not valid"
    )
    expect(0 not in shape or len(shape) == x.rank, f"shape {list(shape)} keeps sizes of {x}, which has another rank")
    sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
    if -1 in sizes:
        known = -math.prod(sizes)
        expect(x.size % known == 0, f"{x} does not fit shape {list(shape)}")
        sizes[sizes.index(-1)] = x.size // known
    expect(math.prod(sizes) == x.size, f"{x} does not fit shape {list(shape)}")
    return (TensorType(x.dtype, tuple(sizes)),)


@operation(_reshaped, {"x": value(*ANY), "shape": INTS})
def reshape(x: Array, shape: Sequence[int]) -> Array:
    return x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)])


def _transposed(x: TensorType, perm: Sequence[int]) -> Outputs:
    expect(len(perm) == x.rank, f"perm {list(perm)} is of another rank than {x}")
    axes_of(perm, x.rank)
    return (TensorType(x.dtype, tuple(x.shape[axis] for axis in perm)),)


@operation(_transposed, {"x": value(*ANY), "perm": INTS})
def transpose(x: Array, perm: Sequence[int]) -> Array:
    return x.transpose(perm)


def _squeezed(x: TensorType, axes: Sequence[int] | None) -> Outputs:
    ones = tuple(axis for axis, size in enumerate(x.shape) if size == 1)
    gone = ones if axes is None else axes_of(axes, x.rank)
    expect(set(gone) <= set(ones), f"axes {list(gone)} of {x} are not all of size 1")
    return (TensorType(x.dtype, tuple(size for axis, size in enumerate(x.shape) if axis not in gone)),)


@operation(_squeezed, {"x": value(*ANY), "axes": optional(INTS)})
def squeeze(x: Array, axes: Sequence[int] | None) -> Array:
    return np.squeeze(x, None if axes is None else tuple(axes))


def _expanded(x: TensorType, axes: Sequence[int]) -> Outputs:
    expect(x.rank + len(axes) <= 8, f"{len(axes)} axes are too many for {x}")
    new = axes_of(axes, x.rank + len(axes))
    rest = iter(x.shape)
    return (TensorType(x.dtype, tuple(1 if i in new else next(rest) for i in range(x.rank + len(axes)))),)


@operation(_expanded, {"x": value(*ANY), "axes": INTS})
def expand_dims(x: Array, axes: Sequence[int]) -> Array:
    return np.expand_dims(x, tuple(axes))


def _split_sizes(size: int, num_splits: int | None, split_sizes: Sequence[int] | None) -> tuple[int, ...]:
    if split_sizes is None:
        expect(num_splits is not None and 1 <= num_splits <= size, f"{size} cannot be split into {num_splits}")
        assert num_splits is not None
        expect(size % num_splits == 0, f"{size} cannot be split into {num_splits}")
        return (size // num_splits,) * num_splits
    fits = min(split_sizes) >= 1 and sum(split_sizes) == size and num_splits in (None, len(split_sizes))
    expect(fits, f"{size} cannot be split into {list(split_sizes)}")
    return tuple(split_sizes)


def _parts(x: TensorType, axis: int, num_splits: int | None, split_sizes: Sequence[int] | None) -> Outputs:
    axis = axis_of(axis, x.rank)
    sizes = _split_sizes(x.shape[axis], num_splits, split_sizes)
    return tuple(TensorType(x.dtype, (*x.shape[:axis], size, *x.shape[axis + 1 :])) for size in sizes)


@operation(_parts, {"x": value(*ANY), "num_splits": optional(INT), "split_sizes": optional(INTS), "axis": INT})
def split(x: Array, axis: int, num_splits: int | None, split_sizes: Sequence[int] | None) -> tuple[Array, ...]:
    sizes = _split_sizes(x.shape[axis], num_splits, split_sizes)
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis))


def _slices(shape: Sequence[int], begin: Any, end: Any, stride: Any, masks: Sequence[Any]) -> list[slice | int]:
    """Numpy's slices; what lies outside of the tensor is refused, as runtimes need not agree on it."""
    rank = len(shape)
    stride = (1,) * rank if stride is None else stride
    begin_mask, end_mask, squeeze_mask = ((False,) * rank if mask is None else mask for mask in masks)
    lengths = {len(each) for each in (begin, end, stride, begin_mask, end_mask, squeeze_mask)}
    expect(lengths == {rank}, f"its parameters do not have {rank} elements each")
    found: list[slice | int] = []
    for axis, size in enumerate(shape):
        first = 0 if begin_mask[axis] else _place(begin[axis], size)
        last = size if end_mask[axis] or squeeze_mask[axis] else _place(end[axis], size)
        expect(stride[axis] >= 1, f"stride {stride[axis]} is not supported")
        expect(0 <= first < last <= size, f"{begin[axis]} to {end[axis]} is not a part of {size}")
        found.append(first if squeeze_mask[axis] else slice(first, last, stride[axis]))
    return found


def _place(index: int, size: int) -> int:
    return index + size if index < 0 else index


def _sliced_by_index(x: TensorType, begin: Any, end: Any, stride: Any, **masks: Any) -> Outputs:
    found = _slices(x.shape, begin, end, stride, list(masks.values()))
    sizes = [len(range(*part.indices(2**62))) for part in found if isinstance(part, slice)]
    return (TensorType(x.dtype, tuple(sizes)),)


_MASKS = ("begin_mask", "end_mask", "squeeze_mask")


@operation(
    _sliced_by_index,
    {
        "x": value(*ANY),
        "begin": INTS,
        "end": INTS,
        "stride": optional(INTS),
        **{name: optional(BOOLS) for name in _MASKS},
    },
)
def slice_by_index(x: Array, begin: Any, end: Any, stride: Any, **masks: Any) -> Array:
    return np.asarray(x[tuple(_slices(x.shape, begin, end, stride, list(masks.values())))])


def _sized_slices(shape: Sequence[int], begin: Sequence[int], size: Sequence[int]) -> list[slice]:
    expect(len(begin) == len(size) == len(shape), f"begin and size do not have {len(shape)} elements each")
    found = []
    for start, count, whole in zip(begin, size, shape, strict=True):
        first = _place(start, whole)
        last = whole if count == -1 else first + count
        expect(0 <= first < last <= whole, f"{count} from {start} is not a part of {whole}")
        found.append(slice(first, last))
    return found


def _sliced_by_size(x: TensorType, begin: Any, size: Any) -> Outputs:
    return (TensorType(x.dtype, tuple(part.stop - part.start for part in _sized_slices(x.shape, begin, size))),)


@operation(_sliced_by_size, {"x": value(*ANY), "begin": INTS, "size": INTS})
def slice_by_size(x: Array, begin: Any, size: Any) -> Array:
    return x[tuple(_sized_slices(x.shape, begin, size))]
