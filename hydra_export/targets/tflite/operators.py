"""The operators that our files are made of: TFLite's builtins, who can run them, and what shapes they make."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Of the schema's TensorType and Padding.
FLOAT32, INT32, UINT8 = 0, 2, 3
VALID = 1

DYNAMIC = -1  # a size that is chosen at run time, as the schema's shape signatures write it

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Operand:
    """What an operator is given: a tensor's type and shape, and its numbers where it is a constant of int32."""

    dtype: str
    shape: Shape
    numbers: NDArray[np.int32] | None = None


Options = dict[str, int]
Infer = Callable[[Sequence[Operand], Options], Shape]


@dataclass(frozen=True)
class Operator:
    """A builtin in the version that its types and options here ask for.

    Attributes:
        code: in the schema's BuiltinOperator.
        options: the schema's table of options, "" where it has none.
        runtime: the first release of TensorFlow Lite that runs this version.
        inputs: the types that it takes here.
        output: the type that it makes.
        infer: the shape of its output; raises ValueError for operands and options that our files do not have.
    """

    name: str
    code: int
    options: str
    runtime: str
    inputs: tuple[str, ...]
    infer: Infer
    output: str = "float32"
    version: int = 1


def oldest_runtime(operators: Iterable[Operator]) -> str:
    """The first release of TensorFlow Lite that runs all of *operators*."""
    releases = [tuple(int(part) for part in operator.runtime.split(".")) for operator in operators]
    return ".".join(str(part) for part in max(releases))


def _numbers(operand: Operand, shape: Shape) -> list[int]:
    if operand.numbers is None or operand.numbers.shape != shape:
        raise ValueError(f"it needs constant numbers of shape {list(shape)}")
    return [int(number) for number in operand.numbers.flat]


def _need(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)


def _same(operands: Sequence[Operand], options: Options) -> Shape:
    return operands[0].shape


def _elementwise(operands: Sequence[Operand], options: Options) -> Shape:
    """The second operand's sizes are those of the first, or 1; GPU delegates take no other rank than 0, 1 and equal."""
    x, y = (operand.shape for operand in operands)
    _need(len(y) in {0, 1, len(x)} and len(y) <= len(x), f"{list(x)} and {list(y)} are of different ranks")
    fits = all(b in (1, a) for a, b in zip(x[len(x) - len(y) :], y, strict=True))
    _need(fits, f"{list(x)} and {list(y)} do not fit")
    return x


def _cast(operands: Sequence[Operand], options: Options) -> Shape:
    _need((options["in_data_type"], options["out_data_type"]) == (UINT8, FLOAT32), "it makes other types")
    return operands[0].shape


def _batch_matmul(operands: Sequence[Operand], options: Options) -> Shape:
    x, y = (operand.shape for operand in operands)
    _need(len(x) == len(y) == 4 and x[:2] == y[:2], "it needs as many matrices on both sides")
    _need(not options["adj_x"], "its first factor is transposed")
    inner, columns = (y[3], y[2]) if options["adj_y"] else (y[2], y[3])
    _need(x[3] == inner, f"{list(x)} and {list(y)} cannot be multiplied")
    return (*x[:3], columns)


