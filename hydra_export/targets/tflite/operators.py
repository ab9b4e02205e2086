"""The operators that our files are made of: TFLite's builtins, who can run them, and what shapes they make."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Of the schema's TensorType and Padding.
FLOAT32, FLOAT16, INT32, UINT8, BOOL, INT16, INT8 = 0, 1, 2, 3, 6, 7, 9
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
        infer: the shape of its output; raises ValueError for operands and options that our files do not have.
        version: of the operator.
        runtime: the first release of TensorFlow Lite that runs this version.
        forms: the types that it takes here, and the one that it makes of them.
    """

    name: str
    code: int
    options: str
    infer: Infer
    version: int
    runtime: str
    forms: tuple[tuple[tuple[str, ...], str], ...]

    def output(self, types: tuple[str, ...]) -> str:
        """The type that it makes of these, "" where it does not take them."""
        return dict(self.forms).get(types, "")


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
    _need(len(y) in {0, 1, len(x)} and len(y) <= len(x), f"{list(x)} and {list(y)} have different ranks")
    fits = all(b in (1, a) for a, b in zip(x[len(x) - len(y) :], y, strict=True))
    _need(fits, f"{list(x)} and {list(y)} do not fit")
    return x


def _cast(operands: Sequence[Operand], options: Options) -> Shape:
    wanted = (INT8, INT16) if operands[0].dtype == "int8" else (UINT8, FLOAT32)
    _need((options["in_data_type"], options["out_data_type"]) == wanted, "it outputs other types")
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


_X = "x"  # stands for the type of activations
_PAIR, _SHAPED, _CUT = (_X, _X), (_X, "int32"), (_X, "int32", "int32", "int32")
_Version = tuple[int, str]  # of an operator, and the first release that runs it
_INT8: _Version = (2, "1.14.0")


def _versions(
    name: str,
    code: int,
    options: str,
    infer: Infer,
    inputs: tuple[str, ...],
    float32: _Version,
    int8: _Version = _INT8,
    int16: _Version = (3, "2.4.0"),
) -> Iterator[Operator]:
    """An operator that makes activations of activations, whose type says the version."""
    versions = {"float32": float32, "int8": int8, "int16": int16}
    for number, runtime in dict.fromkeys(versions.values()):
        made = [each for each, version in versions.items() if version == (number, runtime)]
        forms = tuple((tuple(each if given == _X else given for given in inputs), each) for each in made)
        yield Operator(name, code, options, infer, number, runtime, forms)


def _one(
    name: str, code: int, options: str, infer: Infer, version: _Version, *forms: tuple[tuple[str, ...], str]
) -> Operator:
    return Operator(name, code, options, infer, *version, forms)


_FLOATS, _BYTES = ("float32",) * 2, ("int8", "int8")
_NUMBERS = (("int32", "int32"), "bool")
_PRODUCT = ("FULLY_CONNECTED", 9, "FullyConnectedOptions", _fully_connected)
_CONV = ("CONV_2D", 3, "Conv2DOptions", _conv_2d)

