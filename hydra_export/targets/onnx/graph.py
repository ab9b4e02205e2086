"""The graph of one subnetwork, emitted node by node with standard operators of rank 4 at most."""

# B batch, N tokens, R rows: the tokens of all images, D width of subnetwork k, H heads, C head width
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hydra_export import network
from hydra_export.architecture import HydraConfig
from hydra_export.network import Operations
from hydra_export.preprocess import Preprocessing
from hydra_export.target import ExportSpec, Precision


@dataclass(frozen=True)
class PerHead:
    """A size that grows with the head count: *size* for each head."""

    size: int


Size = int | PerHead


class NodeBuilder:
    """Collects nodes and small constants; *scope* comes before the names of all of them."""

    def __init__(self, scope: str = "") -> None:
        self.scope = scope
        self.nodes: list[ir.Node] = []
        self.constants: dict[str, ir.Value] = {}

    def constant(self, name: str, value: Sequence[int] | float | NDArray[np.float64]) -> ir.Value:
        """A small initializer, one per name: int64 for lists of numbers, float32 otherwise."""
        if name not in self.constants:
            array = np.array(value, np.int64 if isinstance(value, Sequence) else np.float32)
            tensor = ir.tensor(array, name=self.scope + name)
            self.constants[name] = ir.Value(name=tensor.name, const_value=tensor)
        return self.constants[name]

    def op(self, op_type: str, inputs: Sequence[ir.Value], name: str, **attributes: Any) -> ir.Value:
        """Appends a node; its output carries the node's name."""
        (output,) = self.ops(op_type, inputs, name, [name], **attributes)
        return output

    def ops(
        self, op_type: str, inputs: Sequence[ir.Value], name: str, outputs: Sequence[str], **attributes: Any
    ) -> list[ir.Value]:
        """Appends a node with several outputs."""
        values = [ir.Value(name=self.scope + output) for output in outputs]
        self.nodes.append(ir.node(op_type, inputs, attributes, outputs=values, name=self.scope + name))
        return values


class OnnxGraphBuilder(NodeBuilder):
    """Collects the nodes of subnetwork *heads*, every value named after its place in the model.

    Args:
        weight: gives the values of weights by their names.
        precision: of those.
    """

    def __init__(
        self, heads: int, weight: Callable[[str], ir.Value], precision: Precision = "fp32", scope: str = ""
    ) -> None:
        super().__init__(scope)
        self.heads, self.precision = heads, precision
        self._weight = weight
        self._weights: dict[str, ir.Value] = {}
        self._quantized: dict[str, list[ir.Value]] = {}

    def weight(self, name: str) -> ir.Value:
        """The value of a model weight, asked for once; of fp16 ones a cast, which runtimes fold."""
        if name not in self._weights:
            value = self._weight(name)
            if self.precision == "fp16":
                value = self.op("Cast", [value], f"{name}/Cast", to=ir.DataType.FLOAT.value)
            self._weights[name] = value
        return self._weights[name]

    def sizes(self, name: str, sizes: Sequence[Size]) -> ir.Value:
        """A vector of sizes, one per name."""
        return self.constant(name, [size.size * self.heads if isinstance(size, PerHead) else size for size in sizes])

    def reshape(self, x: ir.Value, name: str, shape_name: str, shape: Sequence[Size]) -> ir.Value:
        """*x* in another shape; equal shapes have one name."""
        return self.op("Reshape", [x, self.sizes(shape_name, shape)], name)

    def linear(self, x_RD: ir.Value, weight: str, name: str) -> ir.Value:
        """x @ weight + bias, in one operator where it can be; that takes rank 2 alone."""
        if self.precision == "int8":
            return self._quantized_linear(x_RD, weight, name)
        return self.op("Gemm", [x_RD, self.weight(f"{weight}.weight"), self.weight(f"{weight}.bias")], name)

    def plus_product(self, x_RD: ir.Value, gemm: ir.Node, place: str) -> ir.Value:
        """*x_RD* plus what *gemm* gives, whose bias is added first: a product alone is left of it."""
        y_RD, weight, bias = gemm.inputs
        assert y_RD
        assert weight
        assert bias
        self.nodes.remove(gemm)
        shifted_RD = self.op("Add", [x_RD, bias], f"{place}/bias/Add")
        product_RD = self.op("MatMul", [y_RD, weight], f"{place}/MatMul")
        return self.op("Add", [shifted_RD, product_RD], f"{place}/residual/Add")

    def _quantized_linear(self, x_RD: ir.Value, weight: str, name: str) -> ir.Value:
        """The same in integers: x is quantized as it comes, with one scale and zero point."""
        scope = name.removesuffix("/Gemm")
        assert x_RD.name
        if x_RD.name not in self._quantized:
            node = f"{scope}/DynamicQuantizeLinear"
            parts = [f"{node}/{part}" for part in ("values", "scale", "zero_point")]
            self._quantized[x_RD.name] = self.ops("DynamicQuantizeLinear", [x_RD], node, parts)
        x, scale, zero_point = self._quantized[x_RD.name]
        product = self.op("MatMulInteger", [x, self.weight(f"{weight}.weight"), zero_point], f"{scope}/MatMulInteger")
        product = self.op("Cast", [product], f"{scope}/Cast", to=ir.DataType.FLOAT.value)
        scales = self.op("Mul", [scale, self.weight(f"{weight}.scale")], f"{scope}/scales/Mul")
        product = self.op("Mul", [product, scales], f"{scope}/Mul")
        return self.op("Add", [product, self.weight(f"{weight}.bias")], f"{scope}/Add")


