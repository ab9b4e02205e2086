"""Collecting tensors and operators of one graph; what they are, ``graph`` says."""

# B batch, H height, W width, C channels
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema  # type: ignore[import-untyped]
from numpy.typing import NDArray

from hydra_export.architecture import HydraConfig
from hydra_export.network import Span
from hydra_export.preprocess import Preprocessing
from hydra_export.quantized.grid import Range
from hydra_export.target import ExportSpec, TensorInfo
from hydra_export.targets.tflite.operators import (
    BOOL,
    DYNAMIC,
    FLOAT16,
    FLOAT32,
    INT8,
    INT16,
    INT32,
    UINT8,
    Operand,
    Operator,
    Shape,
    operator,
)

_TYPES = {
    "float32": FLOAT32,
    "float16": FLOAT16,
    "int32": INT32,
    "uint8": UINT8,
    "bool": BOOL,
    "int16": INT16,
    "int8": INT8,
}


Counted = tuple[float | NDArray[np.float32], int]  # the scale, or one for each row, and the zero point


@dataclass(frozen=True)
class Value(Operand):
    """One tensor of the graph, with its place in the list of them, and what its integers count."""

    index: int = 0
    range: Range | None = None


@dataclass(frozen=True)
class ConstantTensor:
    """A tensor whose content lies in the file: its shape, the buffer that holds it, and the scales of rows."""

    shape: Shape
    buffer: int
    dtype: str = "float32"
    scales: NDArray[np.float32] | None = None


