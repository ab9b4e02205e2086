"""The graph of one subnetwork, emitted operator by operator: builtins alone, of rank 4 at most.

In a file that holds several, weights may be cut at their head counts: then a Linear is a sum over parts of its input.

Every activation has the batch as its first axis: the GPU delegate takes that axis for the batch and refuses a graph
where it differs from tensor to tensor (tensorflow/lite/delegates/gpu/common/model.cc, CheckBatchSizeForAllValues).
"""

# B batch, N tokens, D width of subnetwork k, H heads, C head width
from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema  # type: ignore[import-untyped]
from numpy.typing import NDArray

from hydra_export import network
from hydra_export.architecture import HydraConfig
from hydra_export.network import Cut, Operations, Span
from hydra_export.preprocess import Preprocessing
from hydra_export.quantized.grid import Range
from hydra_export.target import STATIC, ExportSpec, TensorInfo
from hydra_export.targets.tflite.operators import (
    BOOL,
    DYNAMIC,
    FLOAT16,
    FLOAT32,
    INT8,
    INT16,
    INT32,
    UINT8,
    VALID,
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


class TFLiteEmitter(Operations[Value]):
    """The operations of subnetwork *heads* as operators of TFLite.

    Args:
        cuts: the head counts, *heads* the last, at which the inputs of Linears are cut; none for whole matrices.
    """

    def __init__(
        self,
        g: TFLiteGraphBuilder,
        config: HydraConfig,
        heads: int,
        spec: ExportSpec,
        pixels: Preprocessing,
        cuts: Sequence[int] = (),
    ) -> None:
        self.g, self.config, self.heads, self.spec, self.pixels = g, config, heads, spec, pixels
        self.width = config.width(heads)
        self.batch = DYNAMIC if spec.batch == "dynamic" else spec.batch
        self.spans = list(itertools.pairwise((0, *cuts)))
        self._layer_cuts = {part: layer.cut for layer in network.layers(config) for part in layer.parts}
        self._parts: dict[int, list[Value]] = {}

    def emit(self, image_BHWC: Value) -> Value:
        """From the input to what the subnetwork returns."""
        image_BHWC = self.g.image(image_BHWC, self.spec, self.pixels)
        return self.g.result(network.run(self, self.config, image_BHWC, self.heads))

    def embed(self, image_BHWC: Value) -> Value:
        """Of what ``image`` of the graph's builder makes of it."""
        g, config = self.g, self.config
        inputs = [image_BHWC, g.weight("patch_embed.weight"), g.weight("patch_embed.bias")]
        patch = {"padding": VALID, "stride_h": config.patch_size, "stride_w": config.patch_size}
        x = g.op("embed/patches/CONV_2D", "CONV_2D", inputs, **patch)
        x_BND = self._reshape(x, "patch_embed/RESHAPE", "patch_embed/shape", [config.num_patches, self.width])
        if config.num_prefix_tokens:
            # Zero tokens in front, then the prefix comes with the positions: CONCATENATION would need a batch of it.
            pads = g.constant("tokens/pads", [[0, 0], [config.num_prefix_tokens, 0], [0, 0]])
            x_BND = g.op("tokens/PAD", "PAD", [x_BND, pads])
        elif not config.num_positions:
            return x_BND
        tokens_BND = g.weight("tokens")
        if self.spans and self.spec.precision not in STATIC:  # they lie as [1, D, N]: fewer channels are the beginning
            tokens_BND = g.op("tokens/TRANSPOSE", "TRANSPOSE", [tokens_BND, g.constant("tokens/perm", [0, 2, 1])])
        return self._add(x_BND, tokens_BND, "embed/ADD")

    def select(self, x_BND: Value, span: Span, place: str) -> Value:
        corners = "cls" if span == (0, 1) else "tokens/{}_{}".format(*span)
        return self._part(x_BND, 1, span, corners, f"{place}/STRIDED_SLICE")

    def pool(self, x_BND: Value, kind: str, place: str) -> Value:
        """As [B, 1, D]."""
        g, axis = self.g, self.g.constant("pool/axis", [1])
        kinds = {"avg": ["avg/MEAN"], "max": ["max/REDUCE_MAX"], "avgmax": ["avg/MEAN", "max/REDUCE_MAX"]}[kind]
        x_B1D, *others = (
            g.op(f"{place}/{name}", name.partition("/")[2], [x_BND, axis], keep_dims=True) for name in kinds
        )
        if not others:
            return x_B1D
        both_B1D = self._add(x_B1D, others[0], f"{place}/both/ADD")
        return self._mul(both_B1D, g.constant("pool/half", 0.5), f"{place}/half/MUL")

    def latent(self, x_BND: Value, place: str) -> Value:
        """Added to a token that is 0: so that there is one for each image, however many there are."""
        token_B1D = self._mul(
            self.select(x_BND, (0, 1), place), self.g.constant("latent/zero", 0.0), f"{place}/zero/MUL"
        )
        return self._add(token_B1D, self.g.weight(place.replace("/", ".")), f"{place}/ADD")

    def features(self, x_B1D: Value, place: str) -> Value:
        """Without the axis of tokens."""
        name = f"{place}/RESHAPE" if self.config.num_outputs else self.config.output
        return self._reshape(x_B1D, name, "norm/shape", [self.width])

    def classifier(self, features: Sequence[tuple[Value, str]]) -> Value:
        name = self.config.output if len(features) == 1 else ""
        logits = [self._linear(x_BD, weights, name or weights, name) for x_BD, weights in features]
        return logits[0] if name else self._add(logits[0], logits[1], self.config.output)

    def patch_tokens(self, x_BND: Value) -> Value:
        self.g.tensors[x_BND.index].name = self.config.output
        return x_BND

    def residual(self, x_BND: Value, y_BND: Value, place: str) -> Value:
        return self._add(x_BND, y_BND, f"{place}/residual/ADD")

    def _part(self, x: Value, axis: int, span: Span, corners: str, name: str) -> Value:
        """A part of one axis; STRIDED_SLICE, as XNNPACK takes no SLICE whose batch is chosen at run time."""
        rank = len(x.shape)
        begin, end = ([at if i == axis else 0 for i in range(rank)] for at in span)
        numbers = ((f"{corners}/begin", begin), (f"{corners}/end", end), (f"{corners}/strides", [1] * rank))
        inputs = [x, *(self.g.constant(what, at) for what, at in numbers)]
        every_other = (1 << rank) - 1 - (1 << axis)
        return self.g.op(name, "STRIDED_SLICE", inputs, begin_mask=every_other, end_mask=every_other)

    def qkv(self, query_BND: Value, x_BND: Value, place: str) -> tuple[Value, Value, Value]:
        """As [B, H, N, C]."""
        return (
            self._heads_apart(self.linear(query_BND, f"{place}/q"), f"{place}/q"),
            self._heads_apart(self.linear(x_BND, f"{place}/k"), f"{place}/k"),
            self._heads_apart(self.linear(x_BND, f"{place}/v"), f"{place}/v"),
        )

    def head_norm(self, x_BHNC: Value, place: str) -> Value:
        return self.norm(x_BHNC, place)

    def rotate(self, x_BHNC: Value, place: str) -> Value:
        g, C = self.g, self.config.head_dim
        first, second = (
            self._part(x_BHNC, 3, span, f"rope/{half}", f"{place}/{half}/STRIDED_SLICE")
            for half, span in (("first", (0, C // 2)), ("second", (C // 2, C)))
        )
        exchanged_BHNC = g.op(f"{place}/CONCATENATION", "CONCATENATION", [second, first], axis=3)
        x_BHNC = self._mul(x_BHNC, g.weight("rope.cos"), f"{place}/cos/MUL")
        sines_BHNC = self._mul(exchanged_BHNC, g.weight("rope.sin"), f"{place}/sin/MUL")
        return self._add(x_BHNC, sines_BHNC, f"{place}/rotated/ADD")

    def attention(self, qkv_BHNC: tuple[Value, Value, Value], place: str, num_queries: int) -> Value:
        q_BHNC, k_BHNC, v_BHNC = qkv_BHNC
        scores_BHNN = self._matmul(q_BHNC, k_BHNC, f"{place}/scores", adj_y=True)
        shares_BHNN = self.g.op(f"{place}/shares/SOFTMAX", "SOFTMAX", [scores_BHNN], beta=1)
        a_BNHC = self._exchanged(self._matmul(shares_BHNN, v_BHNC, f"{place}/values"), f"{place}/TRANSPOSE")
        return self._reshape(a_BNHC, f"{place}/RESHAPE", f"attn/together_{num_queries}", [num_queries, self.width])

    def _heads_apart(self, x_BND: Value, scope: str) -> Value:
        N = x_BND.shape[1]
        shape = [N, self.heads, self.config.head_dim]
        return self._exchanged(self._reshape(x_BND, f"{scope}/RESHAPE", f"attn/apart_{N}", shape), f"{scope}/TRANSPOSE")

    def _exchanged(self, x_BNHC: Value, name: str) -> Value:
        """Tokens and heads, the one for the other."""
        return self.g.op(name, "TRANSPOSE", [x_BNHC, self.g.constant("attn/perm", [0, 2, 1, 3])])

    def _matmul(self, x: Value, y: Value, scope: str, adj_y: bool = False) -> Value:
        return self.g.op(f"{scope}/BATCH_MATMUL", "BATCH_MATMUL", [x, y], adj_x=False, adj_y=adj_y)

    def activation(self, x: Value, place: str) -> Value:
        g, kind = self.g, self.config.activation
        if kind == "relu":
            return g.op(f"{place}/act/RELU", "RELU", [x])
        if kind in ("gelu", "gelu_tanh"):
            return g.gelu(x, place)
        factor = g.constant("quick_gelu/factor", 1.702) if kind == "quick_gelu" else None
        scaled = x if factor is None else self._mul(x, factor, f"{place}/factor/MUL")
        return self._mul(x, g.op(f"{place}/sigmoid/LOGISTIC", "LOGISTIC", [scaled]), f"{place}/act/MUL")

    def product(self, x: Value, y: Value, place: str) -> Value:
        return self._mul(x, y, f"{place}/product/MUL")

    def norm(self, x: Value, place: str) -> Value:
        """TFLite has no operator for it; no other order or form of these nine that was tried is faster."""
        g, rank = self.g, len(x.shape)
        last = g.constant("norm/axis" if rank == 3 else "head_norm/axis", [rank - 1])
        if self.config.norm == "layer_norm":
            mean = g.op(f"{place}/mean/MEAN", "MEAN", [x, last], keep_dims=True)
            x = g.op(f"{place}/centred/SUB", "SUB", [x, mean])
        square = self._mul(x, x, f"{place}/square/MUL")
        variance = g.op(f"{place}/variance/MEAN", "MEAN", [square, last], keep_dims=True)
        if (epsilon := g.epsilon(place)) is not None:
            variance = self._add(variance, epsilon, f"{place}/variance/ADD")
        return self._affine(x, g.rsqrt(variance, place), place)

    def _affine(self, x: Value, rsqrt: Value, place: str) -> Value:
        gamma, beta = self.g.affine(place)
        scaled = place if beta is None else f"{place}/scaled"
        is_whole = gamma is None and beta is None
        x = self._mul(x, rsqrt, f"{place}/MUL" if is_whole else f"{place}/normalised/MUL")
        if gamma is not None:
            x = self._mul(x, gamma, f"{scaled}/MUL")
        return x if beta is None else self._add(x, beta, f"{place}/ADD")

    def linear(self, x: Value, place: str) -> Value:
        return self._linear(x, place.replace("/", "."), place)

    def _linear(self, x: Value, weight: str, scope: str, name: str = "") -> Value:
        """x @ weight.T + bias over the last axis; a sum over the parts of x where the weight is cut."""
        g, cut, name = self.g, self._layer_cuts[weight], name or f"{scope}/FULLY_CONNECTED"
        if len(self.spans) < 2 or cut.owner is not None:  # a classifier of its own
            columns = self.spans[0] if self.spans and cut.owner is None else None
            return self._fully_connected([x, g.weight(f"{weight}.weight", columns), g.weight(f"{weight}.bias")], name)
        total = None
        for (low, high), part in zip(self.spans, self._cut(x, cut), strict=True):
            where = f"[{low}:{high}]"
            inputs = [part, g.weight(f"{weight}.weight", (low, high))]
            if total is None:
                total = self._fully_connected([*inputs, g.weight(f"{weight}.bias")], f"{scope}{where}/FULLY_CONNECTED")
                continue
            product = self._fully_connected(inputs, f"{scope}{where}/FULLY_CONNECTED")
            last = name.replace("/FULLY_CONNECTED", "/ADD")
            total = self._add(total, product, last if high == self.heads else f"{scope}+{where}/ADD")
        assert total is not None
        return total

    def _fully_connected(self, inputs: list[Value], name: str) -> Value:
        return self.g.op(name, "FULLY_CONNECTED", inputs, keep_num_dims=True)

    def _cut(self, x: Value, cut: Cut) -> list[Value]:
        """The parts of the last axis that Linears *cut* at head counts take; several take the same."""
        if x.index not in self._parts:
            axis, of = len(x.shape) - 1, self.g.tensors[x.index].name
            ranges = [(cut.place(1, low), cut.place(1, high)) for low, high in self.spans]
            self._parts[x.index] = [
                self._part(x, axis, (low, high), f"part/{low}_{high}_of_{axis}", f"{of}/STRIDED_SLICE[{low}:{high}]")
                for low, high in ranges
            ]
        return self._parts[x.index]

    def _add(self, x: Value, y: Value, name: str) -> Value:
        return self.g.op(name, "ADD", [x, y])

    def _mul(self, x: Value, y: Value, name: str) -> Value:
        return self.g.op(name, "MUL", [x, y])

    def _reshape(self, x: Value, name: str, shape_name: str, shape: list[int]) -> Value:
        """Each image's part of *x* in another shape."""
        return self.g.op(name, "RESHAPE", [x, self.g.constant(shape_name, [self.batch, *shape])])
