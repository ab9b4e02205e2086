"""The ML Program of one subnetwork, emitted operation by operation.

Weights may be cut into *shells*: what each of several listed head counts adds to the one before. A Linear is then one
product for the rows that a shell adds, of all columns so far, and one for the columns that it adds to the older rows.
A smaller subnetwork's program holds the same blocks, up to its own head count.
"""

# B batch, N tokens, D width of subnetwork k, H heads, C head width, d channels that a shell adds
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hydra_export import network
from hydra_export.architecture import HydraConfig
from hydra_export.mil.builder import Labels, ProgramBuilder, Store
from hydra_export.mil.types import TensorType
from hydra_export.network import Cut, Operations, Span
from hydra_export.preprocess import Preprocessing
from hydra_export.target import ExportSpec
from hydra_export.targets.coreml import CoreMLOptions
from hydra_export.targets.coreml.weights import Quantized, Weights
from hydra_export.text import kept

if TYPE_CHECKING:  # linting a package needs no torch
    from hydra_export.checkpoint_file import CheckpointInfo

IMAGE = "image"
OUTPUTS = LOGITS, FEATURES, PATCH_TOKENS = "logits", "features", "patch_tokens"
HEAD = "head"  # what the names of classifiers' products begin with, where it is not that of the output
LABEL, PROBABILITIES = "classLabel", "classLabel_probs"  # as Vision and Xcode expect
_GELU_MODES = {"gelu": "EXACT", "gelu_tanh": "TANH_APPROXIMATION", "quick_gelu": "SIGMOID_APPROXIMATION"}


def build(spans: Sequence[Span], spec: ExportSpec, info: CheckpointInfo, weights: Weights, store: Store) -> Any:
    """The function of the subnetwork that the shells of *spans* make up; its large constants go to *store*."""
    config = weights.config
    assert isinstance(spec.batch, int)
    mb = ProgramBuilder(CoreMLOptions.of(spec).ios, store)
    image = mb.input(IMAGE, TensorType("fp32", (spec.batch, config.channels, *config.image_shape)))
    if weights.ranges is None:
        emitter = CoreMLEmitter(mb, spans, spec, weights)
    else:
        from hydra_export.targets.coreml.quantized import QuantizedEmitter

        emitter = QuantizedEmitter(mb, spans, spec, weights)
    return mb.function(emitter.emit(image, info))


def keeps_attention_whole(config: HydraConfig, spec: ExportSpec) -> bool:
    """Whether attention is one operation.

    It divides by sqrt(C) itself, and q carries that scale already: multiplying q's weights by sqrt(C) undoes it, which
    changes no bit of them only where sqrt(C) is a power of two.
    """
    root = math.isqrt(config.head_dim)
    return CoreMLOptions.of(spec).ios >= 18 and root**2 == config.head_dim and root & (root - 1) == 0


