"""The graph of one subnetwork, emitted node by node with standard operators of rank 4 at most."""

# B batch, N tokens, R rows: the tokens of all images, D width of subnetwork k, H heads, C head width
from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import onnx_ir as ir

from hydra_export.architecture import LAYER_NORM_EPS, HydraConfig
from hydra_export.target import ExportSpec, TensorInfo
from hydra_export.version import VERSION

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint

# The lowest IR version that each opset's release of ONNX came with; later ones are refused by older runtimes.
# Source: onnx/onnx docs/Versioning.md, "Released Versions".
IR_VERSIONS = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}


class GraphBuilder:
    """Collects nodes and small constants; every value is named after its place in the model."""

    def __init__(self, weight: Callable[[str], ir.Value]) -> None:
        self.nodes: list[ir.Node] = []
        self.constants: dict[str, ir.Value] = {}
        self._weight = weight
        self._weights: dict[str, ir.Value] = {}

    def weight(self, name: str) -> ir.Value:
        """The value of a model weight, asked for once."""
        if name not in self._weights:
            self._weights[name] = self._weight(name)
        return self._weights[name]

    def constant(self, name: str, value: Sequence[int] | float) -> ir.Value:
        """A small initializer, one per name: int64 for lists of numbers, float32 for a number."""
        if name not in self.constants:
            array = np.array(value, np.float32 if isinstance(value, float) else np.int64)
            self.constants[name] = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        return self.constants[name]

    def op(self, op_type: str, inputs: Sequence[ir.Value], name: str, **attributes: Any) -> ir.Value:
        """Appends a node; its output carries the node's name."""
        output = ir.Value(name=name)
        self.nodes.append(ir.node(op_type, inputs, attributes, outputs=[output], name=name))
        return output

    def linear(self, x_RD: ir.Value, weight: str, name: str) -> ir.Value:
        """x @ weight + bias in one operator, which takes rank 2 alone."""
        return self.op("Gemm", [x_RD, self.weight(f"{weight}.weight"), self.weight(f"{weight}.bias")], name)

    def layer_norm(self, x: ir.Value, name: str, scope: str) -> ir.Value:
        """LayerNorm over the last axis, as wide as the subnetwork."""
        inputs = [x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias")]
        return self.op("LayerNormalization", inputs, f"{scope}/LayerNormalization", axis=-1, epsilon=LAYER_NORM_EPS)


class Emitter:
    """Emits subnetwork *heads*; the last block is computed for the class token's query only.

    Tokens are the rows of a matrix wherever images need not be told apart, so that a Linear is one Gemm: with a batch
    axis it would be a MatMul and an Add.
    """

    def __init__(self, g: GraphBuilder, config: HydraConfig, heads: int, spec: ExportSpec, opset: int) -> None:
        self.g, self.config, self.heads, self.opset = g, config, heads, opset
        self.width = config.width(heads)
        # 0 keeps a dynamic batch; a fixed one is spelled out, as not every compiler infers through 0.
        self.batch = 0 if spec.batch == "dynamic" else spec.batch

    def emit(self, image: ir.Value, spec: ExportSpec) -> ir.Value:
        """From the input value to the logits, or to the features of a model without a classifier."""
        g, config = self.g, self.config
        if spec.input == "image":
            image = g.op("Transpose", [image], "image/Transpose", perm=[0, 3, 1, 2])
            image = g.op("Cast", [image], "image/Cast", to=ir.DataType.FLOAT.value)
        x_RD = self._tokens(image)
        for i in range(config.depth):
            x_RD = self._block(x_RD, i, last=i == config.depth - 1)
        features_BD = g.layer_norm(x_RD, "norm", "norm")
        return g.linear(features_BD, config.classifier(self.heads), "logits") if config.num_classes else features_BD

    def _reshape(self, x: ir.Value, name: str, shape_name: str, shape: list[int]) -> ir.Value:
        return self.g.op("Reshape", [x, self.g.constant(shape_name, shape)], name)

    def _tokens(self, image_BCHW: ir.Value) -> ir.Value:
        g, config = self.g, self.config
        patch, shape = [config.patch_size] * 2, [self.batch, self.width, config.num_tokens - 1]
        inputs = [image_BCHW, g.weight("patch_embed.weight"), g.weight("patch_embed.bias")]
        x = g.op("Conv", inputs, "patch_embed/Conv", kernel_shape=patch, strides=patch)
        x = self._reshape(x, "patch_embed/Reshape", "patch_embed/shape", shape)
        x_BND = g.op("Transpose", [x], "patch_embed/Transpose", perm=[0, 2, 1])
        # A zero token in front, then the class token comes with the positions: Concat would need a batch-sized one.
        x_BND = g.op("Pad", [x_BND, g.constant("tokens/pads", [0, 1, 0, 0, 0, 0])], "tokens/Pad")
        x_BND = g.op("Add", [x_BND, g.weight("tokens")], "tokens/Add")
        return self._rows(x_BND, "tokens/Reshape")

    def _rows(self, x: ir.Value, name: str) -> ir.Value:
        return self._reshape(x, name, "rows/shape", [-1, self.width])

    def _block(self, x_RD: ir.Value, index: int, last: bool) -> ir.Value:
        name = f"blocks.{index}"
        y_RD = self.g.layer_norm(x_RD, f"{name}.norm1", f"{name}/norm1")
        query_RD = y_RD
        if last:
            query_RD, x_RD = self._cls(y_RD, f"{name}/attn/cls"), self._cls(x_RD, f"{name}/cls")
        attended_RD = self._attention(query_RD, y_RD, index, 1 if last else self.config.num_tokens)
        x_RD = self.g.op("Add", [x_RD, attended_RD], f"{name}/attn/residual/Add")
        y_RD = self.g.layer_norm(x_RD, f"{name}.norm2", f"{name}/norm2")
        return self.g.op("Add", [x_RD, self._mlp(y_RD, index)], f"{name}/mlp/residual/Add")

    def _cls(self, x_RD: ir.Value, scope: str) -> ir.Value:
        """The class token of each image: of its tokens side by side, the first."""
        side_by_side = [self.batch or -1, self.config.num_tokens * self.width]
        x = self._reshape(x_RD, f"{scope}/Reshape", "cls/shape", side_by_side)
        parts = (("start", 0), ("end", self.width), ("axis", 1))
        return self.g.op("Slice", [x, *(self.g.constant(f"cls/{part}", [n]) for part, n in parts)], f"{scope}/Slice")

    def _attention(self, query_RD: ir.Value, x_RD: ir.Value, index: int, num_queries: int) -> ir.Value:
        g, name, scope = self.g, f"blocks.{index}.attn", f"blocks.{index}/attn"
        q_RD = g.linear(query_RD, f"{name}.q", f"{scope}/q/Gemm")
        k_RD = g.linear(x_RD, f"{name}.k", f"{scope}/k/Gemm")
        v_RD = g.linear(x_RD, f"{name}.v", f"{scope}/v/Gemm")
        attend = self._attention_operator if self.opset >= 23 else self._softmax_attention
        a_RD = self._rows(attend(q_RD, k_RD, v_RD, scope, num_queries), f"{scope}/Reshape")
        return g.linear(a_RD, f"{name}.proj", f"{scope}/proj/Gemm")

    def _attention_operator(
        self, q_RD: ir.Value, k_RD: ir.Value, v_RD: ir.Value, scope: str, num_queries: int
    ) -> ir.Value:
        """Opset 23's Attention; q carries the scale already."""
        rows = ((q_RD, "q", num_queries), (k_RD, "k", self.config.num_tokens), (v_RD, "v", self.config.num_tokens))
        qkv_BND = [
            self._reshape(x_RD, f"{scope}/{part}/Reshape", f"attn/tokens_{n}", [self.batch or -1, n, self.width])
            for x_RD, part, n in rows
        ]
        num_heads = {"q_num_heads": self.heads, "kv_num_heads": self.heads}
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
        shape = [self.batch or -1, num_tokens, self.heads, self.config.head_dim]
        x_BNHC = self._reshape(x_RD, f"{scope}/Reshape", f"attn/apart_{num_tokens}", shape)
        return self.g.op("Transpose", [x_BNHC], f"{scope}/Transpose", perm=perm)

    def _mlp(self, x_RD: ir.Value, index: int) -> ir.Value:
        name, scope = f"blocks.{index}.mlp", f"blocks.{index}/mlp"
        x = self._gelu(self.g.linear(x_RD, f"{name}.fc1", f"{scope}/fc1/Gemm"), scope)
        return self.g.linear(x, f"{name}.fc2", f"{scope}/fc2/Gemm")

    def _gelu(self, x: ir.Value, scope: str) -> ir.Value:
        g = self.g
        if self.opset >= 20:
            return g.op("Gelu", [x], f"{scope}/Gelu")
        # The form that onnxruntime's GeluFusion and the compilers of phone vendors look for.
        erf = g.op(
            "Erf", [g.op("Div", [x, g.constant("gelu/sqrt2", math.sqrt(2))], f"{scope}/gelu/Div")], f"{scope}/Erf"
        )
        one_plus_erf = g.op("Add", [erf, g.constant("gelu/one", 1.0)], f"{scope}/gelu/Add")
        twice = g.op("Mul", [x, one_plus_erf], f"{scope}/gelu/Mul")
        return g.op("Mul", [twice, g.constant("gelu/half", 0.5)], f"{scope}/gelu/Half")


def build(
    checkpoint: Checkpoint, heads: int, spec: ExportSpec, opset: int, weight: Callable[[str], ir.Value]
) -> ir.Model:
    """The model of subnetwork *heads*; *weight* supplies the values of its weights by their names.

    The model's initializers are the small constants alone: the caller adds the weights.
    """
    config = checkpoint.info.config
    inputs, outputs = signature(config, heads, spec)
    image, declared = (_value(infos[0]) for infos in (inputs, outputs))
    g = GraphBuilder(weight)
    result = Emitter(g, config, heads, spec, opset).emit(image, spec)
    result.shape, result.type, result.name = declared.shape, declared.type, declared.name
    graph = ir.Graph(
        [image],
        [result],
        nodes=g.nodes,
        initializers=list(g.constants.values()),
        opset_imports={"": opset},
        name=f"{checkpoint.info.name}-k{heads}",
    )
    return ir.Model(
        graph,
        ir_version=IR_VERSIONS[opset],
        producer_name="hydra-export",
        producer_version=VERSION,
        metadata_props=metadata(checkpoint, heads),
    )


def signature(
    config: HydraConfig, heads: int, spec: ExportSpec
) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    """The inputs and outputs of the graph of subnetwork *heads*."""
    batch = "batch" if spec.batch == "dynamic" else spec.batch
    size, channels = config.image_size, config.channels
    if spec.input == "image":
        image = TensorInfo(name="image", dtype="uint8", shape=(batch, size, size, channels))
    else:
        image = TensorInfo(name="image", dtype="float32", shape=(batch, channels, size, size))
    return (image,), (TensorInfo(name=config.output, dtype="float32", shape=(batch, config.num_outputs(heads))),)


def needs(opset: int) -> dict[str, str]:
    """What a runtime must know to load the graph."""
    return {"opset": str(opset), "ir_version": str(IR_VERSIONS[opset])}


def metadata(checkpoint: Checkpoint, heads: int) -> dict[str, str]:
    """What the file says of itself, for Netron and for programs: strings, JSON where structured."""
    info = checkpoint.info
    pairs = {
        "model": info.name,
        "heads": str(heads),
        "preprocessing": msgspec.json.encode(info.preprocessing).decode(),
        "labels": json.dumps(list(info.labels), ensure_ascii=False),
        "checkpoint_sha256": checkpoint.sha256,
        "license": info.license,
    }
    return {f"hydra_export.{name}": value for name, value in pairs.items() if value and value != "[]"}


def _value(info: TensorInfo) -> ir.Value:
    dtype = {"float32": ir.DataType.FLOAT, "uint8": ir.DataType.UINT8}[info.dtype]
    return ir.Value(name=info.name, shape=ir.Shape(info.shape), type=ir.TensorType(dtype))