def _conv_2d(operands: Sequence[Operand], options: Options) -> Shape:
    image, weight, bias = (operand.shape for operand in operands)
    _need(len(image) == len(weight) == 4 and image[3] == weight[3] > 0, "its channels differ")
    _need(bias == weight[:1], "its bias is of another size")
    patch = options["stride_h"]
    _need(patch > 0 and weight[1:3] == (patch, patch) == (options["stride_h"], options["stride_w"]), "patches overlap")
    _need(options["padding"] == VALID and not image[1] % patch and not image[2] % patch, "patches are cut off")
    return (image[0], image[1] // patch, image[2] // patch, weight[0])


def _fully_connected(operands: Sequence[Operand], options: Options) -> Shape:
    x, weight, bias = (operand.shape for operand in operands)
    _need(len(weight) == 2 and len(x) >= 2 and x[-1] == weight[1] > 0, f"{list(x)} and {list(weight)} do not fit")
    _need(bias == weight[:1], "its bias is of another size")
    _need(bool(options["keep_num_dims"]), "it flattens its input")
    return (*x[:-1], weight[0])


def _gelu(operands: Sequence[Operand], options: Options) -> Shape:
    _need(not options["approximate"], "it is the approximation by tanh")
    return operands[0].shape


def _mean(operands: Sequence[Operand], options: Options) -> Shape:
    shape = operands[0].shape
    _need(_numbers(operands[1], (1,)) == [len(shape) - 1] and len(shape) > 1, "it is not over the last axis")
    _need(bool(options["keep_dims"]), "it drops the axis")
    return (*shape[:-1], 1)


def _pad(operands: Sequence[Operand], options: Options) -> Shape:
    shape = operands[0].shape
    pads = _numbers(operands[1], (len(shape), 2))
    _need(len(shape) == 3 and pads == [0, 0, 1, 0, 0, 0], "it adds anything but one token in front")
    return (shape[0], shape[1] + 1, shape[2])


def _reshape(operands: Sequence[Operand], options: Options) -> Shape:
    old = operands[0].shape
    new = tuple(_numbers(operands[1], (math.prod(operands[1].shape),)))
    _need(bool(old) and bool(new) and old[0] == new[0], "it changes the batch")
    _need(math.prod(old[1:]) == math.prod(new[1:]) and min(new[1:], default=1) > 0, f"{list(old)} is not {list(new)}")
    return new


def _softmax(operands: Sequence[Operand], options: Options) -> Shape:
    _need(options["beta"] == 1, "its beta is not 1")
    return operands[0].shape


def _strided_slice(operands: Sequence[Operand], options: Options) -> Shape:
    """The first token; the masks say that every image and every channel is taken."""
    shape = operands[0].shape
    begin, end, strides = (_numbers(operand, (3,)) for operand in operands[1:])
    _need(len(shape) == 3 and (begin, end, strides) == ([0, 0, 0], [0, 1, 0], [1, 1, 1]), "it takes another part")
    _need(options["begin_mask"] == options["end_mask"] == 0b101, "it takes another part")
    return (shape[0], 1, shape[2])


def _transpose(operands: Sequence[Operand], options: Options) -> Shape:
    shape = operands[0].shape
    perm = _numbers(operands[1], (len(shape),))
    _need(sorted(perm) == list(range(len(shape))) and perm[0] == 0, "it moves the batch")
    return tuple(shape[axis] for axis in perm)


_ONE, _TWO, _THREE = ("float32",), ("float32",) * 2, ("float32",) * 3
_SHAPED = ("float32", "int32")

# Codes and tables: tensorflow/lite/schema/schema.fbs. Versions and releases: op_version.cc and runtime_version.cc in
# tensorflow/compiler/mlir/lite/tools/versioning.
OPERATORS = {
    operator.name: operator
    for operator in (
        Operator("ADD", 0, "AddOptions", "1.5.0", _TWO, _elementwise),
        Operator("BATCH_MATMUL", 126, "BatchMatMulOptions", "2.3.0", _TWO, _batch_matmul),
        Operator("CAST", 53, "CastOptions", "1.5.0", ("uint8",), _cast),
        Operator("CONV_2D", 3, "Conv2DOptions", "1.5.0", _THREE, _conv_2d),
        Operator("FULLY_CONNECTED", 9, "FullyConnectedOptions", "2.0.0", _THREE, _fully_connected, version=5),
        Operator("GELU", 150, "GeluOptions", "2.9.0", _ONE, _gelu),
        Operator("MEAN", 40, "ReducerOptions", "1.6.0", _SHAPED, _mean),
        Operator("MUL", 18, "MulOptions", "1.5.0", _TWO, _elementwise),
        Operator("PAD", 34, "PadOptions", "1.5.0", _SHAPED, _pad),
        Operator("RESHAPE", 22, "ReshapeOptions", "1.5.0", _SHAPED, _reshape),
        Operator("RSQRT", 76, "", "1.10.0", _ONE, _same),
        Operator("SOFTMAX", 25, "SoftmaxOptions", "1.5.0", _ONE, _softmax),
        Operator("STRIDED_SLICE", 45, "StridedSliceOptions", "1.6.0", ("float32", *("int32",) * 3), _strided_slice),
        Operator("SUB", 41, "SubOptions", "1.6.0", _TWO, _elementwise),
        Operator("TRANSPOSE", 39, "TransposeOptions", "1.6.0", _SHAPED, _transpose),
    )
}
