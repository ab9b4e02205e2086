"""A function of a package: its operations, read from the file and checked without running any."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import hydra_export.mil.ops  # noqa: F401 (puts them into the table)
from hydra_export.mil.constants import Constant, read_constant
from hydra_export.mil.operation import ANY, Operation, Param, find
from hydra_export.mil.types import InvalidProgram, ListType, TensorType, ValueType, read_type
from hydra_export.mil.weights import WeightFile

OPSETS = {"CoreML5": 15, "CoreML6": 16, "CoreML7": 17, "CoreML8": 18}
# An element costs as much as this many multiply-accumulates, roughly.
_MACS_PER_ELEMENT = 64


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a program, checked by its shapes before anything is computed.

    Attributes:
        live_elements: numbers in memory at once; four bytes each, and a few times that within an operation.
        macs: multiply-accumulates of one run, in which an element that is written counts as 64.
        operations: in one function, constants included.
        spec_bytes: size of the model file without its weights.
    """

    live_elements: int = 2**30
    macs: int = 2**43
    operations: int = 200_000
    spec_bytes: int = 2**28


@dataclass(frozen=True)
class Step:
    """One operation of a function.

    Attributes:
        values: its parameters that are tensors: names of values, or constants; a tuple where it takes many.
        static: its other parameters.
        outputs: names and types.
        last_uses: names of values that no later step uses.
    """

    operation: Operation
    values: dict[str, Any]
    static: dict[str, Any]
    outputs: tuple[tuple[str, ValueType], ...]
    last_uses: tuple[str, ...]

    @property
    def arguments(self) -> Iterator[str | Constant]:
        """What it takes, one by one."""
        for given in self.values.values():
            yield from (each for each in (given if isinstance(given, tuple) else (given,)) if each is not None)

    @property
    def label(self) -> str:
        """What errors call it."""
        return f"{self.operation.name} '{self.outputs[0][0]}'"


@dataclass(frozen=True)
class Function:
    """One function, checked.

    Attributes:
        ios: the version whose operations it may use.
        constants: by name; only those that are values of their own, not written inside an operation.
        unused: names of constants that nothing uses.
        macs: multiply-accumulates of its products.
        live_elements: the most numbers in memory at once, without constants.
    """

    name: str
    ios: int
    inputs: dict[str, TensorType]
    outputs: dict[str, ValueType]
    constants: dict[str, Constant]
    unused: frozenset[str]
    steps: tuple[Step, ...]
    macs: int
    live_elements: int

    @property
    def operations(self) -> frozenset[str]:
        """The kinds of operations that it uses, except const."""
        return frozenset(step.operation.name for step in self.steps)

    @property
    def types(self) -> Iterator[ValueType]:
        """Of every value in it."""
        yield from self.inputs.values()
        yield from (constant.type for constant in self.every_constant)
        for step in self.steps:
            yield from (declared for _, declared in step.outputs)

    @property
    def every_constant(self) -> Iterator[Constant]:
        """Those of their own, and those that are written inside an operation and are tensors to it."""
        yield from self.constants.values()
        for step in self.steps:
            yield from (each for each in step.arguments if isinstance(each, Constant))


def read_function(name: str, message: Any, open_file: Callable[[str], WeightFile], limits: Limits) -> Function:
    """The function that a Function message holds.

    Raises:
        InvalidProgram: it breaks a rule of MIL, uses what is not understood here, or is too large.
    """
    try:
        return _Reader(name, message, open_file, limits).function()
    except InvalidProgram as error:
        raise InvalidProgram(f"function {name!r}: {error}") from error


