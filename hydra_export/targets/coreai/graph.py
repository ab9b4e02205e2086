"""The function of one subnetwork, emitted operation by operation."""

# B batch, N tokens, D width of subnetwork k, H heads, C head width, P prefix tokens
from __future__ import annotations

from collections.abc import Mapping, Sequence

import coreai.authoring as ca
import numpy as np

from hydra_export import network
from hydra_export.architecture import HydraConfig
from hydra_export.network import Operations, Span
from hydra_export.preprocess import Preprocessing
from hydra_export.stored_weight import StoredWeight
from hydra_export.target import ExportSpec
from hydra_export.targets.coreai.builder import AssetBuilder, Shape, Value, indices, joined, shape_of, sizes

# As Apple's converter declares them; the attributes are those of the operations that devices have.
_LAYER_NORM = (
    '#coreai.composite_declaration<"layer_norm" = {{input_names = ["input", "gamma", "beta"], '
    'op_attrs = {{axes = [{axis} : si64], eps = {eps:.8e} : f32, version = 1 : si64}}, output_names = ["output"]}}>'
)
_ATTENTION = (
    '#coreai.composite_declaration<"scaled_dot_product_attention" = {input_names = ["query", "key", "value"], '
    "op_attrs = {is_causal = false, scale = 1.0 : f32, version = 1 : si64, window_size = 0 : si64}, "
    'output_names = ["output"]}>'
)
# Of Core AI's GELU; "sigmoid" is x * sigmoid(1.702 x).
_APPROXIMATE = {"gelu": "none", "gelu_tanh": "tanh", "quick_gelu": "sigmoid"}
_ACTIVATIONS = {"relu": ca.relu, "silu": ca.silu}


