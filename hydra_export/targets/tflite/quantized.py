"""Graphs of integer activations: every operator computes in int8, or in int16 where something that it handles has that.

What kernels demand is in tensorflow/lite/kernels: SOFTMAX and LOGISTIC give fixed scales; what moves numbers keeps how
they are counted; int16 has no zero point; biases are int32 in units of both scales.
"""

# D width of subnetwork k, O output channels of a Linear
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hydra_export import stored_weight
from hydra_export.errors import CheckFailed
from hydra_export.network import Span
from hydra_export.preprocess import Preprocessing
from hydra_export.quantized import grid
from hydra_export.quantized.folded import Folded
from hydra_export.quantized.grid import Bits, Grid, Range, Ranges
from hydra_export.target import STATIC, ExportSpec, TensorInfo, image_info, output_info
from hydra_export.targets.tflite.builder import ConstantTensor, Counted, TFLiteGraphBuilder, Value
from hydra_export.targets.tflite.operators import INT8, INT16, INT32, MOVING, Operator, operator

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint

_PIXELS = Range(0, 255, 32767 / 128)  # pixels are their own integers, or 128 of 16 bits
_DTYPES: dict[Bits, str] = {8: "int8", 16: "int16"}
_PRODUCTS = ("CONV_2D", "FULLY_CONNECTED")
_LARGEST_BIAS = 2**31 - 1
_WIDE: dict[str, dict[str, int]] = {
    "ADD": {"pot_scale_int16": False},
    "SUB": {"pot_scale_int16": False},
    "CONV_2D": {"quantized_bias_type": INT32},
    "FULLY_CONNECTED": {"quantized_bias_type": INT32},
}
# GELU of 16 bits, which no version of the operator names, is x sigmoid(x (a + b x^2)).
_BY_TANH = (1.5957691216057308, 0.07135481627260025)  # 2 sqrt(2 / pi), and that times 0.044715
_BY_ERF = (1.60031416, 0.06940179)  # off by 2.7e-4 at most
_SHARES = Range(0, 1, 1, wide=True, method="fixed")

Weigh = Callable[[str, Span | None], ConstantTensor]


@dataclass(frozen=True)
class Later(Value):
    """A constant that becomes a tensor when it is known what takes it, and so how it is counted.

    Attributes:
        name: its own.
        content: its numbers; of a bias those that are added to a product.
        counted: by so many bits; None for a bias, whose units are those of its product.
    """

    name: str = ""
    content: NDArray[np.floating] | None = None
    counted: Callable[[Bits], Grid] | None = None


def builder(
    checkpoint: Checkpoint, heads: int, spec: ExportSpec, weight: Weigh, store: Any, opcode: Any
) -> TFLiteGraphBuilder:
    """What collects the graph of subnetwork *heads*."""
    if spec.precision not in STATIC:
        return TFLiteGraphBuilder(checkpoint.info.config, weight, store, opcode)
    return QuantizedBuilder(checkpoint, heads, spec, weight, store, opcode)


def interface(checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec) -> tuple[TensorInfo, TensorInfo]:
    """The image that a graph of *heads* takes, and what it gives."""
    config = checkpoint.info.config
    image, output = image_info(config, spec, channels_last=True), output_info(config, heads, spec)
    if spec.precision in STATIC and spec.io == "integer" and checkpoint.activations is not None:
        ranges = checkpoint.activations[spec.precision][heads[-1]]
        output = _described(output, ranges[config.output])
        image = image if spec.input == "image" else _described(image, ranges["image"])
    return image, output


def counted(info: TensorInfo, spec: ExportSpec) -> TensorInfo:
    """An input or output as the file's tensors have it: where activations are integers, pixels count themselves."""
    is_counted = spec.precision in STATIC and info.dtype == "uint8"
    return msgspec.structs.replace(info, scale=1.0) if is_counted else info


def _described(info: TensorInfo, own: Range) -> TensorInfo:
    units = own.grid()
    return msgspec.structs.replace(info, dtype=_DTYPES[units.bits], scale=units.scale, zero_point=units.zero_point)