def channels_first(g: NodeBuilder, image: ir.Value, data: Preprocessing, spec: ExportSpec) -> ir.Value:
    """The image as the patch embedding takes it, float32 [B, C, H, W], from the graph's own input form."""
    if spec.input == "tensor":
        return image
    image = g.op("Transpose", [image], "image/Transpose", perm=[0, 3, 1, 2])
    image = g.op("Cast", [image], "image/Cast", to=ir.DataType.FLOAT.value)
    if spec.precision != "fp16":  # the weights of the patch embedding have absorbed it
        return image
    mean, std = (
        g.constant(f"image/{name}", 255 * np.array(getattr(data, name)).reshape(1, -1, 1, 1))
        for name in ("mean", "std")
    )
    return g.op("Div", [g.op("Sub", [image, mean], "image/Sub"), std], "image/Div")


class OnnxEmitter(Operations[ir.Value]):
    """A subnetwork's operations as nodes.

    Tokens are the rows of a matrix wherever images need not be told apart, so that a Linear is one Gemm: with a batch
    axis it would be a MatMul and an Add. Without *heads* the graph is of whatever subnetwork *g* says.
    """

    def __init__(
        self, g: OnnxGraphBuilder, config: HydraConfig, spec: ExportSpec, opset: int, heads: int | None = None
    ) -> None:
        self.g, self.config, self.heads, self.opset = g, config, heads, opset
        self.width = PerHead(config.head_dim)
        # 0 keeps a dynamic batch; a fixed one is spelled out, as not every compiler infers through 0.
        self.batch: int = 0 if spec.batch == "dynamic" else spec.batch

    def embed(self, image_BCHW: ir.Value) -> ir.Value:
        """From the image as ``channels_first`` returns it."""
        g, config = self.g, self.config
        patch = [config.patch_size] * 2
        inputs = [image_BCHW, g.weight("patch_embed.weight"), g.weight("patch_embed.bias")]
        x = g.op("Conv", inputs, "patch_embed/Conv", kernel_shape=patch, strides=patch)
        x = g.reshape(x, "patch_embed/Reshape", "patch_embed/shape", [self.batch, self.width, config.num_patches])
        x_BND = g.op("Transpose", [x], "patch_embed/Transpose", perm=[0, 2, 1])
        # ncnn's converter drops Pad; but Concat needs a prefix for each image of a batch.
        if self.batch:
            x_BND = g.op("Add", [x_BND, g.weight("tokens.positions")], "tokens/Add")
            x_BND = g.op("Concat", [g.weight("tokens.prefix"), x_BND], "tokens/Concat", axis=1)
        else:
            pads = g.constant("tokens/pads", [0, config.num_prefix_tokens, 0, 0, 0, 0])
            x_BND = g.op("Add", [g.op("Pad", [x_BND, pads], "tokens/Pad"), g.weight("tokens")], "tokens/Add")
        return self._rows(x_BND, "tokens/Reshape")

    def _rows(self, x: ir.Value, name: str) -> ir.Value:
        return self.g.reshape(x, name, "rows/shape", [-1, self.width])

    def norm(self, x_RD: ir.Value, place: str) -> ir.Value:
        """In one operator."""
        name, epsilon = place.replace("/", "."), self.config.layer_norm_eps
        inputs = [x_RD, self.g.weight(f"{name}.weight"), self.g.weight(f"{name}.bias")]
        return self.g.op("LayerNormalization", inputs, f"{place}/LayerNormalization", axis=-1, epsilon=epsilon)

    def linear(self, x_RD: ir.Value, place: str) -> ir.Value:
        """See OnnxGraphBuilder."""
        return self.g.linear(x_RD, place.replace("/", "."), f"{place}/Gemm")

    def classifier(self, features: Sequence[tuple[ir.Value, str]]) -> ir.Value:
        """See OnnxGraphBuilder."""
        ((features_BD, weights),) = features
        return self.g.linear(features_BD, weights, "logits")

    def select(self, x_RD: ir.Value, span: tuple[int, int], place: str) -> ir.Value:
        """Of each image's tokens side by side, the first."""
        if span != (0, 1):
            B, N, D, (first, last) = self.batch, self.config.num_tokens, self.width, span
            x_BND = self.g.reshape(x_RD, f"{place}/Reshape", "tokens/shape", [B or -1, N, D])
            ends = [self.g.sizes(f"patches/{part}", [n]) for part, n in (("start", first), ("end", last), ("axis", 1))]
            return self._rows(self.g.op("Slice", [x_BND, *ends], f"{place}/Slice"), f"{place}/rows/Reshape")
        side_by_side = (self.batch or -1, PerHead(self.config.num_tokens * self.config.head_dim))
        x = self.g.reshape(x_RD, f"{place}/Reshape", "cls/shape", side_by_side)
        parts: list[tuple[str, Size]] = [("start", 0), ("end", self.width), ("axis", 1)]
        return self.g.op("Slice", [x, *(self.g.sizes(f"cls/{part}", [n]) for part, n in parts)], f"{place}/Slice")

    def patch_tokens(self, x_RD: ir.Value) -> ir.Value:
        """With an axis of images again."""
        shape = [self.batch or -1, self.config.num_patches, self.width]
        return self.g.reshape(x_RD, "patch_tokens/Reshape", "patch_tokens/shape", shape)

    def features(self, x_RD: ir.Value, place: str) -> ir.Value:
        """A row for each image, as it is."""
        return x_RD

    def residual(self, x_RD: ir.Value, y_RD: ir.Value, place: str) -> ir.Value:
        """A sum; at the end of the last block the bias comes into it before the product.

        Of a product of few rows, a bias and a sum after one another OpenVINO 2026.4.1 crashes when it compiles small
        widths for one thread on a processor with AVX2; and ncnn's converter takes no Gemm whose bias is computed.
        """
        if place == f"blocks.{self.config.depth - 1}/mlp" and (gemm := y_RD.producer()) and gemm.op_type == "Gemm":
            return self.g.plus_product(x_RD, gemm, place)
        return self.g.op("Add", [x_RD, y_RD], f"{place}/residual/Add")

    def qkv(self, query_RD: ir.Value, x_RD: ir.Value, place: str) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Rows: each form of attention has its own order of axes."""
        return self.linear(query_RD, f"{place}/q"), self.linear(x_RD, f"{place}/k"), self.linear(x_RD, f"{place}/v")

    def attention(self, qkv_RD: tuple[ir.Value, ir.Value, ir.Value], place: str, num_queries: int) -> ir.Value:
        """Opset 23's operator where the head count is known, otherwise products and Softmax."""
        if self.heads is not None and self.opset >= 23:
            a = self._attention_operator(*qkv_RD, place, num_queries, self.heads)
        else:
            a = self._softmax_attention(*qkv_RD, place, num_queries)
        return self._rows(a, f"{place}/Reshape")

    def _attention_operator(
        self, q_RD: ir.Value, k_RD: ir.Value, v_RD: ir.Value, scope: str, num_queries: int, heads: int
    ) -> ir.Value:
        """Opset 23's Attention; q carries the scale already."""
        rows = ((q_RD, "q", num_queries), (k_RD, "k", self.config.num_tokens), (v_RD, "v", self.config.num_tokens))
        qkv_BND = [
            self.g.reshape(x_RD, f"{scope}/{part}/Reshape", f"attn/tokens_{n}", (self.batch or -1, n, self.width))
            for x_RD, part, n in rows
        ]
        num_heads = {"q_num_heads": heads, "kv_num_heads": heads}
        return self.g.op("Attention", qkv_BND, f"{scope}/Attention", scale=1.0, **num_heads)

    def _softmax_attention(
        self, q_RD: ir.Value, k_RD: ir.Value, v_RD: ir.Value, scope: str, num_queries: int
    ) -> ir.Value:
        g = self.g
        q_BHNC = self._heads_apart(q_RD, f"{scope}/q", num_queries, [0, 2, 1, 3])
        k_BHCN = self._heads_apart(k_RD, f"{scope}/k", self.config.num_tokens, [0, 2, 3, 1])
        v_BHNC = self._heads_apart(v_RD, f"{scope}/v", self.config.num_tokens, [0, 2, 1, 3])
        scores_BHNN = g.op("MatMul", [q_BHNC, k_BHCN], f"{scope}/scores/MatMul")
        shares_BHNN = g.op("Softmax", [scores_BHNN], f"{scope}/Softmax", axis=-1)
        a_BHNC = g.op("MatMul", [shares_BHNN, v_BHNC], f"{scope}/values/MatMul")
        return g.op("Transpose", [a_BHNC], f"{scope}/Transpose", perm=[0, 2, 1, 3])

    def _heads_apart(self, x_RD: ir.Value, scope: str, num_tokens: int, perm: list[int]) -> ir.Value:
        shape = (self.batch or -1, num_tokens, PerHead(1), self.config.head_dim)
        x_BNHC = self.g.reshape(x_RD, f"{scope}/Reshape", f"attn/apart_{num_tokens}", shape)
        return self.g.op("Transpose", [x_BNHC], f"{scope}/Transpose", perm=perm)

    def activation(self, x: ir.Value, place: str) -> ir.Value:
        """In one operator from opset 20 on."""
        g = self.g
        if self.opset >= 20:
            return g.op("Gelu", [x], f"{place}/Gelu")
        # The form that onnxruntime's GeluFusion and the compilers of phone vendors look for.
        erf = g.op(
            "Erf", [g.op("Div", [x, g.constant("gelu/sqrt2", math.sqrt(2))], f"{place}/gelu/Div")], f"{place}/Erf"
        )
        one_plus_erf = g.op("Add", [erf, g.constant("gelu/one", 1.0)], f"{place}/gelu/Add")
        twice = g.op("Mul", [x, one_plus_erf], f"{place}/gelu/Mul")
        return g.op("Mul", [twice, g.constant("gelu/half", 0.5)], f"{place}/gelu/Half")


def subnetwork(
    g: OnnxGraphBuilder, image_BCHW: ir.Value, config: HydraConfig, spec: ExportSpec, opset: int, heads: int
) -> ir.Value:
    """Subnetwork *heads* as a whole: the logits, or the features of a model without a classifier."""
    return network.run(OnnxEmitter(g, config, spec, opset, heads), config, image_BCHW, heads)
