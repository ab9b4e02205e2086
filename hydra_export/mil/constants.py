"""Values that a program holds itself: weights, shapes, axes, labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydra_export.mil.types import (
    NAMED,
    DictionaryType,
    InvalidProgram,
    ListType,
    TensorType,
    ValueType,
    read_element,
    read_type,
)
from hydra_export.mil.weights import WeightFile, unpacked

# Where the elements of each type are, within a message.
_FIELDS = {"fp32": "floats", "int32": "ints", "bool": "bools", "string": "strings"}
_OpenFile = Callable[[str], WeightFile]


@dataclass(frozen=True)
class Constant:
    """A value in the file; *read* fetches it, as saved."""

    type: ValueType
    read: Callable[[], Any]
    offset: int | None = None  # in a weight file

    @property
    def static(self) -> Any:
        """As Python has it: a number, a string, or a tuple of them."""
        value = self.read()
        if isinstance(value, np.ndarray):
            if value.ndim > 1:
                raise InvalidProgram(f"a list of numbers was expected, found {self.type}")
            value = value.tolist()
        return tuple(value) if isinstance(value, list) else value


def read_constant(message: Any, open_file: _OpenFile) -> Constant:
    """The constant that a Value message holds; *open_file* finds a weight file by its name."""
    declared = read_type(message.type)
    if message.WhichOneof("value") == "blobFileValue":
        if not isinstance(declared, TensorType):
            raise InvalidProgram(f"a {declared} is in a weight file")
        place = message.blobFileValue
        weights, offset = open_file(place.fileName), int(place.offset)
        weights.check(offset, declared)
        return Constant(declared, lambda: weights.read(offset, declared), offset)
    immediate = message.immediateValue
    kind = immediate.WhichOneof("value")
    if isinstance(declared, TensorType) and kind == "tensor":
        array = _tensor(immediate.tensor, declared)
        return Constant(declared, lambda: array)
    if isinstance(declared, ListType) and kind == "list":
        strings = [_string(item) for item in immediate.list.values]
        if len(strings) != declared.length:
            raise InvalidProgram(f"a {declared} has {len(strings)}")
        if len(set(strings)) < len(strings):  # they become the keys of a dictionary
            raise InvalidProgram("a label is listed twice")
        return Constant(declared, lambda: strings)
    if isinstance(declared, DictionaryType) and kind == "dictionary":
        pairs = {_string(pair.key): _string(pair.value) for pair in immediate.dictionary.values}
        return Constant(declared, lambda: pairs)
    raise InvalidProgram(f"a value declared as {declared} is a {kind or 'nothing'}")


def _string(message: Any) -> str:
    if read_element(message.type) != "string" or message.immediateValue.WhichOneof("value") != "tensor":
        raise InvalidProgram("a list or dictionary contains something other than strings")
    return str(_tensor(message.immediateValue.tensor, TensorType("string", ())))


def _tensor(message: Any, declared: TensorType) -> NDArray[Any] | str:
    field = message.WhichOneof("value")
    if field != _FIELDS.get(declared.dtype, "bytes"):
        raise InvalidProgram(f"a value declared as {declared} is given as {field or 'nothing'}")
    values = getattr(message, field).values
    if field == "bytes":
        if len(values) != -(-declared.size * NAMED[declared.dtype].bits // 8) or declared.dtype == "fp64":
            raise InvalidProgram(f"a value declared as {declared} has {len(values)} bytes")
        return unpacked(np.frombuffer(values, np.uint8), declared)
    if len(values) != declared.size:
        raise InvalidProgram(f"a value declared as {declared} has {len(values)} elements")
    if declared.dtype == "string":
        if declared.shape:
            raise InvalidProgram("it has a tensor of strings")
        return str(values[0])
    return np.array(values, NAMED[declared.dtype].storage).reshape(declared.shape)