class _Reader:
    """Goes through the operations in order, and knows what every name means so far."""

    def __init__(self, name: str, message: Any, open_file: Callable[[str], WeightFile], limits: Limits) -> None:
        self.name, self.message, self.open_file, self.limits = name, message, open_file, limits
        if message.opset not in OPSETS:
            raise InvalidProgram(f"opset {message.opset!r} is not known")
        self.ios = OPSETS[message.opset]
        blocks = unique(message.block_specializations, "opset")
        if set(blocks) != {message.opset}:
            raise InvalidProgram(f"it has code for {sorted(blocks)}, not for {message.opset}")
        self.block = blocks[message.opset]
        self.types: dict[str, ValueType] = {}
        self.constants: dict[str, Constant] = {}
        self.weights: set[str] = set()  # names of what constexprs make
        self.used: set[str] = set()
        self.macs = self.written = 0

    def function(self) -> Function:
        if len(self.block.operations) > self.limits.operations:
            raise InvalidProgram(f"it has {len(self.block.operations)} operations")
        for each in self.message.inputs:
            declared = read_type(each.type)
            if not isinstance(declared, TensorType) or declared.dtype not in ANY:
                raise InvalidProgram(f"input {each.name!r} is a {declared}")
            self._define(each.name, declared)
        inputs = dict(self.types)
        steps: list[tuple[str, Step]] = []
        for number, operation in enumerate(self.block.operations):
            label = f"{operation.type} '{operation.outputs[0].name}'" if operation.outputs else f"operation {number}"
            try:
                if operation.type == "const":
                    self._const(operation)
                else:
                    steps.append((label, self._step(operation)))
            except InvalidProgram as error:
                raise InvalidProgram(f"{label}: {error}") from error
        outputs = {}
        for output in self.block.outputs:
            if output not in self.types or output in outputs:
                raise InvalidProgram(f"output {output!r} is not computed, or is listed twice")
            outputs[output] = self.types[output]
        return Function(
            self.name,
            self.ios,
            {name: declared for name, declared in inputs.items() if isinstance(declared, TensorType)},
            outputs,
            self.constants,
            frozenset(self.constants.keys() - self.used - outputs.keys()),
            *self._with_last_uses(steps, set(outputs)),
        )

    def _define(self, name: str, declared: ValueType) -> None:
        if not name or name in self.types:
            raise InvalidProgram(f"the name {name!r} is empty or given twice")
        self.types[name] = declared

    def _const(self, message: Any) -> None:
        attributes = unique(message.attributes, "attribute")
        if set(attributes) != {"name", "val"} or message.inputs or len(message.outputs) != 1:
            raise InvalidProgram("it has parts other than a name, a value and one output")
        constant = read_constant(attributes["val"], self.open_file)
        (output,) = message.outputs
        if read_type(output.type) != constant.type:
            raise InvalidProgram(f"its output is declared as {read_type(output.type)}, its value as {constant.type}")
        self._define(output.name, constant.type)
        self.constants[output.name] = constant

    def _step(self, message: Any) -> Step:
        operation = find(message.type, self.ios)
        given = self._arguments(message, operation)
        values, static = self._bind(operation, given)
        types = {name: self._types_of(each) for name, each in values.items()}
        inferred = operation.infer(**types, **static)
        declared = tuple(read_type(output.type) for output in message.outputs)
        if declared != inferred:
            shown = [", ".join(map(str, each)) or "nothing" for each in (declared, inferred)]
            raise InvalidProgram(f"its output is declared as {shown[0]}, but is {shown[1]}")
        for output, kind in zip(message.outputs, declared, strict=True):
            self._define(output.name, kind)
            if operation.is_constexpr:
                self.weights.add(output.name)
        macs, scratch = operation.macs(**types, **static), operation.scratch(**types, **static)
        self.macs += macs
        self.written += sum(map(_size, declared)) + scratch
        if scratch > self.limits.live_elements or self._cost() > self.limits.macs:
            raise InvalidProgram("the program needs more memory or time than allowed")
        names = tuple(output.name for output in message.outputs)
        return Step(operation, values, static, tuple(zip(names, declared, strict=True)), ())

    def _cost(self) -> int:
        return self.macs + _MACS_PER_ELEMENT * self.written

    def _arguments(self, message: Any, operation: Operation) -> dict[str, list[str | Constant]]:
        """What is given for each parameter: names of values, or constants."""
        attributes = unique(message.attributes, "attribute")
        attributes.pop("name", None)
        if operation.is_constexpr and operation.since < 18:  # iOS 16 wrote these parameters as attributes
            if message.inputs:
                raise InvalidProgram("it has inputs")
            return {name: [read_constant(each, self.open_file)] for name, each in attributes.items()}
        if attributes:
            raise InvalidProgram(f"attribute {min(attributes)!r} is not known")
        return {
            name: [self._binding(binding) for binding in argument.arguments]
            for name, argument in unique(message.inputs, "input").items()
        }

    def _binding(self, message: Any) -> str | Constant:
        if message.WhichOneof("binding") == "value":
            return read_constant(message.value, self.open_file)
        if message.name not in self.types:
            raise InvalidProgram(f"it uses {message.name!r}, which is not computed before it")
        self.used.add(message.name)
        return str(message.name)

    def _bind(
        self, operation: Operation, given: dict[str, list[str | Constant]]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Values and static parameters by name, checked against what *operation* takes."""
        if unknown := given.keys() - operation.params.keys():
            raise InvalidProgram(f"input {min(unknown)!r} is not known")
        values: dict[str, Any] = {}
        static: dict[str, Any] = {}
        groups: dict[str, str] = {}
        for name, param in operation.params.items():
            target = static if param.kind == "static" else values
            if name not in given:
                if param.required:
                    raise InvalidProgram(f"input {name!r} is missing")
                target[name] = param.default
                continue
            if not given[name] or (len(given[name]) > 1 and not param.many):
                raise InvalidProgram(f"input {name!r} is given {len(given[name])} times")
            for each in given[name]:
                self._check_argument(name, param, each, groups)
            bound = [self._static(name, each) if param.kind == "static" else each for each in given[name]]
            target[name] = tuple(bound) if param.many else bound[0]
        return values, static

    def _check_argument(self, name: str, param: Param, given: str | Constant, groups: dict[str, str]) -> None:
        kind = self._types_of(given)
        dtype = kind.dtype if isinstance(kind, TensorType) else "list" if isinstance(kind, ListType) else "dictionary"
        rank = kind.rank if isinstance(kind, TensorType) else 0
        if dtype not in param.dtypes or not param.rank[0] <= rank <= param.rank[1]:
            raise InvalidProgram(f"input {name!r} is a {kind}")
        if param.group and groups.setdefault(param.group, dtype) != dtype:
            raise InvalidProgram(f"input {name!r} is a {kind}, another input is of {groups[param.group]}")
        constant = isinstance(given, Constant) or given in self.constants or given in self.weights
        if param.kind != "value" and not constant:
            raise InvalidProgram(f"input {name!r} is not constant")

    def _static(self, name: str, given: str | Constant) -> Any:
        constant = self.constants.get(given) if isinstance(given, str) else given
        if constant is None:
            raise InvalidProgram(f"input {name!r} is computed")
        if isinstance(constant.type, TensorType) and constant.type.size > self.limits.operations:
            raise InvalidProgram(f"input {name!r} is a {constant.type}")
        return constant.static

    def _types_of(self, given: Any) -> Any:
        if isinstance(given, tuple):
            return tuple(map(self._types_of, given))
        if isinstance(given, str):
            return self.types[given]
        return given.type if isinstance(given, Constant) else None

    def _with_last_uses(self, steps: list[tuple[str, Step]], outputs: set[str]) -> tuple[tuple[Step, ...], int, int]:
        """The same steps, each with the values that it uses last; and what the whole costs."""
        last = {name: index for index, (_, step) in enumerate(steps) for name in _used(step)}
        live = most = sum(_size(self.types[each.name]) for each in self.message.inputs)
        done = []
        for index, (label, step) in enumerate(steps):
            live += sum(_size(kind) for _, kind in step.outputs)
            most = max(most, live)
            if live > self.limits.live_elements:
                raise InvalidProgram(f"{label}: the program needs more memory than allowed")
            unused = {name for name, _ in step.outputs if name not in last}
            over = {name for name in _used(step) if last[name] == index} | unused
            over -= outputs | self.constants.keys()
            live -= sum(_size(self.types[name]) for name in over)
            done.append(Step(step.operation, step.values, step.static, step.outputs, tuple(sorted(over))))
        return tuple(done), self.macs, most


def _used(step: Step) -> set[str]:
    return {each for each in step.arguments if isinstance(each, str)}


def _size(kind: ValueType) -> int:
    return kind.size if isinstance(kind, TensorType) else 1


def unique(entries: Any, what: str) -> dict[str, Any]:
    """The entries of a map; protobuf would keep the last of a key that comes twice, others may keep the first."""
    found = {entry.key: entry.value for entry in entries}
    if len(found) < len(entries):
        raise InvalidProgram(f"the same {what} occurs twice")
    return found