class TFLiteGraphBuilder:
    """Collects tensors and operators; every tensor is named after its place in the model.

    Args:
        weight: where the content of a model's weight lies, by its name; of a part of a matrix by its input's heads too.
        store: puts the content of a small constant into the file, and says where it lies.
        opcode: the place of an operator in the file's list of those that it uses.
    """

    def __init__(
        self,
        config: HydraConfig,
        weight: Callable[[str, Span | None], ConstantTensor],
        store: Callable[[NDArray[Any]], ConstantTensor],
        opcode: Callable[[Operator], int],
    ) -> None:
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self._config, self._weight, self._store, self._opcode = config, weight, store, opcode
        self._constants: dict[str, Value] = {}

    @staticmethod
    def shape(info: TensorInfo) -> Shape:
        """As tensors have it."""
        return tuple(DYNAMIC if isinstance(size, str) else size for size in info.shape)

    def input(self, info: TensorInfo) -> Value:
        """An input of the graph."""
        return self._tensor(info.name, info.dtype, self.shape(info), counted=_counted(info))

    def weight(self, name: str, columns: Span | None = None) -> Value:
        """A model's weight, one tensor however often it is asked for; of fp16 ones what runtimes make float32 of."""
        label = name if columns is None else f"{name}[{columns[0]}:{columns[1]}]"
        if label not in self._constants:
            constant = self._weight(name, columns)
            counted = None if constant.scales is None else (constant.scales, 0)
            value = self._tensor(label, constant.dtype, constant.shape, constant.buffer, counted=counted)
            if constant.dtype == "float16":
                value = self.op(f"{label}/DEQUANTIZE", "DEQUANTIZE", [value])
            self._constants[label] = value
        return self._constants[label]

    def constant(self, name: str, content: Any) -> Value:
        """A small constant, one per name: int32 for lists of integers, bool for truth, float32 for others."""
        if name not in self._constants:
            dtype = {"i": "int32", "b": "bool"}.get(np.asarray(content).dtype.kind, "float32")
            array = np.asarray(content, np.dtype(dtype).newbyteorder("<"))
            numbers = array if dtype == "int32" else None
            self._constants[name] = self._tensor(name, dtype, array.shape, self._store(array).buffer, numbers)
        return self._constants[name]

    def op(self, name: str, kind: str, inputs: Sequence[Value], **options: int) -> Value:
        """Appends the operator *kind*; its output carries *name*: the tensor that it makes, then *kind*."""
        return self._op(name, operator(kind, tuple(value.dtype for value in inputs)), inputs, options)

    def _op(
        self,
        name: str,
        builtin: Operator,
        inputs: Sequence[Value],
        options: dict[str, int],
        counted: Counted | None = None,
        own: Range | None = None,
    ) -> Value:
        types = tuple(value.dtype for value in inputs)
        output = self._tensor(name, builtin.output(types), builtin.infer(inputs, options), counted=counted, own=own)
        self._append(builtin, inputs, output, options)
        return output

    def branch(self, info: TensorInfo, condition: Value, inputs: Sequence[Value], graphs: tuple[int, int]) -> Value:
        """Appends IF: what the first or the second of *graphs* makes of *inputs*, as *info* describes it."""
        output = self.input(info)
        options = {"then_subgraph_index": graphs[0], "else_subgraph_index": graphs[1]}
        self._append(operator("IF"), [condition, *inputs], output, options)
        return output

    def image(self, image_BHWC: Value, spec: ExportSpec, pixels: Preprocessing) -> Value:
        """As the patch embedding takes it: its weights have absorbed the normalisation of pixels, but for fp16.

        There it is apart, as those of pixels in 0-255 would be subnormal.
        """
        if spec.input == "tensor":
            return image_BHWC
        image_BHWC = self.op("image/CAST", "CAST", [image_BHWC], in_data_type=UINT8, out_data_type=FLOAT32)
        if spec.precision != "fp16":
            return image_BHWC
        mean, std = (255 * np.array(numbers) for numbers in (pixels.mean, pixels.std))
        image_BHWC = self.op("image/SUB", "SUB", [image_BHWC, self.constant("image/mean", mean)])
        return self.op("image/MUL", "MUL", [image_BHWC, self.constant("image/over_std", 1 / std)])

    def affine(self, place: str) -> tuple[Value | None, Value | None]:
        """What a norm multiplies by and adds, for as far as it does."""
        name = place.replace("/", ".")
        has_bias = self._config.norm == "layer_norm"
        return self.weight(f"{name}.weight"), self.weight(f"{name}.bias") if has_bias else None

    def epsilon(self, place: str) -> Value | None:
        """What is added to the variance of a norm."""
        return self.constant("norm/epsilon", self._config.layer_norm_eps)

    def rsqrt(self, variance: Value, place: str) -> Value:
        """In one operator."""
        return self.op(f"{place}/rsqrt/RSQRT", "RSQRT", [variance])

    def gelu(self, x: Value, place: str) -> Value:
        """In one operator."""
        by_tanh = self._config.activation == "gelu_tanh"
        return self.op(f"{place}/act/GELU", "GELU", [x], approximate=by_tanh)

    def quantize(self, x: Value, info: TensorInfo) -> Value:
        """*x* in the integers that *info* describes."""
        return self._quantized(info.name, x, info.dtype, _counted(info))

    def _quantized(self, name: str, x: Value, dtype: str, counted: Counted | None, own: Range | None = None) -> Value:
        return self._op(name, operator("QUANTIZE", (x.dtype,), dtype), [x], {}, counted, own)

    def result(self, x: Value) -> Value:
        """What the graph gives of *x*."""
        return x

    def _append(self, builtin: Operator, inputs: Sequence[Value], output: Value, options: dict[str, int]) -> None:
        operator = schema.OperatorT()
        operator.opcodeIndex = self._opcode(builtin)
        operator.inputs = np.array([value.index for value in inputs], np.int32)
        operator.outputs = np.array([output.index], np.int32)
        if builtin.options:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, builtin.options)
            operator.builtinOptions = getattr(schema, f"{builtin.options}T")()
            for option, value in options.items():
                setattr(operator.builtinOptions, _camel_case(option), value)
        self.operators.append(operator)

    def finish(self, name: str, inputs: Sequence[Value], outputs: Sequence[Value]) -> Any:
        """The subgraph as the schema's object."""
        graph = schema.SubGraphT()
        graph.name = name
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs = np.array([value.index for value in inputs], np.int32)
        graph.outputs = np.array([value.index for value in outputs], np.int32)
        return graph

    def _tensor(
        self,
        name: str,
        dtype: str,
        shape: Shape,
        buffer: int = 0,
        numbers: NDArray[np.int32] | None = None,
        counted: Counted | None = None,
        own: Range | None = None,
    ) -> Value:
        tensor = schema.TensorT()
        tensor.name, tensor.type, tensor.buffer, tensor.hasRank = name, _TYPES[dtype], buffer, True
        tensor.shape = np.array([1 if size == DYNAMIC else size for size in shape], np.int32)
        if DYNAMIC in shape:
            tensor.shapeSignature = np.array(shape, np.int32)
        if counted is not None:
            scales = np.atleast_1d(np.asarray(counted[0], np.float32))
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = scales
            tensor.quantization.zeroPoint = np.full(len(scales), counted[1], np.int64)
        self.tensors.append(tensor)
        return Value(dtype, shape, numbers, len(self.tensors) - 1, own)


def _counted(info: TensorInfo) -> Counted | None:
    return None if info.scale is None else (info.scale, info.zero_point)


def _camel_case(name: str) -> str:
    """As the schema's Python classes write the names of fields."""
    first, *others = name.split("_")
    return first + "".join(other.capitalize() for other in others)
