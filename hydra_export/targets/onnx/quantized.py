"""Graphs of integer activations: every operator stands between DequantizeLinear and QuantizeLinear.

That is how ONNX says that an operator computes in integers; runtimes and the compilers of NPUs make one of the three.
Activations are unsigned, weights int8 with a scale per output channel, biases int32 in units of both scales.
"""

# D width of subnetwork k, I input channels of a Linear, O output channels
from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from torch import Tensor

from hydra_export import stored_weight
from hydra_export.errors import CheckFailed
from hydra_export.normalised import Weight
from hydra_export.quantized import grid
from hydra_export.quantized.folded import Folded
from hydra_export.quantized.grid import Bits, Grid, Range, Ranges
from hydra_export.stored_weight import StoredWeight
from hydra_export.target import STATIC, ExportSpec
from hydra_export.targets.onnx.file import quantized_type
from hydra_export.targets.onnx.graph import NodeBuilder, OnnxGraphBuilder
from hydra_export.targets.onnx.weights import normalised

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint

# What moves numbers or picks some of them: what it is given and what it gives are counted alike.
_MOVING = {"Concat", "Pad", "ReduceMax", "Reshape", "Slice", "Split", "Transpose"}
_TAPS = {"patch_embed": "embed/patches", "tokens": "embed"}  # by the names of nodes, where they are not the same
_LARGEST_BIAS = 2**31 - 1


def builder(
    checkpoint: Checkpoint,
    heads: int,
    spec: ExportSpec,
    stored: Mapping[str, StoredWeight],
    weight: Callable[[str], ir.Value],
    scope: str = "",
    outside: NodeBuilder | None = None,
) -> OnnxGraphBuilder:
    """What collects the nodes of subnetwork *heads*; *weight* gives the values of what is *stored* by their names.

    Where these nodes are a branch, *outside* collects what comes before it.
    """
    if spec.precision not in STATIC:
        return OnnxGraphBuilder(heads, weight, spec.precision, scope)
    return QdqBuilder(checkpoint, heads, spec, stored, weight, scope, outside)