# Codes and tables: tensorflow/lite/schema/schema.fbs. Versions and releases: op_version.cc and runtime_version.cc in
# tensorflow/compiler/mlir/lite/tools/versioning. MUL of int8 has the version that takes any scales; products of int16
# the one whose bias says its type.
OPERATORS = (
    *_versions("ADD", 0, "AddOptions", _elementwise, _PAIR, (1, "1.5.0")),
    *_versions("BATCH_MATMUL", 126, "BatchMatMulOptions", _batch_matmul, _PAIR, (1, "2.3.0"), (2, "2.3.0")),
    _one("CAST", 53, "CastOptions", _cast, (1, "1.5.0"), (("uint8",), "float32")),
    _one("CAST", 53, "CastOptions", _cast, (3, "2.8.0"), (("int8",), "int16")),
    *_versions("CONCATENATION", 2, "ConcatenationOptions", _concatenation, _PAIR, (1, "1.5.0"), int16=(3, "2.3.0")),
    _one(*_CONV, (1, "1.5.0"), (("float32",) * 3, "float32")),
    _one(*_CONV, (3, "1.14.0"), ((*_BYTES, "int32"), "int8")),
    _one(*_CONV, (8, "2.15.0"), (("int16", "int8", "int32"), "int16")),
    _one("DEQUANTIZE", 6, "", _same, (2, "1.14.0"), (("int8",), "float32")),
    _one("DEQUANTIZE", 6, "", _same, (3, "1.15.0"), (("float16",), "float32"), (("int16",), "float32")),
    _one("EQUAL", 71, "EqualOptions", _compare, (1, "1.14.0"), _NUMBERS),
    _one(*_PRODUCT, (5, "2.0.0"), (("float32",) * 3, "float32"), ((*_BYTES, "int32"), "int8")),
    _one(*_PRODUCT, (6, "2.1.0"), (_FLOATS, "float32"), (_BYTES, "int8")),
    _one(*_PRODUCT, (11, "2.15.0"), (("int16", "int8", "int32"), "int16"), (("int16", "int8"), "int16")),
    _one(*_PRODUCT, (12, "2.17.0"), (("float32", "int8", "float32"), "float32"), (("float32", "int8"), "float32")),
    _one("GATHER", 36, "GatherOptions", _gather, (1, "1.6.0"), (("float32", "int32"), "float32")),
    _one("GELU", 150, "GeluOptions", _same, (1, "2.9.0"), (("float32",), "float32")),
    _one("GELU", 150, "GeluOptions", _same, (2, "2.9.0"), (("int8",), "int8")),
    _one("IF", 118, "IfOptions", _if, (1, "1.15.0")),
    _one("LESS", 58, "LessOptions", _compare, (1, "1.14.0"), _NUMBERS),
    *_versions("LOGISTIC", 14, "", _same, (_X,), (1, "1.14.0"), int16=(3, "2.3.0")),
    *_versions("MEAN", 40, "ReducerOptions", _mean, _SHAPED, (1, "1.6.0")),
    *_versions("MUL", 18, "MulOptions", _elementwise, _PAIR, (1, "1.5.0"), (3, "1.15.0"), (4, "2.3.0")),
    *_versions("PAD", 34, "PadOptions", _pad, _SHAPED, (1, "1.5.0")),
    _one("QUANTIZE", 114, "", _same, (1, "1.14.0"), *(((x,), "int8") for x in ("float32", "uint8", "int16"))),
    _one("QUANTIZE", 114, "", _same, (2, "1.15.0"), (("float32",), "int16")),
    *_versions("REDUCE_MAX", 82, "ReducerOptions", _maximum, _SHAPED, (1, "1.11.0"), int16=(3, "2.5.0")),
    *_versions("RELU", 19, "", _relu, (_X,), (1, "1.5.0"), (2, "2.1.0"), (3, "2.5.0")),
    *_versions("RESHAPE", 22, "ReshapeOptions", _reshape, _SHAPED, *((1, "1.5.0"),) * 3),
    *_versions("RSQRT", 76, "", _rsqrt, (_X,), (1, "1.10.0"), (2, "2.5.0"), (3, "2.15.0")),
    *_versions("SOFTMAX", 25, "SoftmaxOptions", _softmax, (_X,), (1, "1.5.0"), int16=(3, "2.3.0")),
    *_versions("STRIDED_SLICE", 45, "StridedSliceOptions", _strided_slice, _CUT, (1, "1.6.0"), int16=(1, "1.6.0")),
    *_versions("SUB", 41, "SubOptions", _elementwise, _PAIR, (1, "1.6.0"), int16=(5, "2.4.0")),
    *_versions("TRANSPOSE", 39, "TransposeOptions", _transpose, _SHAPED, (1, "1.6.0"), int16=(5, "2.4.0")),
)


BY_CODE = {(operator.code, operator.version): operator for operator in OPERATORS}
# What moves numbers or picks some of them: what these are given and what they give is counted alike.
MOVING = {"CONCATENATION", "PAD", "REDUCE_MAX", "RESHAPE", "STRIDED_SLICE", "TRANSPOSE"}


def operator(name: str, types: tuple[str, ...] = (), made: str = "") -> Operator:
    """The one that takes *types*, and makes *made* of them where it says."""
    for each in OPERATORS:
        output = each.output(types)
        if each.name == name and (not each.forms or (output and made in ("", output))):
            return each
    raise KeyError(f"{name} makes no {made} of {types}")
