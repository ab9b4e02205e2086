"""The operations of a subnetwork as nodes of a graph."""

# B batch, N tokens, R rows: the tokens of all images, D width of subnetwork k, H heads, C head width
from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from hydra_export import network
from hydra_export.architecture import HydraConfig
from hydra_export.network import Operations, Span
from hydra_export.target import ExportSpec
from hydra_export.targets.onnx.graph import OnnxGraphBuilder, PerHead


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
        self._side_by_side: dict[ir.Value, ir.Value] = {}  # the tokens of an image, by the rows that they were

    def embed(self, image_BCHW: ir.Value) -> ir.Value:
        """From the image as ``channels_first`` returns it."""
        g, config = self.g, self.config
        patch = [config.patch_size] * 2
        x = g.conv(image_BCHW, "patch_embed/Conv", kernel_shape=patch, strides=patch)
        x = g.reshape(x, "patch_embed/Reshape", "patch_embed/shape", [self.batch, self.width, config.num_patches])
        x_BND = g.op("Transpose", [x], "patch_embed/Transpose", perm=[0, 2, 1])
        # ncnn's converter drops Pad; but Concat needs a prefix for each image of a batch.
        if config.num_prefix_tokens and not self.batch:
            pads = g.constant("tokens/pads", [0, config.num_prefix_tokens, 0, 0, 0, 0])
            x_BND = g.op("Add", [g.op("Pad", [x_BND, pads], "tokens/Pad"), g.weight("tokens")], "tokens/Add")
            return self._rows(x_BND, "tokens/Reshape")
        if config.num_positions:
            x_BND = g.op("Add", [x_BND, g.weight("tokens.positions")], "tokens/Add")
        if config.num_prefix_tokens:
            x_BND = g.op("Concat", [g.weight("tokens.prefix"), x_BND], "tokens/Concat", axis=1)
        return self._rows(x_BND, "tokens/Reshape")

    def _rows(self, x: ir.Value, name: str) -> ir.Value:
        return self.g.reshape(x, name, "rows/shape", [-1, self.width])

    def norm(self, x: ir.Value, place: str) -> ir.Value:
        """In one operator where there is one; otherwise in the form that onnxruntime's LayerNormFusion looks for."""
        g, epsilon, has_mean = self.g, self.config.layer_norm_eps, self.config.norm == "layer_norm"
        if has_mean and self.opset >= 17:
            return g.layer_norm(x, place, epsilon)
        gamma, beta = g.affine(place, has_mean)
        if not has_mean and self.opset >= 23 and gamma is not None and not g.counts_integers:
            return g.op("RMSNormalization", [x, gamma], f"{place}/RMSNormalization", axis=-1, epsilon=epsilon)
        if has_mean:
            mean = self._reduced("ReduceMean", x, -1, f"{place}/mean/ReduceMean", keepdims=1)
            x = g.op("Sub", [x, mean], f"{place}/centred/Sub")
        normalised, scaled = (f"{place}{step}" for step in ("/normalised", "/scaled"))
        x = self._normalised(x, place, place if gamma is None and beta is None else normalised)
        if gamma is not None:
            x = g.op("Mul", [x, gamma], f"{place if beta is None else scaled}/Mul")
        return x if beta is None else g.op("Add", [x, beta], f"{place}/Add")

    def _normalised(self, x: ir.Value, place: str, tap: str) -> ir.Value:
        """To a mean square of one."""
        g = self.g
        squares = g.op("Pow", [x, g.constant("norm/two", 2.0)], f"{place}/square/Pow")
        mean = self._reduced("ReduceMean", squares, -1, f"{place}/variance/ReduceMean", keepdims=1)
        mean = g.op("Add", [mean, g.constant("norm/epsilon", self.config.layer_norm_eps)], f"{place}/variance/Add")
        return g.op("Div", [x, g.op("Sqrt", [mean], f"{place}/deviation/Sqrt")], f"{tap}/Div")

    def _reduced(self, op_type: str, x: ir.Value, axis: int, name: str, keepdims: int) -> ir.Value:
        """Over one axis, which is an input from opset 18 on."""
        if self.opset < 18:
            return self.g.op(op_type, [x], name, axes=[axis], keepdims=keepdims)
        axes = self.g.constant(f"rows/axis_{axis}", [axis])
        return self.g.op(op_type, [x, axes], name, keepdims=keepdims)

    def linear(self, x_RD: ir.Value, place: str) -> ir.Value:
        """See OnnxGraphBuilder."""
        return self.g.linear(x_RD, place.replace("/", "."), f"{place}/Gemm")

    def classifier(self, features: Sequence[tuple[ir.Value, str]]) -> ir.Value:
        """See OnnxGraphBuilder."""
        (first_BD, weights), *others = features
        logits = self.g.linear(first_BD, weights, f"{weights}/Gemm" if others else self.config.output)
        for features_BD, weights in others:
            logits = self.g.plus_linear(logits, self.g.linear(features_BD, weights, f"{weights}/Gemm"), weights)
        return logits

    def select(self, x_RD: ir.Value, span: Span, place: str) -> ir.Value:
        """Of each image's tokens side by side, a part; what is pooled keeps the images apart, [B, N, D]."""
        g, config, (low, high) = self.g, self.config, span
        num_tokens = self._num_read if place in ("pool/cls", "pool/dist") else config.num_tokens
        label = "cls" if (*span, num_tokens) == (0, 1, config.num_tokens) else f"tokens/{low}_{high}_of_{num_tokens}"
        if x_RD not in self._side_by_side:
            shape = (self.batch or -1, self._channels(num_tokens))
            self._side_by_side[x_RD] = g.reshape(x_RD, f"{place}/Reshape", f"{label}/shape", shape)
        parts = (("start", self._channels(low) if low else 0), ("end", self._channels(high)), ("axis", 1))
        bounds = [g.sizes(f"{label}/{part}", [size]) for part, size in parts]
        x = g.op("Slice", [self._side_by_side[x_RD], *bounds], f"{place}/Slice")
        if place == "pool/patches" and config.pooling != "attention":
            return self._images(x, high - low, f"{place}/images/Reshape")
        return x if high - low == 1 else self._rows(x, f"{place}/rows/Reshape")

    @property
    def _num_read(self) -> int:
        return self.config.num_read_tokens or self.config.num_tokens

    def _channels(self, num_tokens: int) -> PerHead:
        return PerHead(num_tokens * self.config.head_dim)

    def _images(self, x_RD: ir.Value, num_tokens: int, name: str) -> ir.Value:
        """The tokens of each image, [B, N, D]."""
        shape = (self.batch or -1, num_tokens, self.width)
        return self.g.reshape(x_RD, name, f"attn/tokens_{num_tokens}", shape)

    def pool(self, x: ir.Value, kind: str, place: str) -> ir.Value:
        """Over an axis of its own; a row for each image."""
        config = self.config
        is_apart = config.pooling != "token" and config.num_prefix_tokens and not config.pool_prefix
        num_tokens = config.num_read_tokens or config.num_pooled_tokens
        x_BND = x if is_apart else self._images(x, num_tokens, f"{place}/Reshape")
        kinds = {"avg": ["avg"], "max": ["max"], "avgmax": ["max", "avg"]}
        operators = {"avg": "ReduceMean", "max": "ReduceMax"}
        pooled = [
            self._reduced(operators[name], x_BND, 1, f"{place}/{name}/{operators[name]}", keepdims=0)
            for name in kinds[kind]
        ]
        if len(pooled) == 1:
            return pooled[0]
        both = self.g.op("Add", pooled, f"{place}/both/Add")
        return self.g.op("Mul", [both, self.g.constant("pool/half", 0.5)], f"{place}/half/Mul")

    def latent(self, x_RD: ir.Value, place: str) -> ir.Value:
        """One row for all images: its product with keys is spread over the batch."""
        return self._rows(self.g.weight(place.replace("/", ".")), f"{place}/Reshape")

    def features(self, x_BD: ir.Value, place: str) -> ir.Value:
        """A row for each image, as it is."""
        return x_BD

    def patch_tokens(self, x: ir.Value) -> ir.Value:
        """With the images apart, as they are where they were selected."""
        if self.config.num_prefix_tokens:
            return x
        return self._images(x, self.config.num_patches, "patch_tokens")

    def residual(self, x_RD: ir.Value, y_RD: ir.Value, place: str) -> ir.Value:
        """A sum; where few rows are left for good, the bias comes into it before the product."""
        if place == "attn_pool/mlp" or (place.endswith("/mlp") and self._reads_few(place)):
            return self.g.plus_linear(x_RD, y_RD, place)
        return self.g.op("Add", [x_RD, y_RD], f"{place}/residual/Add")

    def _reads_few(self, place: str) -> bool:
        """Whether queries are those of the first tokens alone."""
        return place.startswith(f"blocks.{self.config.depth - 1}/") and self.config.num_read_tokens is not None

    def product(self, x: ir.Value, y: ir.Value, place: str) -> ir.Value:
        """Of rows; where few are left, with the images apart.

        Of a product of two Linears of few rows and a third OpenVINO 2026.4.1 makes one kernel for one thread, and
        crashes when it compiles that.
        """
        g, place = self.g, f"{place}/product"
        if not self._reads_few(place) or self.config.mlp_norm:
            return g.op("Mul", [x, y], f"{place}/Mul")
        hidden = PerHead(self.config.hidden_per_head)
        shape = (self.batch or -1, self._num_read, hidden)
        x, y = (g.reshape(z, f"{place}/{name}/Reshape", "product/shape", shape) for z, name in ((x, "x"), (y, "y")))
        product = g.op("Mul", [x, y], f"{place}/Mul")
        return g.reshape(product, f"{place}/Reshape", "product/rows", (-1, hidden))

    def qkv(self, query_RD: ir.Value, x_RD: ir.Value, place: str) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Rows: each form of attention has its own order of axes. Where more is done to each head, [B, N, H, C]."""
        q, k, v = (self.linear(x, f"{place}/{part}") for x, part in ((query_RD, "q"), (x_RD, "k"), (x_RD, "v")))
        q_is_apart, k_is_apart = self._are_apart(place)
        if q_is_apart:
            num_queries = self._num_read if self._reads_few(place) else self.config.num_tokens
            q = self._apart(q, f"{place}/q/heads/Reshape", num_queries)
        if k_is_apart:
            k = self._apart(k, f"{place}/k/heads/Reshape", self.config.num_tokens)
        return q, k, v

    def _are_apart(self, place: str) -> tuple[bool, bool]:
        """Whether the heads of queries, and of keys, are apart before attention; the first tokens are not rotated."""
        if place == "attn_pool":
            return False, False
        qk_norm, is_rotary = self.config.qk_norm, self.config.rotary is not None
        return qk_norm or (is_rotary and not self._reads_few(place)), qk_norm or is_rotary

    def _apart(self, x_RD: ir.Value, name: str, num_tokens: int) -> ir.Value:
        shape = (self.batch or -1, num_tokens, PerHead(1), self.config.head_dim)
        return self.g.reshape(x_RD, name, f"attn/apart_{num_tokens}", shape)

    def head_norm(self, x_BNHC: ir.Value, place: str) -> ir.Value:
        """As any other: each head's channels are an axis."""
        return self.norm(x_BNHC, place)

    def rotate(self, x_BNHC: ir.Value, place: str) -> ir.Value:
        """The halves by Split and Concat; the tables are [1, N, 1, C]."""
        g, half = self.g, self.config.head_dim // 2
        parts, halves = [f"{place}/first", f"{place}/second"], g.constant("rope/halves", [half, half])
        first, second = g.ops("Split", [x_BNHC, halves], f"{place}/Split", parts, axis=-1)
        swapped = g.op("Concat", [second, first], f"{place}/Concat", axis=-1)
        cosines = g.op("Mul", [x_BNHC, g.weight("rope.cos")], f"{place}/cos/Mul")
        sines = g.op("Mul", [swapped, g.weight("rope.sin")], f"{place}/sin/Mul")
        return g.op("Add", [cosines, sines], f"{place}/rotated/Add")

    def attention(self, qkv: tuple[ir.Value, ir.Value, ir.Value], place: str, num_queries: int) -> ir.Value:
        """Opset 23's operator where the head count is known, otherwise products and Softmax.

        That operator takes no query that all images share.
        """
        if self.heads is not None and self.opset >= 23 and place != "attn_pool" and not self.g.counts_integers:
            a = self._attention_operator(*qkv, place, num_queries, self.heads)
        else:
            a = self._softmax_attention(*qkv, place, num_queries)
        return self._rows(a, f"{place}/Reshape")

    def _attention_operator(
        self, q: ir.Value, k: ir.Value, v: ir.Value, scope: str, num_queries: int, heads: int
    ) -> ir.Value:
        """Opset 23's Attention; q carries the scale already."""
        parts = ((q, "q", num_queries), (k, "k", self.config.num_tokens), (v, "v", self.config.num_tokens))
        qkv_BND = [self._images(x, n, f"{scope}/{part}/Reshape") for x, part, n in parts]
        num_heads = {"q_num_heads": heads, "kv_num_heads": heads}
        return self.g.op("Attention", qkv_BND, f"{scope}/Attention", scale=1.0, **num_heads)

    def _softmax_attention(self, q: ir.Value, k: ir.Value, v: ir.Value, scope: str, num_queries: int) -> ir.Value:
        g, config, is_pool = self.g, self.config, scope == "attn_pool"
        num_tokens = config.num_pooled_tokens if is_pool else config.num_tokens
        q_is_apart, k_is_apart = self._are_apart(scope)
        if is_pool:
            shape = (1, PerHead(1), 1, config.head_dim)
            q_BHNC = g.reshape(q, f"{scope}/q/Reshape", f"{scope}/q/shape", shape)
        else:
            q_BHNC = self._transposed(q, f"{scope}/q", num_queries, [0, 2, 1, 3], q_is_apart)
        k_BHCN = self._transposed(k, f"{scope}/k", num_tokens, [0, 2, 3, 1], k_is_apart)
        v_BHNC = self._transposed(v, f"{scope}/v", num_tokens, [0, 2, 1, 3], is_apart=False)
        scores_BHNN = g.op("MatMul", [q_BHNC, k_BHCN], f"{scope}/scores/MatMul")
        shares_BHNN = g.op("Softmax", [scores_BHNN], f"{scope}/shares/Softmax", axis=-1)
        a_BHNC = g.op("MatMul", [shares_BHNN, v_BHNC], f"{scope}/values/MatMul")
        return g.op("Transpose", [a_BHNC], f"{scope}/Transpose", perm=[0, 2, 1, 3])

    def _transposed(self, x: ir.Value, scope: str, num_tokens: int, perm: list[int], is_apart: bool) -> ir.Value:
        x_BNHC = x if is_apart else self._apart(x, f"{scope}/Reshape", num_tokens)
        return self.g.op("Transpose", [x_BNHC], f"{scope}/Transpose", perm=perm)

    def activation(self, x: ir.Value, place: str) -> ir.Value:
        """GELU in one operator from opset 20 on; the others in the forms that onnxruntime fuses."""
        g = self.g
        match self.config.activation:
            case "relu":
                return g.op("Relu", [x], f"{place}/act/Relu")
            case "silu":
                return g.op("Mul", [x, g.op("Sigmoid", [x], f"{place}/sigmoid/Sigmoid")], f"{place}/act/Mul")
            case "quick_gelu":
                scaled = g.op("Mul", [x, g.constant("quick_gelu/scale", 1.702)], f"{place}/quick_gelu/Mul")
                return g.op("Mul", [x, g.op("Sigmoid", [scaled], f"{place}/sigmoid/Sigmoid")], f"{place}/act/Mul")
            case "gelu_tanh":
                return self._gelu_tanh(x, place)
        return self._gelu(x, place)

    def _gelu_tanh(self, x: ir.Value, place: str) -> ir.Value:
        g = self.g
        if self.opset >= 20:
            return g.op("Gelu", [x], f"{place}/act/Gelu", approximate="tanh")
        # x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
        cube = g.op("Pow", [x, g.constant("gelu/three", 3.0)], f"{place}/gelu/Pow")
        small = g.op("Mul", [cube, g.constant("gelu/cubic", 0.044715)], f"{place}/gelu/cubic/Mul")
        both = g.op("Add", [x, small], f"{place}/gelu/cubic/Add")
        scaled = g.op("Mul", [both, g.constant("gelu/scale", math.sqrt(2 / math.pi))], f"{place}/gelu/scale/Mul")
        one_plus_tanh = g.op(
            "Add", [g.op("Tanh", [scaled], f"{place}/Tanh"), g.constant("gelu/one", 1.0)], f"{place}/gelu/Add"
        )
        half = g.op("Mul", [x, g.constant("gelu/half", 0.5)], f"{place}/gelu/Half")
        return g.op("Mul", [half, one_plus_tanh], f"{place}/act/Mul")

    def _gelu(self, x: ir.Value, place: str) -> ir.Value:
        g = self.g
        if self.opset >= 20:
            return g.op("Gelu", [x], f"{place}/act/Gelu")
        # The form that onnxruntime's GeluFusion and the compilers of phone vendors look for.
        scaled = g.op("Div", [x, g.constant("gelu/sqrt2", math.sqrt(2))], f"{place}/gelu/Div")
        erf = g.op("Erf", [scaled], f"{place}/gelu/Erf")
        one_plus_erf = g.op("Add", [erf, g.constant("gelu/one", 1.0)], f"{place}/gelu/Add")
        twice = g.op("Mul", [x, one_plus_erf], f"{place}/gelu/Mul")
        return g.op("Mul", [twice, g.constant("gelu/half", 0.5)], f"{place}/act/Mul")


def subnetwork(
    g: OnnxGraphBuilder, image_BCHW: ir.Value, config: HydraConfig, spec: ExportSpec, opset: int, heads: int
) -> ir.Value:
    """Subnetwork *heads* as a whole: the logits, or the features of a model without classes."""
    return network.run(OnnxEmitter(g, config, spec, opset, heads), config, image_BCHW, heads)
