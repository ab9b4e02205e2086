"""The operators that our files are made of: TFLite's builtins, who can run them, and what shapes they make."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Of the schema's TensorType and Padding.
FLOAT32, FLOAT16, INT32, UINT8, BOOL, INT8 = 0, 1, 2, 3, 6, 9
VALID = 1

_MOST_PREFIX_TOKENS = 257  # a class token, and as many register tokens as a model may have
_MOST_READ_TOKENS = 2  # of a distilled model

# Version 3c of the schema came in autumn 2023 (tensorflow/tensorflow#62413), this release in spring 2024.
_READS_BEHIND = "2.16.0"

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
        optional_bias: the last input may be left out.
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
    optional_bias: bool = False

    def takes(self, types: tuple[str, ...]) -> bool:
        """Whether these may be the types of its inputs."""
        return types == self.inputs or (self.optional_bias and types == self.inputs[:-1])


def oldest_runtime(operators: Iterable[Operator], behind: bool = False) -> str:
    """The first release of TensorFlow Lite that runs all of *operators*, and reads content *behind* the flatbuffer."""
    needed = [operator.runtime for operator in operators] + [_READS_BEHIND] * behind
    releases = [tuple(int(part) for part in release.split(".")) for release in needed]
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
    _need(options["padding"] == VALID and min(image[1:3]) >= patch, "patches are padded")
    return (image[0], image[1] // patch, image[2] // patch, weight[0])


def _fully_connected(operands: Sequence[Operand], options: Options) -> Shape:
    x, weight, *bias = (operand.shape for operand in operands)
    _need(len(weight) == 2 and len(x) >= 2 and x[-1] == weight[1] > 0, f"{list(x)} and {list(weight)} do not fit")
    _need(bias in ([], [weight[:1]]), "its bias is of another size")
    _need(bool(options["keep_num_dims"]), "it flattens its input")
    return (*x[:-1], weight[0])


def _gather(operands: Sequence[Operand], options: Options) -> Shape:
    """Of what is not there alone: it stops a graph."""
    x, columns = operands[0].shape, operands[1].shape
    _need(len(x) == 2 and options["axis"] == 1 and len(columns) == 1, "it is not over the last of two axes")
    _need(min(_numbers(operands[1], columns)) >= x[1] > 0, "it takes what is there")
    return (x[0], *columns)


def _compare(operands: Sequence[Operand], options: Options) -> Shape:
    """The head count with a number."""
    _need(operands[0].shape == (1,), "it compares several numbers")
    _numbers(operands[1], (1,))
    return (1,)


def _if(operands: Sequence[Operand], options: Options) -> Shape:
    raise ValueError("what it makes depends on other graphs")


def _concatenation(operands: Sequence[Operand], options: Options) -> Shape:
    x, y = (operand.shape for operand in operands)
    _need(len(x) == 4 and x == y and options["axis"] == 3, "it does not join two halves of heads")
    return (*x[:3], 2 * x[3])


def _mean(operands: Sequence[Operand], options: Options) -> Shape:
    """Over the channels or the tokens."""
    shape = operands[0].shape
    (axis,) = _numbers(operands[1], (1,))
    _need(0 < axis == len(shape) - 1 or (len(shape), axis) == (3, 1), "it is over neither channels nor tokens")
    _need(bool(options["keep_dims"]), "it drops the axis")
    return (*shape[:axis], 1, *shape[axis + 1 :])


def _maximum(operands: Sequence[Operand], options: Options) -> Shape:
    _need(len(operands[0].shape) == 3 and _numbers(operands[1], (1,)) == [1], "it is not over the tokens")
    return _mean(operands, options)


def _pad(operands: Sequence[Operand], options: Options) -> Shape:
    shape = operands[0].shape
    pads = _numbers(operands[1], (len(shape), 2))
    _need(len(shape) == 3 and pads[:2] + pads[3:] == [0] * 5, "it adds anything but tokens in front")
    _need(0 < pads[2] <= _MOST_PREFIX_TOKENS, f"it adds {pads[2]} tokens")
    return (shape[0], shape[1] + pads[2], shape[2])


def _reshape(operands: Sequence[Operand], options: Options) -> Shape:
    old = operands[0].shape
    new = tuple(_numbers(operands[1], (math.prod(operands[1].shape),)))
    _need(bool(old) and bool(new) and old[0] == new[0], "it changes the batch")
    _need(math.prod(old[1:]) == math.prod(new[1:]) and min(new[1:], default=1) > 0, f"{list(old)} is not {list(new)}")
    return new


def _rsqrt(operands: Sequence[Operand], options: Options) -> Shape:
    _need(operands[0].shape[-1:] == (1,), "it is not of a variance")
    return operands[0].shape


def _relu(operands: Sequence[Operand], options: Options) -> Shape:
    _need(operands[0].shape[-1] > 1, "it is of a single channel")
    return operands[0].shape


def _softmax(operands: Sequence[Operand], options: Options) -> Shape:
    _need(options["beta"] == 1, "its beta is not 1")
    return operands[0].shape


def _strided_slice(operands: Sequence[Operand], options: Options) -> Shape:
    """Some of the tokens or channels, or a half of heads; the masks say that all of the other axes is taken."""
    shape = operands[0].shape
    rank = len(shape)
    begin, end, strides = (_numbers(operand, (rank,)) for operand in operands[1:])
    every = options["begin_mask"]
    cut = [axis for axis in range(rank) if not every >> axis & 1]
    _need(rank in (2, 3, 4) and every < 1 << rank and every == options["end_mask"], "its masks differ")
    _need(len(cut) == 1 and cut[0] > 0 and strides == [1] * rank, "it takes more than a part of one axis")
    (axis,) = cut
    low, high = begin[axis], end[axis]
    _need(0 <= low < high <= shape[axis], f"there is no {low}:{high} in {list(shape)}")
    is_end = (low == 0 and high <= _MOST_READ_TOKENS) or high == shape[axis]
    _need(rank != 3 or axis != 1 or is_end, "it takes tokens from between others")
    halves = ((0, shape[3] // 2), (shape[3] // 2, shape[3])) if rank == 4 else ()
    _need(rank < 4 or (axis == 3 and shape[3] % 2 == 0 and (low, high) in halves), "it takes no half of heads")
    _need(not any(begin[:axis] + begin[axis + 1 :] + end[:axis] + end[axis + 1 :]), "it takes another part")
    return (*shape[:axis], high - low, *shape[axis + 1 :])


def _transpose(operands: Sequence[Operand], options: Options) -> Shape:
    shape = operands[0].shape
    perm = _numbers(operands[1], (len(shape),))
    _need(sorted(perm) == list(range(len(shape))) and perm[0] == 0, "it moves the batch")
    return tuple(shape[axis] for axis in perm)


_ONE, _TWO, _THREE = ("float32",), ("float32",) * 2, ("float32",) * 3
_SHAPED, _QUANTIZED = ("float32", "int32"), ("float32", "int8", "float32")
_NUMBERS = ("int32", "int32")

# Codes and tables: tensorflow/lite/schema/schema.fbs. Versions and releases: op_version.cc and runtime_version.cc in
# tensorflow/compiler/mlir/lite/tools/versioning.
_FULLY_CONNECTED = ("FULLY_CONNECTED", 9, "FullyConnectedOptions")
OPERATORS = {
    operator.name: operator
    for operator in (
        Operator("ADD", 0, "AddOptions", "1.5.0", _TWO, _elementwise),
        Operator("BATCH_MATMUL", 126, "BatchMatMulOptions", "2.3.0", _TWO, _batch_matmul),
        Operator("CAST", 53, "CastOptions", "1.5.0", ("uint8",), _cast),
        Operator("CONCATENATION", 2, "ConcatenationOptions", "1.5.0", _TWO, _concatenation),
        Operator("CONV_2D", 3, "Conv2DOptions", "1.5.0", _THREE, _conv_2d),
        Operator("DEQUANTIZE", 6, "", "1.15.0", ("float16",), _same, version=3),
        Operator("EQUAL", 71, "EqualOptions", "1.14.0", _NUMBERS, _compare, "bool"),
        Operator(*_FULLY_CONNECTED, "2.0.0", _THREE, _fully_connected, version=5),
        Operator("GATHER", 36, "GatherOptions", "1.6.0", _SHAPED, _gather),
        Operator("GELU", 150, "GeluOptions", "2.9.0", _ONE, _same),
        Operator("IF", 118, "IfOptions", "1.15.0", (), _if),
        Operator("LESS", 58, "LessOptions", "1.14.0", _NUMBERS, _compare, "bool"),
        Operator("LOGISTIC", 14, "", "1.14.0", _ONE, _same),
        Operator("MEAN", 40, "ReducerOptions", "1.6.0", _SHAPED, _mean),
        Operator("MUL", 18, "MulOptions", "1.5.0", _TWO, _elementwise),
        Operator("PAD", 34, "PadOptions", "1.5.0", _SHAPED, _pad),
        Operator("REDUCE_MAX", 82, "ReducerOptions", "1.11.0", _SHAPED, _maximum),
        Operator("RELU", 19, "", "1.5.0", _ONE, _relu),
        Operator("RESHAPE", 22, "ReshapeOptions", "1.5.0", _SHAPED, _reshape),
        Operator("RSQRT", 76, "", "1.10.0", _ONE, _rsqrt),
        Operator("SOFTMAX", 25, "SoftmaxOptions", "1.5.0", _ONE, _softmax),
        Operator("STRIDED_SLICE", 45, "StridedSliceOptions", "1.6.0", ("float32", *("int32",) * 3), _strided_slice),
        Operator("SUB", 41, "SubOptions", "1.6.0", _TWO, _elementwise),
        Operator("TRANSPOSE", 39, "TransposeOptions", "1.6.0", _SHAPED, _transpose),
    )
} | {
    # The same by what they are given: no bias, and weights of int8 with a scale per output channel.
    "FULLY_CONNECTED/PLAIN": Operator(*_FULLY_CONNECTED, "2.1.0", _TWO, _fully_connected, version=6),
    "FULLY_CONNECTED/INT8": Operator(
        *_FULLY_CONNECTED, "2.17.0", _QUANTIZED, _fully_connected, version=12, optional_bias=True
    ),
}