class QuantizedBuilder(TFLiteGraphBuilder):
    """Collects the tensors and operators of subnetwork *heads*, whose values each have a Range."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        heads: int,
        spec: ExportSpec,
        weight: Weigh,
        store: Callable[[NDArray[Any]], ConstantTensor],
        opcode: Callable[[Operator], int],
    ) -> None:
        super().__init__(checkpoint.info.config, weight, store, opcode)
        assert checkpoint.activations is not None
        self.ranges: Ranges = checkpoint.activations[spec.precision][heads]
        self._io = spec.io
        self._folded = Folded(self._config, stored_weight.normalised(checkpoint, spec), heads)
        self._scales: dict[int, NDArray[np.float32]] = {}
        self._as_wide: dict[int, Value] = {}

    def image(self, image_BHWC: Value, spec: ExportSpec, pixels: Preprocessing) -> Value:
        """In integers: QUANTIZE makes them of numbers, and int8 of pixels."""
        own = _PIXELS if spec.input == "image" else self.ranges["image"]
        if spec.input == "tensor" and spec.io == "integer":
            return replace(image_BHWC, range=own)
        return self._requantized(f"image/{_DTYPES[own.bits]}", image_BHWC, own, own.bits)

    def result(self, x: Value) -> Value:
        """The integers, or DEQUANTIZE of them."""
        output = self._config.output
        if self._io == "integer":
            return x
        self.tensors[x.index].name = f"{output}/{x.dtype}"
        return self._op(output, operator("DEQUANTIZE", (x.dtype,)), [x], {})

    def constant(self, name: str, content: Any) -> Value:
        """What is computed with is exact: a power of 2, or 0, in integers."""
        number = np.asarray(content)
        if number.dtype.kind in "ib":
            return super().constant(name, content)
        unit = float(np.float32(number)) or 1.0

        def units(bits: Bits) -> Grid:  # ADD of 16 bits ends the process where a scale is far above its output's
            return Grid(unit / 2 ** (bits - 2), 0, bits)

        return Later("", number.shape, name=name, content=number, counted=units)

    def weight(self, name: str, columns: Span | None = None) -> Value:
        """What products take has a scale for each row; other constants are counted as their taps say."""
        layer, _, kind = name.rpartition(".")
        weight = self._folded.weights[name]
        if weight.is_matrix or name == "patch_embed.weight":
            value = super().weight(name, columns)
            self._scales[value.index] = self.tensors[value.index].quantization.scale
            return value
        if kind == "bias":
            bias_O = self._folded.bias(layer).numpy()
            return Later("", bias_O.shape, name=name, content=bias_O)
        return self._later(name, weight.first(self._folded.heads).detach(), self.ranges[name].grid)

    def _later(self, name: str, numbers: Tensor, counted: Callable[[Bits], Grid]) -> Later:
        shape = tuple(numbers.shape)
        return Later("", shape, range=self.ranges[name], name=name, content=numbers.numpy(), counted=counted)

    def affine(self, place: str) -> tuple[Value | None, Value | None]:
        """What is left of it; what it multiplies by lies on a symmetric grid."""
        name = place.replace("/", ".")
        gamma, beta = self._folded.affine(place)
        scale, shift = None, None
        if gamma is not None:
            scale = self._later(f"{name}.weight", gamma, partial(grid.symmetric, float(gamma.abs().max())))
        if beta is not None:
            shift = self._later(f"{name}.bias", beta, self.ranges[f"{name}.bias"].grid)
        return scale, shift

    def epsilon(self, place: str) -> Value | None:
        """Where it is half a step of the variance's grid at least."""
        epsilon = self._config.layer_norm_eps
        return super().epsilon(place) if 2 * epsilon >= self.ranges[f"{place}/variance"].grid().scale else None

    def gelu(self, x: Value, place: str) -> Value:
        """In one operator; of 16 bits in six."""
        assert x.range is not None
        if not (x.range.wide or self.ranges[f"{place}/act"].wide):
            return super().gelu(x, place)
        by_tanh = self._config.activation == "gelu_tanh"
        slope, cubic = (self.constant(f"gelu/{number}", number) for number in (_BY_TANH if by_tanh else _BY_ERF))

        def step(name: str, kind: str, inputs: Sequence[Value], peak: float) -> Value:
            return self._computed(f"{place}/gelu/{name}/{kind}", kind, inputs, _up_to(peak))

        # What is beyond these ends is where sigmoid is 1 or 0.
        square = step("square", "MUL", [x, x], 18.0)
        factor = step("factor", "ADD", [step("cubic", "MUL", [square, cubic], 1.5), slope], 3.0)
        share = self._computed(
            f"{place}/gelu/sigmoid/LOGISTIC", "LOGISTIC", [step("inner", "MUL", [x, factor], 12.0)], _SHARES
        )
        return self.op(f"{place}/act/MUL", "MUL", [x, share])

    def rsqrt(self, variance: Value, place: str) -> Value:
        """In one operator; of 16 bits in two, as the kernel draws straight lines over 128 integers.

        Where the first is off, most for small variances, variance * rsqrt^2 is not 1; the second tells by how much.
        """
        own, tap = self.ranges[f"{place}/rsqrt"], f"{place}/rsqrt"
        assert variance.range is not None
        if not (variance.range.wide or own.wide):
            return super().rsqrt(variance, place)

        def step(name: str, kind: str, inputs: Sequence[Value], peak: float) -> Value:
            return self._computed(f"{tap}/{name}/{kind}", kind, inputs, _up_to(peak))

        first = step("first", "RSQRT", [variance], own.peak)
        root = step("root", "MUL", [variance, first], 1.25 * math.sqrt(variance.range.peak))
        off = step("off", "RSQRT", [step("squared", "MUL", [root, first], 16.0)], 2.0)
        return self.op(f"{tap}/MUL", "MUL", [first, off])

    def op(self, name: str, kind: str, inputs: Sequence[Value], **options: int) -> Value:
        """What moves numbers keeps how they are counted; others are counted by the tap that they are named after."""
        given = [value.range for value in inputs if value.range is not None]
        if not given:
            return super().op(name, kind, inputs, **options)
        if kind in MOVING:
            return self._made(name, kind, inputs, options, given[0], given[0].bits)
        return self._computed(name, kind, inputs, self._range(name.removesuffix(f"/{kind}"), given[0]), **options)

    def _computed(self, name: str, kind: str, inputs: Sequence[Value], own: Range, **options: int) -> Value:
        is_wide = own.wide or any(value.range.wide for value in inputs if value.range is not None)
        bits: Bits = 16 if is_wide else 8
        inputs = self._product(inputs, bits) if kind in _PRODUCTS else [self._at(value, bits) for value in inputs]
        if bits == own.bits:
            return self._made(name, kind, inputs, options, own, bits)
        return self._requantized(name, self._made(f"{name}/int16", kind, inputs, options, own, bits), own, own.bits)

    def _made(
        self, name: str, kind: str, inputs: Sequence[Value], options: dict[str, int], own: Range, bits: Bits
    ) -> Value:
        builtin = operator(kind, tuple(value.dtype for value in inputs))
        wide = _WIDE.get(kind, {}) if bits == 16 else {}
        return self._op(name, builtin, inputs, options | wide, _pair(own.grid(bits)), own)

    def _requantized(self, name: str, x: Value, own: Range, bits: Bits) -> Value:
        return self._quantized(name, x, _DTYPES[bits], _pair(own.grid(bits)), own)

    def _range(self, tap: str, given: Range) -> Range:
        """Of the tensor *tap*; inside of an activation and of a pool it follows from what that is *given*."""
        if (own := self.ranges.get(tap) or self.ranges.get(tap.replace("/", "."))) is not None:
            return own
        place, _, step = tap.rpartition("/")
        match step:
            case "factor":
                return given.times(1.702)
            case "half":
                return given.times(0.5)
            case "zero":
                return self.ranges[place.replace("/", ".")]
        raise KeyError(tap)

    def _at(self, value: Value, bits: Bits) -> Value:
        """*value* in so many bits."""
        if isinstance(value, Later):
            assert value.counted is not None
            assert value.content is not None
            counted = value.counted(bits)
            return self._constant(
                f"{value.name}/{bits}", counted.integers(value.content).astype(_DTYPES[bits]), _pair(counted)
            )
        if bits == 8 or value.dtype != "int8":
            return value
        if value.index not in self._as_wide:
            self._as_wide[value.index] = self._widened(value)
        return self._as_wide[value.index]

    def _widened(self, value: Value) -> Value:
        """int16 of int8: QUANTIZE makes it in LiteRT alone (TensorFlow 2.21 refuses it, and no version tells)."""
        assert value.range is not None
        own, name = value.range.grid(8), f"{self.tensors[value.index].name}/int16"
        cast = operator("CAST", ("int8",))
        integers = self._op(
            f"{name}/CAST", cast, [value], {"in_data_type": INT8, "out_data_type": INT16}, (own.scale, 0)
        )
        zero = self._constant(f"{name}/zero", np.array(own.zero_point, np.int16), (own.scale, 0))
        return self._made(f"{name}/SUB", "SUB", [integers, zero], {}, value.range, 16)

    def _product(self, inputs: Sequence[Value], bits: Bits) -> list[Value]:
        """The inputs of a product, its bias in its own units."""
        x, weight, *biases = inputs
        x = self._at(x, bits)
        assert x.range is not None
        unit_O = np.float32(x.range.grid(bits).scale) * self._scales[weight.index]
        return [x, weight, *(self._bias(bias, unit_O) for bias in biases)]

    def _bias(self, bias: Value, unit_O: NDArray[np.float32]) -> Value:
        assert isinstance(bias, Later)
        assert bias.content is not None
        integers_O = np.rint(bias.content.astype(np.float64) / unit_O)
        if np.abs(integers_O).max() > _LARGEST_BIAS:
            raise CheckFailed(f"{bias.name} is too large for integers: {np.abs(integers_O).max():.3g} of its product.")
        return self._constant(bias.name, integers_O.astype(np.int32), (unit_O, 0))

    def _constant(self, name: str, integers: NDArray[np.integer], counted: Counted) -> Value:
        if name not in self._constants:
            array = np.asarray(integers, integers.dtype.newbyteorder("<"))
            buffer = self._store(array).buffer
            self._constants[name] = self._tensor(name, integers.dtype.name, array.shape, buffer, counted=counted)
        return self._constants[name]


def _up_to(peak: float) -> Range:
    """Of 16 bits."""
    return Range(-peak, peak, peak, wide=True)


def _pair(counted: Grid) -> Counted:
    return counted.scale, counted.zero_point