class CoreMLEmitter(Operations[Any]):
    """The operations of the subnetwork that ends with the last of *spans*, as those of MIL."""

    def __init__(self, mb: ProgramBuilder, spans: Sequence[Span], spec: ExportSpec, weights: Weights) -> None:
        self.mb, self.spans, self.spec, self.weights = mb, spans, spec, weights
        self.options = CoreMLOptions.of(spec)
        assert isinstance(spec.batch, int)
        self.config, self.batch, self.heads = weights.config, spec.batch, spans[-1][1]
        self.width, self.dtype = self.config.width(self.heads), weights.dtype
        self._made: dict[str, Any] = {}  # what several operations take, by name

    def emit(self, image_BCHW: Any, info: CheckpointInfo) -> list[Any]:
        """From the input to the outputs, which are float32 whatever the precision."""
        mb = self.mb
        if self.spec.input == "image":
            image_BCHW = self._normalised(image_BCHW, info.preprocessing)
        if self.dtype == np.float16:
            image_BCHW = mb.cast(x=image_BCHW, dtype="fp16", name="image_fp16")
        result = network.run(self, self.config, image_BCHW, self.heads)
        if not self.config.num_outputs:
            return [self._output(result, self.config.output)]
        if not self.options.classifier:
            return [result]
        shares, labels = mb.softmax(x=result, axis=-1, name="probabilities"), Labels(map(kept, info.labels))
        outputs = [LABEL, PROBABILITIES]
        return [*mb.classify(probabilities=shares, classes=labels, name="classify_0", outputs=outputs), result]

    def classifier(self, features: Sequence[tuple[Any, str]]) -> Any:
        output = self.config.output
        name = output if self.dtype == np.float32 else HEAD
        if len(features) == 1:
            (features_BD, weights), *_ = features
            logits_BK = self._linear(features_BD, weights, name=name)
        else:
            one_BK, other_BK = (self._linear(features_BD, weights) for features_BD, weights in features)
            logits_BK = self.mb.add(x=one_BK, y=other_BK, name=output if name == output else f"{HEAD}_sum")
        return logits_BK if self.dtype == np.float32 else self._output(logits_BK, output)

    def _output(self, x: Any, name: str) -> Any:
        return (
            self.mb.cast(x=x, dtype="fp32", name=name) if self.dtype == np.float16 else self.mb.identity(x=x, name=name)
        )

    def _normalised(self, image_BCHW: Any, data: Preprocessing) -> Any:
        """(pixel / 255 - mean) / std in float32, so that the other weights are those of the tensor form."""
        std = np.array(data.std, np.float64).reshape(1, -1, 1, 1)
        mean = np.array(data.mean, np.float64).reshape(1, -1, 1, 1)
        scaled = self.mb.mul(x=image_BCHW, y=(1 / (255 * std)).astype(np.float32), name="image_scaled")
        return self.mb.add(x=scaled, y=(-mean / std).astype(np.float32), name="image_normalised")

    def embed(self, image_BCHW: Any) -> Any:
        """Shell by shell."""
        shells = [self._shell_of_tokens(image_BCHW, span) for span in self.spans]
        return shells[0] if len(shells) == 1 else self._concat(shells, "tokens")

    def _shell_of_tokens(self, image_BCHW: Any, span: Span) -> Any:
        """The channels of *span* of every token."""
        mb, config, B = self.mb, self.config, self.batch
        label = _label(span) if len(self.spans) > 1 else ""
        patches_Bdhw = self._conv(image_BCHW, span, f"patch_embed{label}")
        width = config.width(span[1] - span[0])
        x = mb.reshape(x=patches_Bdhw, shape=[B, width, config.num_patches], name=f"patch_embed{label}_rows")
        x_BNd = mb.transpose(x=x, perm=[0, 2, 1], name=f"patch_embed{label}_tokens")
        prefix = config.num_prefix_tokens
        if config.num_positions:
            x_BNd = mb.add(x=x_BNd, y=self.weights.vector("tokens", span)[:, prefix:], name=f"positions{label}")
        if not prefix:
            return x_BNd
        prefix_BPd = np.repeat(self.weights.vector("tokens", span)[:, :prefix], B, axis=0)
        values = [mb.const(val=prefix_BPd, name=f"cls_token{label}"), x_BNd]
        return mb.concat(values=values, axis=1, name=f"tokens{label}")

    def _conv(self, image_BCHW: Any, span: Span, name: str) -> Any:
        """The patch embedding's product, for the channels of *span*."""
        return self.mb.conv(
            x=image_BCHW,
            weight=self._matrix("patch_embed.weight", span, (0, 0), f"{name}_weight"),
            bias=self.weights.vector("patch_embed.bias", span),
            strides=[self.config.patch_size] * 2,
            pad_type="valid",
            pad=[0, 0, 0, 0],
            dilations=[1, 1],
            name=name,
        )

    def select(self, x_BND: Any, span: Span, place: str) -> Any:
        begin, end = [0, span[0], 0], [self.batch, span[1], self.width]
        return self.mb.slice_by_index(x=x_BND, begin=begin, end=end, name=_name(place))

    def pool(self, x_BND: Any, kind: str, place: str) -> Any:
        """Each over axis 1, which stays."""
        mb, scope = self.mb, _name(place)
        if kind != "max":
            mean_B1D = mb.reduce_mean(x=x_BND, axes=[1], keep_dims=True, name=f"{scope}_mean")
        if kind != "avg":
            max_B1D = mb.reduce_max(x=x_BND, axes=[1], keep_dims=True, name=f"{scope}_max")
        if kind != "avgmax":
            return mean_B1D if kind == "avg" else max_B1D
        both_B1D = mb.add(x=mean_B1D, y=max_B1D, name=f"{scope}_both")
        return mb.mul(x=both_B1D, y=self.dtype(0.5), name=scope)

    def latent(self, x_BND: Any, place: str) -> Any:
        latent_11D = self.weights.vector(place.replace("/", "."), (0, self.heads))
        return self.mb.const(val=np.repeat(latent_11D, self.batch, axis=0), name=_name(place))

    def features(self, x_B1D: Any, place: str) -> Any:
        """Without the axis of tokens."""
        return self.mb.squeeze(x=x_B1D, axes=[1], name="cls" if place == "norm" else place)

    def patch_tokens(self, x_BND: Any) -> Any:
        return x_BND

    def residual(self, x_BND: Any, y_BND: Any, place: str) -> Any:
        return self.mb.add(x=x_BND, y=y_BND, name=f"{_name(place)}_residual")

    def activation(self, x: Any, place: str) -> Any:
        name = self.config.activation
        if name in _GELU_MODES:
            return self.mb.gelu(x=x, mode=_GELU_MODES[name], name=f"{_name(place)}_gelu")
        return getattr(self.mb, name)(x=x, name=f"{_name(place)}_{name}")

    def product(self, x: Any, y: Any, place: str) -> Any:
        return self.mb.mul(x=x, y=y, name=f"{_name(place)}_product")

    def qkv(self, query_BND: Any, x_BND: Any, place: str) -> tuple[Any, Any, Any]:
        """As [B, H, N, C]."""
        return (
            self._heads_apart(self.linear(query_BND, f"{place}/q", self._undone(f"{place}/q")), f"{place}/q"),
            self._heads_apart(self.linear(x_BND, f"{place}/k"), f"{place}/k"),
            self._heads_apart(self.linear(x_BND, f"{place}/v"), f"{place}/v"),
        )

    def _undone(self, place: str) -> float:
        """What undoes the factor that the weights at *place* carry, where attention multiplies by it as well."""
        whole = keeps_attention_whole(self.config, self.spec)
        return 1 / self.weights.factor(f"{place.replace('/', '.')}.weight") if whole else 1.0

    def head_norm(self, x_BHNC: Any, place: str) -> Any:
        return self._norm(x_BHNC, place, self._undone(place))

    def rotate(self, x_BHNC: Any, place: str) -> Any:
        mb, scope, half = self.mb, _name(place), self.config.head_dim // 2
        cos_11NC, sin_11NC = (
            self._shared(_name(each), self.weights.vector(each, (0, self.heads))) for each in ("rope.cos", "rope.sin")
        )
        *others, C = x_BHNC.shape
        first, second = (
            mb.slice_by_index(
                x=x_BHNC,
                begin=self._place([0, 0, 0, low]),
                end=self._place([*others, high]),
                name=f"{scope}_half_{low}",
            )
            for low, high in ((0, half), (half, C))
        )
        swapped_BHNC = self._concat([second, first], f"{scope}_swapped")
        turned_BHNC = mb.mul(x=swapped_BHNC, y=sin_11NC, name=f"{scope}_sin")
        return mb.add(x=mb.mul(x=x_BHNC, y=cos_11NC, name=f"{scope}_cos"), y=turned_BHNC, name=f"{scope}_turned")

    def attention(self, qkv_BHNC: tuple[Any, Any, Any], place: str, num_queries: int) -> Any:
        """In one operation where that is exact."""
        mb, scope, (q_BHNC, k_BHNC, v_BHNC) = self.mb, _name(place), qkv_BHNC
        if keeps_attention_whole(self.config, self.spec):
            a_BHNC = mb.scaled_dot_product_attention(query=q_BHNC, key=k_BHNC, value=v_BHNC, name=f"{scope}_values")
        else:
            scores_BHNN = mb.matmul(x=q_BHNC, y=k_BHNC, transpose_y=True, name=f"{scope}_scores")
            shares_BHNN = mb.softmax(x=scores_BHNN, axis=-1, name=f"{scope}_shares")
            a_BHNC = mb.matmul(x=shares_BHNN, y=v_BHNC, name=f"{scope}_values")
        a_BNHC = mb.transpose(x=a_BHNC, perm=[0, 2, 1, 3], name=f"{scope}_tokens")
        return mb.reshape(x=a_BNHC, shape=[self.batch, num_queries, self.width], name=f"{scope}_together")

    def _heads_apart(self, x_BND: Any, place: str) -> Any:
        scope, shape = _name(place), [*x_BND.shape[:2], self.heads, self.config.head_dim]
        x_BNHC = self.mb.reshape(x=x_BND, shape=shape, name=f"{scope}_apart")
        return self.mb.transpose(x=x_BNHC, perm=[0, 2, 1, 3], name=f"{scope}_heads")

    def linear(self, x: Any, place: str, factor: float = 1.0) -> Any:
        """With weights that are multiplied by *factor*."""
        return self._linear(x, place, factor)

    def _linear(self, x: Any, place: str, factor: float = 1.0, name: str = "") -> Any:
        """The product with all blocks of a weight, shell by shell."""
        mb, name, layer = self.mb, name or _name(place), place.replace("/", ".")
        taller, wider = map(bool, self.weights.cut(f"{layer}.weight").units)
        (_, first), *later = self.spans if wider else [(0, self.heads)]

        def product(rows: Span, columns: Span, name: str, biased: bool = True) -> Any:
            weight = self._matrix(f"{layer}.weight", rows, columns, f"{name}_weight", factor)
            bias = self._bias(layer, rows, factor) if biased else self._zeros(weight.shape[0])
            given = self._part(x, columns, self.weights.cut(f"{layer}.weight")) if wider else x
            return mb.linear(x=given, weight=weight, bias=bias, name=name)

        y = product((0, first), (0, first), f"{name}{_label((0, first))}" if later else name)
        for low, high in later:
            label, last = f"{name}{_label((low, high))}", high == self.heads
            older = product((0, low), (low, high), f"{label}_older", biased=False)
            y = mb.add(x=y, y=older, name=name if last and not taller else f"{label}_sum")
            if taller:
                added = product((low, high), (0, high), label)
                y = self._concat([y, added], name if last else f"{label}_all")
        return y

    def _bias(self, layer: str, rows: Span, factor: float) -> Any:
        return self.weights.vector(f"{layer}.bias", rows, factor)

    def _part(self, x: Any, span: Span, cut: Cut) -> Any:
        """The channels of *x* that the heads of *span* have; *cut* is that of the weight that multiplies them."""
        if span == (0, self.heads):
            return x
        name = f"{x.name}{_label(span)}"
        if name not in self._made:
            low, high = (cut.place(1, k) for k in span)
            begin, end = self._place([*(0 for _ in x.shape[:-1]), low]), self._place([*x.shape[:-1], high])
            self._made[name] = self.mb.slice_by_index(x=x, begin=begin, end=end, name=name)
        return self._made[name]

    def _place(self, numbers: list[int]) -> Any:
        return self._shared(f"place_{'_'.join(map(str, numbers))}", np.array(numbers, np.int32))

    def _concat(self, values: list[Any], name: str) -> Any:
        """Along the last axis."""
        axis, interleave = self._shared("last_axis", -1), self._shared("not_interleaved", False)
        return self.mb.concat(values=values, axis=axis, interleave=interleave, name=name)

    def _zeros(self, count: int) -> Any:
        """A bias that is none: the builder would write one of its own for each product."""
        return self._shared(f"zeros_{count}", np.zeros(count, self.dtype))

    def _shared(self, name: str, value: Any) -> Any:
        """A constant that many operations take: one of its own for each would be a third of all operations."""
        if name not in self._made:
            self._made[name] = self.mb.const(val=value, name=name)
        return self._made[name]

    def _matrix(self, weight: str, rows: Span, columns: Span, name: str, factor: float = 1.0) -> Any:
        """A block of *weight*, which the operation *name* makes where it is quantized."""
        block = self.weights.matrix(weight, rows, columns, factor)
        if not isinstance(block, Quantized):
            return block
        mb = self.mb
        if self.options.ios >= 18:
            scale = block.scale.reshape(-1, *(1,) * (block.data.ndim - 1))
            return mb.constexpr_blockwise_shift_scale(data=block.data, scale=scale, name=name)
        return mb.constexpr_affine_dequantize(
            quantized_data=block.data, zero_point=np.int8(0), scale=block.scale, axis=0, name=name
        )

    def norm(self, x_BND: Any, place: str) -> Any:
        return self._norm(x_BND, place)

    def _norm(self, x: Any, place: str, factor: float = 1.0) -> Any:
        """Over the last axis, with weights that are multiplied by *factor*.

        RMSNorm is the first half of the LayerNorm of *x* and -*x*, whose mean is 0: no square of a float16, which ends
        at 256, is ever a result.
        """
        mb, name = self.mb, _name(place)
        # In float16 a smaller one is 0, and a token whose channels are equal would be divided by it.
        eps = max(self.dtype(self.config.layer_norm_eps), np.finfo(self.dtype).smallest_subnormal)
        gamma, beta = self._affine(place, factor)
        if self.config.norm == "layer_norm":
            return mb.layer_norm(x=x, axes=[-1], gamma=gamma, beta=beta, epsilon=eps, name=name)
        negative = mb.mul(x=x, y=self._shared("minus_one", self.dtype(-1)), name=f"{name}_negative")
        both = self._concat([x, negative], f"{name}_both")
        scaled = mb.layer_norm(x=both, axes=[-1], gamma=np.tile(gamma, 2), epsilon=eps, name=f"{name}_scaled")
        begin, end = self._place([0] * len(x.shape)), self._place([*x.shape])
        return mb.slice_by_index(x=scaled, begin=begin, end=end, name=name)

    def _affine(self, place: str, factor: float) -> tuple[Any, Any]:
        """What the norm at *place* multiplies by, and what it adds; None for nothing."""
        layer, whole = place.replace("/", "."), (0, self.heads)
        gamma = self.weights.vector(f"{layer}.weight", whole, factor)
        has_beta = self.config.norm == "layer_norm"
        return gamma, self.weights.vector(f"{layer}.bias", whole, factor) if has_beta else None


def _name(place: str) -> str:
    """As names in MIL may be."""
    return place.replace("/", "_").replace(".", "_")


def _label(span: Span) -> str:
    return "_{}_{}".format(*span)