class CoreAIEmitter(Operations[Value]):
    """The operations of subnetwork *heads* as those of Core AI.

    fp16 and int8 assets compute in float16 from end to end: one float32 operation in between would take the rest away
    from the Neural Engine.

    Args:
        stored: what the asset holds, of subnetworks up to *largest*.
    """

    def __init__(
        self,
        builder: AssetBuilder,
        config: HydraConfig,
        heads: int,
        spec: ExportSpec,
        stored: Mapping[str, StoredWeight],
        largest: int,
    ) -> None:
        assert isinstance(spec.batch, int)
        self.builder, self.config, self.heads, self.spec = builder, config, heads, spec
        self.stored, self.largest, self.batch = stored, largest, spec.batch
        self.width = config.width(heads)
        self.dtype: type[np.float16 | np.float32] = np.float32 if spec.precision == "fp32" else np.float16

    def emit(self, image: Value, preprocessing: Preprocessing) -> Value:
        """From the input to the output, which is float32 whatever the precision."""
        if self.spec.input == "image":
            image = _normalised(image, preprocessing)
        if self.dtype == np.float16:
            image = ca.cast(image, np.float16)
        result = network.run(self, self.config, image, self.heads)
        return ca.cast(result, np.float32) if self.dtype == np.float16 else result

    def embed(self, image_BCHW: Value) -> Value:
        B, D, P, size = self.batch, self.width, self.config.num_prefix_tokens, self.config.patch_size
        patches = ca.conv2d(
            image_BCHW, self._weight("patch_embed.weight"), sizes(size, size), sizes(1, 1), np.uint32(1)
        )
        x_BND = ca.transpose(ca.reshape(patches, sizes(B, D, self.config.num_patches)), sizes(0, 2, 1))
        x_BND = ca.broadcasting_add(x_BND, self._weight("patch_embed.bias"))
        if P:
            prefix_BPD = self.builder.constant(f"prefix.k{self.heads}", lambda: np.zeros((B, P, D), self.dtype))
            x_BND = ca.concat(np.int32(1), [prefix_BPD, x_BND])
        if "tokens" not in self.stored:
            return x_BND
        # Apple's code would make one constant of two that are added one after the other, rounded once more.
        return ca.broadcasting_add(x_BND, self._weight("tokens", apart=not P))

    def norm(self, x: Value, place: str) -> Value:
        """Over the last axis.

        RMSNorm is the first half of the LayerNorm of *x* and -*x*, whose mean is 0: so it is an operation of devices.
        """
        layer, shape = place.replace("/", "."), shape_of(x)
        if self.config.norm == "layer_norm":
            return self._layer_norm(x, self._weight(f"{layer}.weight"), self._weight(f"{layer}.bias"))
        stored, build = self.stored[f"{layer}.weight"], self.builder.constant
        both = ca.concat(np.int32(len(shape) - 1), [x, ca.broadcasting_mul(x, self.dtype(-1))])
        gammas = build(
            f"{layer}.weight.both.k{self.heads}", lambda: np.tile(stored.part(stored.cut.spans(self.heads)), 2)
        )
        zeros = build(f"zeros.{2 * shape[-1]}", lambda: np.zeros(2 * shape[-1], self.dtype))
        return self._first(self._layer_norm(both, gammas, zeros), shape)

    def head_norm(self, x_BHNC: Value, place: str) -> Value:
        return self.norm(x_BHNC, place)

    def _layer_norm(self, x: Value, gamma: Value, beta: Value) -> Value:
        shape, inputs = shape_of(x), {"input": x, "gamma": gamma, "beta": beta}
        composite = _LAYER_NORM.format(axis=len(shape) - 1, eps=self.config.layer_norm_eps)
        return self.builder.call(f"layer_norm_{joined(shape)}", inputs, self._normalise, composite=composite)

    def _normalise(self, x: Value, gamma_D: Value, beta_D: Value) -> Value:
        last = indices(len(shape_of(x)) - 1)
        # In float16 a smaller one is 0, and a token whose channels are equal would be divided by it.
        eps = max(self.dtype(self.config.layer_norm_eps), np.finfo(self.dtype).smallest_subnormal)
        centred = ca.broadcasting_sub(x, ca.reduce_mean(x, last))
        variance = ca.reduce_mean(ca.broadcasting_mul(centred, centred), last)
        scaled = ca.broadcasting_mul(centred, ca.rsqrt(ca.broadcasting_add(variance, self.dtype(eps))))
        return ca.broadcasting_add(ca.broadcasting_mul(scaled, gamma_D), beta_D)

    def linear(self, x: Value, place: str) -> Value:
        layer = place.replace("/", ".")
        product = ca.broadcasting_batch_matmul(x, self._matrix(f"{layer}.weight"))
        return ca.broadcasting_add(product, self._weight(f"{layer}.bias"))

    def qkv(self, query_BND: Value, x_BND: Value, place: str) -> tuple[Value, Value, Value]:
        """As [B, H, N, C]."""
        return (
            self._heads_apart(self.linear(query_BND, f"{place}/q")),
            self._heads_apart(self.linear(x_BND, f"{place}/k")),
            self._heads_apart(self.linear(x_BND, f"{place}/v")),
        )

    def _heads_apart(self, x_BND: Value) -> Value:
        shape = sizes(self.batch, shape_of(x_BND)[1], self.heads, self.config.head_dim)
        return ca.transpose(ca.reshape(x_BND, shape), sizes(0, 2, 1, 3))

    def attention(self, qkv_BHNC: tuple[Value, Value, Value], place: str, num_queries: int) -> Value:
        query, key, value = qkv_BHNC
        inputs = {"query": query, "key": key, "value": value}
        a_BHNC = self.builder.call(f"attention_{joined(shape_of(query))}", inputs, _attended, composite=_ATTENTION)
        return ca.reshape(ca.transpose(a_BHNC, sizes(0, 2, 1, 3)), sizes(self.batch, num_queries, self.width))

    def activation(self, x: Value, place: str) -> Value:
        name = self.config.activation
        return ca.gelu(x, approximate=_APPROXIMATE[name]) if name in _APPROXIMATE else _ACTIVATIONS[name](x)

    def product(self, x: Value, y: Value, place: str) -> Value:
        return ca.broadcasting_mul(x, y)

    def rotate(self, x_BHNC: Value, place: str) -> Value:
        *others, C = shape_of(x_BHNC)
        one, other = self._first(x_BHNC, (*others, C // 2)), self._part(x_BHNC, (0, 0, 0, C // 2), (*others, C))
        swapped_BHNC = ca.concat(np.int32(3), [other, one])
        cos_BHNC = ca.broadcasting_mul(x_BHNC, self._weight("rope.cos"))
        return ca.broadcasting_add(cos_BHNC, ca.broadcasting_mul(swapped_BHNC, self._weight("rope.sin")))

    def residual(self, x: Value, y: Value, place: str) -> Value:
        return ca.broadcasting_add(x, y)

    def select(self, x_BND: Value, span: Span, place: str) -> Value:
        return self._part(x_BND, (0, span[0], 0), (self.batch, span[1], self.width))

    def _first(self, x: Value, shape: Shape) -> Value:
        return self._part(x, (0,) * len(shape), shape)

    def _part(self, x: Value, begin: Shape, end: Shape) -> Value:
        return ca.slice_(x, indices(*begin), indices(*end), indices(*(1 for _ in end)))

    def pool(self, x_BND: Value, kind: str, place: str) -> Value:
        """Each over axis 1, which stays."""
        if kind == "avg":
            return ca.reduce_mean(x_BND, indices(1))
        max_B1D = ca.reduce_max(x_BND, indices(1))
        if kind == "max":
            return max_B1D
        return ca.broadcasting_mul(ca.broadcasting_add(max_B1D, ca.reduce_mean(x_BND, indices(1))), self.dtype(0.5))

    def latent(self, x_BND: Value, place: str) -> Value:
        """By a graph of its own: Apple's code would multiply it with the query's weights, and round that."""
        stored, build = self.stored[place.replace("/", ".")], self.builder.constant
        own, name = stored.cut.spans(self.heads), f"{place}.k{self.heads}"
        latent_B1D = build(name, lambda: np.repeat(stored.part(own), self.batch, axis=0))
        return self.builder.beginning(latent_B1D, shape_of(latent_B1D))

    def features(self, x_B1D: Value, place: str) -> Value:
        return ca.reshape(x_B1D, sizes(self.batch, self.width))

    def classifier(self, features: Sequence[tuple[Value, str]]) -> Value:
        logits = [self.linear(features_BD, weights) for features_BD, weights in features]
        return logits[0] if len(logits) == 1 else ca.broadcasting_add(*logits)

    def patch_tokens(self, x_BND: Value) -> Value:
        return x_BND

    def _weight(self, name: str, apart: bool = False) -> Value:
        """What this subnetwork uses of the weight *name*: of all but vectors, the beginning of what the asset holds.

        *apart*: by a graph of its own also where that is all of it.
        """
        stored, build = self.stored[name], self.builder.constant
        own, whole = stored.cut.spans(self.heads), stored.cut.spans(self.largest)
        if (shape := stored.shape(own)) == stored.shape(whole) and not apart:
            return build(name, lambda: stored.part(whole))
        if len(shape) == 1:
            return build(f"{name}.k{self.heads}", lambda: stored.part(own))
        return self.builder.beginning(build(name, lambda: stored.part(whole)), shape)

    def _matrix(self, name: str) -> Value:
        """The weight *name* of a Linear, which is computed from integers where it is quantized."""
        if self.spec.precision != "int8":
            return self._weight(name)
        scale_O = self._weight(f"{name}.scale")
        no_offset = (np.zeros(shape_of(scale_O), dtype) for dtype in (np.int8, np.float16))
        return ca.dequantize(self._weight(name), scale_O, *no_offset, np.int32(1))


def _attended(query_BHNC: Value, key_BHNC: Value, value_BHNC: Value) -> Value:
    """The query carries the scale already."""
    scores_BHNN = ca.broadcasting_batch_matmul(query_BHNC, ca.transpose(key_BHNC, sizes(0, 1, 3, 2)))
    return ca.broadcasting_batch_matmul(ca.softmax(scores_BHNN, np.int32(3)), value_BHNC)


def _normalised(pixels_BHWC: Value, data: Preprocessing) -> Value:
    """(pixel / 255 - mean) / std in float32, so that the weights are those of the tensor form; as [B, C, H, W]."""
    std, mean = (np.array(each, np.float64).reshape(1, -1, 1, 1) for each in (data.std, data.mean))
    image_BCHW = ca.transpose(ca.cast(pixels_BHWC, np.float32), sizes(0, 3, 1, 2))
    scaled = ca.broadcasting_mul(image_BCHW, (1 / (255 * std)).astype(np.float32))
    return ca.broadcasting_add(scaled, (-mean / std).astype(np.float32))
