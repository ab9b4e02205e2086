"""The function of one subnetwork, emitted operation by operation."""

# B batch, N tokens, D width of subnetwork k, H heads, C head width, P prefix tokens
from __future__ import annotations

from collections.abc import Mapping

import coreai.authoring as ca
import numpy as np

from hydra_export import network
from hydra_export.architecture import HydraConfig
from hydra_export.network import Operations
from hydra_export.preprocess import Preprocessing
from hydra_export.stored_weight import StoredWeight
from hydra_export.target import ExportSpec
from hydra_export.targets.coreai.builder import AssetBuilder, Value, indices, joined, shape_of, sizes

# As Apple's converter declares them; the attributes are those of the operations that devices have.
_LAYER_NORM = (
    '#coreai.composite_declaration<"layer_norm" = {{input_names = ["input", "gamma", "beta"], '
    'op_attrs = {{axes = [2 : si64], eps = {eps:.8e} : f32, version = 1 : si64}}, output_names = ["output"]}}>'
)
_ATTENTION = (
    '#coreai.composite_declaration<"scaled_dot_product_attention" = {input_names = ["query", "key", "value"], '
    "op_attrs = {is_causal = false, scale = 1.0 : f32, version = 1 : si64, window_size = 0 : si64}, "
    'output_names = ["output"]}>'
)


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
        prefix_BPD = self.builder.constant(f"prefix.k{self.heads}", lambda: np.zeros((B, P, D), self.dtype))
        return ca.broadcasting_add(ca.concat(np.int32(1), [prefix_BPD, x_BND]), self._weight("tokens"))

    def layer_norm(self, x_BND: Value, place: str) -> Value:
        layer = place.replace("/", ".")
        inputs = {"input": x_BND, "gamma": self._weight(f"{layer}.weight"), "beta": self._weight(f"{layer}.bias")}
        eps = self.config.layer_norm_eps
        return self.builder.call(
            f"layer_norm_{joined(shape_of(x_BND))}", inputs, self._normalise, composite=_LAYER_NORM.format(eps=eps)
        )

    def _normalise(self, x_BND: Value, gamma_D: Value, beta_D: Value) -> Value:
        # In float16 a smaller one is 0, and a token whose channels are equal would be divided by it.
        eps = max(self.dtype(self.config.layer_norm_eps), np.finfo(self.dtype).smallest_subnormal)
        centred = ca.broadcasting_sub(x_BND, ca.reduce_mean(x_BND, indices(2)))
        variance = ca.reduce_mean(ca.broadcasting_mul(centred, centred), indices(2))
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
        return ca.gelu(x)

    def residual(self, x: Value, y: Value, place: str) -> Value:
        return ca.broadcasting_add(x, y)

    def select(self, x_BND: Value, place: str) -> Value:
        return ca.slice_(x_BND, indices(0, 0, 0), indices(self.batch, 1, self.width), indices(1, 1, 1))

    def features(self, x_B1D: Value) -> Value:
        return ca.reshape(x_B1D, sizes(self.batch, self.width))

    def classifier(self, features_BD: Value, weights: str) -> Value:
        return self.linear(features_BD, weights)

    def _weight(self, name: str) -> Value:
        """What this subnetwork uses of the weight *name*: of all but vectors, the beginning of what the asset holds."""
        stored, build = self.stored[name], self.builder.constant
        own, whole = stored.cut.spans(self.heads), stored.cut.spans(self.largest)
        if (shape := stored.shape(own)) == stored.shape(whole):
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