class QdqBuilder(OnnxGraphBuilder):
    """Collects the nodes of a subnetwork, and puts what an operator gives into integers and back.

    Values are what comes out of DequantizeLinear, and each has its Range.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        heads: int,
        spec: ExportSpec,
        stored: Mapping[str, StoredWeight],
        weight: Callable[[str], ir.Value],
        scope: str = "",
        outside: NodeBuilder | None = None,
    ) -> None:
        super().__init__(heads, weight, spec.precision, scope)
        assert checkpoint.activations is not None
        config = checkpoint.info.config
        self.ranges: Ranges = checkpoint.activations[spec.precision][heads]
        self.output_name, self.spec, self._stored_weights = config.output, spec, stored
        self._folded = Folded(config, stored_weight.normalised(checkpoint, spec), heads)
        self._constants: Mapping[str, Weight] = normalised(checkpoint, spec)
        self._outside = outside
        self._of: dict[ir.Value, Range] = {}
        self._as_wide: dict[ir.Value, ir.Value] = {}
        self._scalars: dict[ir.Value, float] = {}
        self._dequantized: dict[str, ir.Value] = {}

    def image(self, image: ir.Value) -> ir.Value:
        """The graph's input as the patch embedding takes it: [B, C, H, W], out of DequantizeLinear."""
        if self.spec.input == "image":  # pixels are their own integers
            pixels = self._raw("Transpose", [image], "image/Transpose", perm=[0, 3, 1, 2])
            return self._back(pixels, Range(0, 255, 255), "image", 8)
        own = self.ranges["image"]
        if self.spec.io == "integer":
            return self._back(image, own, "image", own.bits)
        return self._counted(image, own, "image", own.bits)

    def result(self, x: ir.Value) -> ir.Value:
        """What the graph gives of *x*: floats, or the integers that they were."""
        if self.spec.io == "float":
            return x
        dequantize = x.producer()
        assert dequantize
        integers = dequantize.inputs[0]
        assert integers
        self.nodes.remove(dequantize)
        return integers

    def constant(self, name: str, value: Sequence[int] | float | NDArray[np.float64]) -> ir.Value:
        """Numbers of shapes and axes as they are; what is computed with is an integer of 1, so that it is exact."""
        if isinstance(value, Sequence):
            return super().constant(name, value)
        number = float(value)
        label = f"{name}/DQ"
        if label not in self._dequantized:
            self._dequantized[label] = ir.Value(name=name)  # stands for it: its width is that of the operator
            self._scalars[self._dequantized[label]] = number
        return self._dequantized[label]

    def weight(self, name: str) -> ir.Value:
        """A constant of the model, counted as its tap says."""
        tap = "tokens" if name.startswith("tokens") else name
        own = self.ranges[tap]
        if name == "tokens.prefix":  # is put beside tokens
            own = self.ranges["embed"]
        tensor = self._constants[name].first(self.heads).detach()
        return self._constant_tensor(name, tensor, own, own.grid())

    def affine(self, place: str, has_bias: bool) -> tuple[ir.Value | None, ir.Value | None]:
        """What is left of it."""
        name = place.replace("/", ".")
        gamma, beta = self._folded.affine(place)
        if gamma is not None:
            wide = self.ranges[f"{name}.weight"].wide
            own = Range(0, 0, float(gamma.abs().max()), wide)
            scale = self._constant_tensor(f"{name}.weight", gamma, own, grid.symmetric(own.peak, own.bits))
        if beta is not None:
            own = self.ranges[f"{name}.bias"]
            shift = self._constant_tensor(f"{name}.bias", beta, own, own.grid())
        return (None if gamma is None else scale), (None if beta is None else shift)

    def layer_norm(self, x: ir.Value, place: str, epsilon: float) -> ir.Value:
        """One operator, whose bias is int32."""
        name = place.replace("/", ".")
        gamma, beta = self._folded.affine(place)
        bits = self._width([x], self.ranges[place])
        x = self._at(x, bits)
        scale = gamma.abs().max().item() if gamma is not None else 1.0
        counted: Grid = grid.symmetric(scale, 16 if gamma is not None and self.ranges[f"{name}.weight"].wide else 8)
        if gamma is None:
            width = self._folded.weights[f"{name}.weight"].first(self.heads).numel()
            ones = np.full(width, 127)
            inputs = [x, self._dq(f"{name}.weight", ones.astype(np.int8), counted.scale, 0)]
        else:
            numbers = counted.integers(gamma.numpy())
            dtype = np.int8 if counted.bits == 8 else np.int16
            inputs = [x, self._dq(f"{name}.weight", numbers.astype(dtype), counted.scale, 0)]
        if beta is not None:
            unit = np.asarray(self._grid_of(x, bits).scale * counted.scale, np.float32)
            inputs.append(self._bias(f"{name}.bias", beta, unit, self.tensor(f"{name}.bias.scale", unit)))
        raw = self._raw("LayerNormalization", inputs, f"{place}/LayerNormalization", axis=-1, epsilon=epsilon)
        return self._narrowed(raw, self.ranges[place], place, bits)

    def linear(self, x_RD: ir.Value, weight: str, name: str) -> ir.Value:
        """A Gemm of integers."""
        tap = name.removesuffix("/Gemm")
        bits = self._width([x_RD], self.ranges[tap])
        x_RD = self._at(x_RD, bits)
        products = self._products(x_RD, weight, bits, axis=1)
        raw = self._raw("Gemm", products, f"{tap}/Gemm")
        return self._narrowed(raw, self.ranges[tap], tap, bits)

    def plus_linear(self, x_RD: ir.Value, result_RD: ir.Value, place: str) -> ir.Value:
        """A sum."""
        name = f"{place}/residual"
        return self.op("Add", [x_RD, result_RD], f"{name if name in self.ranges else self.output_name}/Add")

    def conv(self, image_BCHW: ir.Value, name: str, **attributes: Any) -> ir.Value:
        """The patch embedding."""
        own = self.ranges["embed/patches"]
        bits = self._width([image_BCHW], own)
        image_BCHW = self._at(image_BCHW, bits)
        raw = self._raw("Conv", self._products(image_BCHW, "patch_embed", bits, axis=0), name, **attributes)
        return self._narrowed(raw, own, "embed/patches", bits)

    def ops(
        self, op_type: str, inputs: Sequence[ir.Value], name: str, outputs: Sequence[str], **attributes: Any
    ) -> list[ir.Value]:
        """What moves numbers keeps how they are counted; others are counted by the tap that the node is named after."""
        given = [value for value in inputs if value in self._of]
        if not given:
            return super().ops(op_type, inputs, name, outputs, **attributes)
        if op_type in _MOVING:
            own = self._of[given[0]]
            bits = own.bits
            raw = super().ops(op_type, inputs, name, [f"{output}/float" for output in outputs], **attributes)
            return [self._counted(value, own, output, bits) for value, output in zip(raw, outputs, strict=True)]
        own, tap = self._range(op_type, name, self._of[given[0]])
        bits = self._width(given, own)
        if op_type == "MatMul":
            inputs = [self._at(inputs[0], bits), self._second(inputs[1])]
        else:
            inputs = [self._at(value, bits) for value in inputs]
        raw = super().ops(op_type, inputs, name, [f"{name}/float"], **attributes)
        return [self._narrowed(raw[0], own, tap, bits)]

    def _range(self, op_type: str, name: str, given: Range) -> tuple[Range, str]:
        """Of what a node gives, by its name; inside of an activation it follows from what that is given."""
        tap = name.removesuffix(f"/{op_type}")
        tap = _TAPS.get(tap, tap)
        if tap in self.ranges:  # of a variance, before and after epsilon is added
            return self.ranges[tap], name if tap.endswith("/variance") else tap
        place, _, step = tap.rpartition("/")
        match op_type, step:
            case "Div", "gelu":
                return given.times(1 / math.sqrt(2)), f"{tap}/Div"
            case "Erf", _:
                return Range(-1, 1, 1, given.wide), f"{tap}/Erf"
            case "Add", "gelu":
                return Range(0, 2, 2, given.wide), f"{tap}/Add"
            case "Mul", "gelu":
                return self.ranges[f"{place}/act"].times(2), f"{tap}/Mul"
            case "Mul", "quick_gelu":
                return given.times(1.702), tap
            case "Mul", "half":
                return given.times(0.5), tap
            case "Sqrt", _:
                return Range(0, math.sqrt(given.high), math.sqrt(given.peak), given.wide), tap
        raise KeyError(name)

    @property
    def counts_integers(self) -> bool:
        return True

    def _width(self, given: Sequence[ir.Value], own: Range) -> Bits:
        """How many bits an operator computes in."""
        return 16 if own.wide or any(self._of[value].wide for value in given) else 8

    def _grid_of(self, value: ir.Value, bits: Bits) -> Grid:
        return self._of[value].grid(bits)

    def _at(self, value: ir.Value, bits: Bits) -> ir.Value:
        """*value* in at least so many bits."""
        if value in self._scalars:
            return self._scalar(value, bits)
        if bits == 8 or value not in self._of or self._of[value].wide:
            return value
        if value not in self._as_wide:
            wide = self._counted(value, self._of[value], f"{value.name}/wide", 16)
            self._as_wide[value] = wide
        return self._as_wide[value]

    def _second(self, value: ir.Value) -> ir.Value:
        """Keys or values, as a product takes them: Qualcomm's HTP multiplies 16 bits by 8, but not by 16."""
        own = self._of[value]
        if self.spec.precision != "w8a16" or not own.wide:
            return value
        return self._counted(value, msgspec.structs.replace(own, wide=False), f"{value.name}/narrow", 8)

    def _scalar(self, value: ir.Value, bits: Bits) -> ir.Value:
        dtype = np.uint8 if bits == 8 else np.uint16
        assert value.name
        return self._dq(f"{value.name}/{bits}", np.ones((), dtype), self._scalars[value], 0)

    def _narrowed(self, raw: ir.Value, own: Range, tap: str, bits: Bits) -> ir.Value:
        """What an operator gave in so many bits, in its own."""
        if own.bits == bits:
            return self._counted(raw, own, tap, bits)
        return self._counted(self._counted(raw, own, f"{tap}/wide", bits), own, tap, own.bits)

    def _counted(self, raw: ir.Value, own: Range, name: str, bits: Bits) -> ir.Value:
        """*raw* in integers and back."""
        integers = self._raw("QuantizeLinear", [raw, *self._scale_and_zero(own.grid(bits))], f"{name}/Q")
        return self._back(integers, own, name, bits)

    def _back(self, integers: ir.Value, own: Range, name: str, bits: Bits) -> ir.Value:
        value = self._raw("DequantizeLinear", [integers, *self._scale_and_zero(own.grid(bits))], f"{name}/DQ")
        self._of[value] = own
        return value

    def _scale_and_zero(self, counted: Grid) -> list[ir.Value]:
        dtype, zero = quantized_type(counted)
        label = f"grid/{counted.scale:.9g}"
        return [
            self.tensor(label, np.float32(counted.scale)),
            self.tensor(f"grid/{dtype}/{zero}", np.array(zero, dtype)),
        ]

    def _constant_tensor(self, name: str, tensor: Tensor, own: Range, counted: Grid) -> ir.Value:
        if name not in self._dequantized:
            dtype, zero = quantized_type(counted)
            shift = zero - counted.zero_point
            integers = (counted.integers(tensor.numpy()) + shift).astype(dtype)
            self._dequantized[name] = self._dq(name, integers, counted.scale, zero)
            self._of[self._dequantized[name]] = own
        return self._dequantized[name]

    def _products(self, x: ir.Value, weight: str, bits: Bits, axis: int) -> list[ir.Value]:
        """The inputs of a product: *x*, its weight and its bias."""
        stored = self._stored_weights[f"{weight}.weight"]
        scales = stored.scales(stored.cut.spans(self.heads))
        assert scales is not None
        given = [self._weight(f"{weight}.weight"), self._weight(f"{weight}.scale")]
        name = f"{weight}.weight/DQ"
        if bits == 16 and self._outside is not None:
            matrix = self._folded_matrix(self._outside, given, name, axis)
        else:
            # It makes QGemm only of what says its zero points.
            zeros = self.tensor(f"grid/zeros/{scales.numel()}", np.zeros(scales.numel(), np.int8))
            matrix = self._raw("DequantizeLinear", [*given, zeros], name, axis=axis)
        own = self._grid_of(x, bits).scale
        unit_O, bias = scales.numpy().astype(np.float32) * np.float32(own), f"{weight}.bias"
        if self._outside is None:
            unit = self.tensor(f"{bias}.scale", unit_O)
        else:  # as many numbers as the bias, of each head count: runtimes multiply when they load
            factor = self._outside.constant(f"grid/{own:.9g}", own)
            unit = self._outside.op("Mul", [given[1], factor], f"{bias}.scale")
        return [x, matrix, self._bias(bias, self._folded.bias(weight), unit_O, unit, axis=0)]

    @staticmethod
    def _folded_matrix(outside: NodeBuilder, given: list[ir.Value], name: str, axis: int) -> ir.Value:
        """The numbers of a weight, made outside of the branch that uses them.

        With activations of 16 bits onnxruntime 1.32 multiplies floats. A DequantizeLinear of what lies outside of the
        branch it refuses inside, and computes at each run outside; a cast and a product it folds.
        """
        weight, scale_O = given
        wide = outside.op("Cast", [weight], f"{name}/Cast", to=ir.DataType.FLOAT.value)
        if axis == 0:  # [O] beside [O, C, P, P]
            shape = outside.constant("grid/columns", [-1, 1, 1, 1])
            scale_O = outside.op("Reshape", [scale_O, shape], f"{name}/Reshape")
        return outside.op("Mul", [wide, scale_O], name)

    def _bias(
        self, name: str, bias: Tensor, unit: NDArray[np.float32], unit_value: ir.Value, **attributes: int
    ) -> ir.Value:
        """*bias* in 32 bits, in steps of *unit*, which the graph has as *unit_value*."""
        integers = np.rint(bias.double().numpy() / unit)
        if np.abs(integers).max(initial=0) > _LARGEST_BIAS:
            raise CheckFailed(f"{name} is too large for integers: {np.abs(integers).max():.3g} steps of its product.")
        given = [self.tensor(name, integers.astype(np.int32)), unit_value]
        return self._raw("DequantizeLinear", given, f"{name}/DQ", **attributes)

    def _dq(self, name: str, integers: NDArray[Any], scale: float, zero: int) -> ir.Value:
        if f"{name}/DQ" not in self._dequantized:
            scale_value = self.tensor(f"grid/{scale:.9g}", np.float32(scale))
            zero_value = self.tensor(f"grid/{integers.dtype.name}/{zero}", np.array(zero, integers.dtype))
            given = [self.tensor(name, integers), scale_value, zero_value]
            self._dequantized[f"{name}/DQ"] = self._raw("DequantizeLinear", given, f"{name}/DQ")
        return self._dequantized[f"{name}/DQ"]

    def _raw(self, op_type: str, inputs: Sequence[ir.Value], name: str, **attributes: Any) -> ir.Value:
        return super().ops(op_type, inputs, name, [name], **attributes)[0]
