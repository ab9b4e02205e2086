"""Writing a function: operations one after the other, their types inferred by the same rules by which they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from hydra_export.mil.operation import Operation, find
from hydra_export.mil.program import OPSETS
from hydra_export.mil.proto import message_class
from hydra_export.mil.types import NUMBERS, DictionaryType, ListType, TensorType, ValueType

_DTYPES = {
    **{np.dtype(name): short for name, short in (("float16", "fp16"), ("float32", "fp32"), ("bool", "bool"))},
    **{np.dtype(name): name for name in ("int8", "int32")},
}
_FIELDS = {"fp32": "floats", "int32": "ints", "bool": "bools", "string": "strings"}  # of all others: bytes

# A tensor of so many elements lies in the weight file, as coremltools has it; smaller ones lie in the program.
_FEWEST_IN_FILE = 10

Store = Callable[[Any], tuple[str, int]]  # puts an array into a weight file, and says into which and at which offset


class Labels(tuple[str, ...]):
    """The classes of a classifier."""

    __slots__ = ()


@dataclass(frozen=True)
class MilValue:
    """What an operation gives, or a constant with its *content*."""

    name: str
    type: ValueType
    content: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a tensor."""
        assert isinstance(self.type, TensorType)
        return self.type.shape


class ProgramBuilder:
    """Adds operations to one function.

    An operation is a method with its name in MIL, and takes its parameters as MIL names them: ``linear(x=x,
    weight=array, bias=array, name="fc1")``. What is no ``MilValue`` becomes a constant of its own, named after the
    operation and the parameter, and so does every default, which coremltools' readers expect to see.
    """

    def __init__(self, ios: int, store: Store) -> None:
        self.ios, self._store = ios, store
        self._opset = next(name for name, since in OPSETS.items() if since == ios)
        self._function = message_class("Function")(opset=self._opset)
        self._block = self._function.block_specializations.add(key=self._opset).value

    def input(self, name: str, kind: TensorType) -> MilValue:
        """One more input of the function."""
        self._function.inputs.add(name=name).type.CopyFrom(_type(kind))
        return MilValue(name, kind)

    def const(self, val: Any, name: str) -> MilValue:
        """A constant: an array, or a number, a truth value, a string or a list of whole numbers."""
        constant = _constant(val, name)
        message = self._block.operations.add(type="const")
        _entry(message.attributes, "name", _scalar(name))
        _entry(message.attributes, "val", self._literal(constant))
        message.outputs.add(name=name).type.CopyFrom(_type(constant.type))
        return constant

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        if operation.startswith("_"):
            raise AttributeError(operation)
        return partial(self._add, find(operation, self.ios))

    def function(self, outputs: Sequence[MilValue]) -> Any:
        """The Function message that gives *outputs*."""
        self._block.outputs.extend(value.name for value in outputs)
        return self._function

    def _add(self, operation: Operation, *, name: str, outputs: Sequence[str] = (), **given: Any) -> Any:
        """Appends *operation*; its *outputs* are called *name* unless told otherwise."""
        defaults = {key: param.default for key, param in operation.params.items() if key not in given}
        arguments = {
            key: tuple(
                self._argument(operation, each, f"{name}_{key}_0")
                for each in (value if operation.params[key].many else [value])
            )
            for key, value in (given | defaults).items()
            if value is not None
        }
        results = self._results(operation, arguments, outputs or [name])
        message, attributes = self._block.operations.add(type=operation.name), {"name": _scalar(name)}
        if operation.is_constexpr and operation.since < 18:  # its parameters are attributes
            attributes |= {key: self._literal(each) for key, (each,) in arguments.items()}
        else:
            for key in sorted(arguments):
                argument = message.inputs.add(key=key).value
                for each in arguments[key]:
                    self._bind(argument.arguments.add(), each)
        for key in sorted(attributes):
            _entry(message.attributes, key, attributes[key])
        for result in results:
            message.outputs.add(name=result.name).type.CopyFrom(_type(result.type))
        return results[0] if len(results) == 1 else results

    def _argument(self, operation: Operation, value: Any, name: str) -> MilValue:
        """*value* as a MilValue; what weights are made from, and labels, are written where they are used."""
        if isinstance(value, MilValue):
            return value
        if isinstance(value, Labels):
            return MilValue("", ListType(len(value)), value)
        return _constant(value, "") if operation.is_constexpr else self.const(value, name)

    def _bind(self, binding: Any, value: MilValue) -> None:
        if value.name:
            binding.name = value.name
        else:
            binding.value.CopyFrom(self._literal(value))

    def _results(
        self, operation: Operation, arguments: Mapping[str, tuple[MilValue, ...]], names: Sequence[str]
    ) -> list[MilValue]:
        given: dict[str, Any] = {}
        for key, param in operation.params.items():
            values = arguments.get(key, ())
            if param.kind == "static":
                given[key] = _static(values[0].content) if values else param.default
            else:
                types = tuple(value.type for value in values)
                given[key] = types if param.many else types[0] if types else None
        return [MilValue(*pair) for pair in zip(names, operation.infer(**given), strict=True)]

    def _literal(self, constant: MilValue) -> Any:
        """The Value message of a constant; a tensor of some size lies in the weight file."""
        kind, content = constant.type, constant.content
        message = message_class("Value")()
        message.type.CopyFrom(_type(kind))
        if isinstance(kind, ListType):
            message.immediateValue.list.values.extend(map(_scalar, content))
            return message
        assert isinstance(kind, TensorType)
        if kind.size >= _FEWEST_IN_FILE:
            message.blobFileValue.fileName, message.blobFileValue.offset = self._store(content)
            return message
        tensor, field = message.immediateValue.tensor, _FIELDS.get(kind.dtype)
        if field is None:
            tensor.bytes.values = content.tobytes()
        else:
            getattr(tensor, field).values.extend([content] if isinstance(content, str) else content.ravel().tolist())
        return message


def _constant(content: Any, name: str) -> MilValue:
    if isinstance(content, str):
        return MilValue(name, TensorType("string", ()), content)
    array = np.asarray(content)
    if array.dtype == np.int64:  # Python's whole numbers
        array = array.astype(np.int32)
    return MilValue(name, TensorType(_DTYPES[array.dtype], array.shape), array)


def _static(content: Any) -> Any:
    """As Python has it."""
    value = content.tolist() if isinstance(content, np.ndarray | np.generic) else content
    return tuple(value) if isinstance(value, list) else value


def _entry(entries: Any, key: str, value: Any) -> None:
    entries.add(key=key).value.CopyFrom(value)


def _scalar(text: str) -> Any:
    message = message_class("Value")()
    message.type.CopyFrom(_type(TensorType("string", ())))
    message.immediateValue.tensor.strings.values.append(text)
    return message


def _type(kind: ValueType) -> Any:
    message = message_class("ValueType")()
    if isinstance(kind, TensorType):
        message.tensorType.dataType = NUMBERS[kind.dtype]
        message.tensorType.rank = kind.rank
        for size in kind.shape:
            message.tensorType.dimensions.add().constant.size = size
    elif isinstance(kind, ListType):
        message.listType.type.CopyFrom(_type(TensorType("string", ())))
        message.listType.length.constant.size = kind.length
    else:
        assert isinstance(kind, DictionaryType)
        message.dictionaryType.keyType.CopyFrom(_type(TensorType("string", ())))
        message.dictionaryType.valueType.CopyFrom(_type(TensorType(kind.values, ())))
    return message
