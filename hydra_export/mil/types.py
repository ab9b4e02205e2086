"""Types of MIL values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

_LARGEST_RANK = 8
_LARGEST_DIMENSION = 2**40  # so that products of eight of them are ordinary numbers


class InvalidProgram(Exception):
    """What is wrong, without where: whoever knows the place turns it into CheckFailed."""


@dataclass(frozen=True)
class Dtype:
    """One element type: how many bits a file holds of it, and the number that its weight file uses for it, if any."""

    name: str
    storage: DTypeLike
    bits: int
    blob_number: int | None = None


# By number in MIL.proto's DataType. Numbers of the weight file: MILBlob/Blob/BlobDataType.hpp of coremltools.
DTYPES = {
    1: Dtype("bool", np.bool_, 8),
    2: Dtype("string", np.object_, 0),
    10: Dtype("fp16", "<f2", 16, 1),
    11: Dtype("fp32", "<f4", 32, 2),
    12: Dtype("fp64", "<f8", 64),
    21: Dtype("int8", np.int8, 8, 4),
    23: Dtype("int32", "<i4", 32, 14),
    25: Dtype("int4", np.int8, 4, 8),
    31: Dtype("uint8", np.uint8, 8, 3),
    33: Dtype("uint32", "<u4", 32, 15),
    35: Dtype("uint4", np.uint8, 4, 11),
    36: Dtype("uint2", np.uint8, 2, 10),
    37: Dtype("uint1", np.uint8, 1, 9),
    38: Dtype("uint6", np.uint8, 6, 13),
    39: Dtype("uint3", np.uint8, 3, 12),
}
NAMED = {dtype.name: dtype for dtype in DTYPES.values()}
NUMBERS = {dtype.name: number for number, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorType:
    """A tensor of a fixed shape; scalars have the shape ()."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)


@dataclass(frozen=True)
class ListType:
    """A list of strings: the labels of a classifier."""

    length: int

    def __str__(self) -> str:
        return f"list of {self.length} strings"


@dataclass(frozen=True)
class DictionaryType:
    """From strings to the elements of *values*: the probabilities of a classifier."""

    values: str

    def __str__(self) -> str:
        return f"dictionary of {self.values}"


ValueType = TensorType | ListType | DictionaryType


def read_type(message: Any) -> ValueType:
    """The type that a ValueType message describes."""
    kind = message.WhichOneof("type")
    if kind == "tensorType":
        return _tensor_type(message.tensorType)
    if kind == "listType":
        if read_element(message.listType.type) != "string":
            raise InvalidProgram("it has a list of something other than strings")
        return ListType(_dimension(message.listType.length))
    if kind == "dictionaryType":
        if read_element(message.dictionaryType.keyType) != "string":
            raise InvalidProgram("it has a dictionary whose keys are not strings")
        return DictionaryType(read_element(message.dictionaryType.valueType))
    raise InvalidProgram("a value has no type")


def read_element(message: Any) -> str:
    """The dtype of a ValueType message that must describe a scalar."""
    kind = message.WhichOneof("type")
    scalar = _tensor_type(message.tensorType) if kind == "tensorType" else None
    if scalar is None or scalar.shape:
        raise InvalidProgram("a list or dictionary contains something other than scalars")
    return scalar.dtype


def _tensor_type(message: Any) -> TensorType:
    if message.dataType not in DTYPES:
        raise InvalidProgram(f"data type {message.dataType} is not known")
    if message.rank != len(message.dimensions) or message.rank > _LARGEST_RANK:
        raise InvalidProgram(f"a tensor of rank {message.rank} has {len(message.dimensions)} dimensions")
    return TensorType(DTYPES[message.dataType].name, tuple(_dimension(each) for each in message.dimensions))


def _dimension(message: Any) -> int:
    if message.WhichOneof("dimension") != "constant":
        raise InvalidProgram("a dimension is not fixed")
    size = int(message.constant.size)
    if not 1 <= size <= _LARGEST_DIMENSION:
        raise InvalidProgram(f"a dimension has size {size}")
    return size
