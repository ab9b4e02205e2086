"""The ML Program of one subnetwork, emitted operation by operation with coremltools' builder."""

# B batch, N tokens, D width of subnetwork k, H heads, C head width
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydra_export.architecture import LAYER_NORM_EPS, HydraConfig
from hydra_export.preprocess import Preprocessing
from hydra_export.target import ExportSpec, TensorInfo

LOGITS, FEATURES = "logits", "features"
LABEL, PROBABILITIES = "classLabel", "classLabel_probs"  # what coremltools calls them, and Xcode expects
# The output that becomes LABEL and PROBABILITIES when coremltools adds its classify operation.
SHARES = "probabilities"

Fetch = Callable[[str], NDArray[np.float32]]


def signature(config: HydraConfig, heads: int, spec: ExportSpec) -> tuple[TensorInfo, TensorInfo]:
    """What a program takes, and the output that parity is measured on."""
    assert isinstance(spec.batch, int)
    batch, size, channels = spec.batch, config.image_size, config.channels
    if spec.input == "image":
        image = TensorInfo(name="image", dtype="uint8", shape=(batch, size, size, channels))
    else:
        image = TensorInfo(name="image", dtype="float32", shape=(batch, channels, size, size))
    return image, TensorInfo(name=config.output, dtype="float32", shape=(batch, config.num_outputs(heads)))


def build(config: HydraConfig, heads: int, spec: ExportSpec, data: Preprocessing, weights: Fetch) -> Any:
    """The program of subnetwork *heads*, with one function, ``main``.

    Args:
        weights: the normalised form of that subnetwork, a tensor at a time.
    """
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb  # noqa: N813 (its documented name)
    from coremltools.converters.mil.mil import types

    size = config.image_size
    given = mb.TensorSpec(shape=(spec.batch, config.channels, size, size), dtype=types.fp32)

    @mb.program(input_specs=[given], opset_version=getattr(ct.target, f"iOS{spec.ios}"))  # type: ignore[untyped-decorator]
    def program(image: Any) -> Any:
        return Emitter(mb, config, heads, spec, weights).emit(image, data)

    return program


def keeps_attention_whole(config: HydraConfig, spec: ExportSpec) -> bool:
    """Whether attention is one operation.

    It divides by sqrt(C) itself, and q carries that scale already: multiplying q's weights by sqrt(C) undoes it, which
    changes no bit of them only where sqrt(C) is a power of two.
    """
    root = math.isqrt(config.head_dim)
    return spec.ios >= 18 and root**2 == config.head_dim and root & (root - 1) == 0


class Emitter:
    """Emits subnetwork *heads*; the last block is computed for the class token's query only."""

    def __init__(self, mb: Any, config: HydraConfig, heads: int, spec: ExportSpec, weights: Fetch) -> None:
        self.mb, self.config, self.heads, self.spec = mb, config, heads, spec
        assert isinstance(spec.batch, int)
        self.width, self.batch = config.width(heads), spec.batch
        self.dtype: type[np.float16 | np.float32] = np.float16 if spec.precision == "fp16" else np.float32
        self._weights = weights

    def weight(self, name: str, factor: float = 1.0) -> NDArray[Any]:
        """A tensor of the normalised form, rounded to the program's precision, times *factor*."""
        rounded: NDArray[Any] = self._weights(name).astype(self.dtype)
        return rounded if factor == 1.0 else rounded * np.asarray(factor, self.dtype)

    def emit(self, image_BCHW: Any, data: Preprocessing) -> Any:
        """From the input to the outputs, which are float32 whatever the precision."""
        mb, config = self.mb, self.config
        if self.spec.input == "image":
            image_BCHW = self._normalised(image_BCHW, data)
        if self.dtype == np.float16:
            image_BCHW = mb.cast(x=image_BCHW, dtype="fp16", name="image_fp16")
        x_BND = self._tokens(image_BCHW)
        for i in range(config.depth):
            x_BND = self._block(x_BND, i, last=i == config.depth - 1)
        x_BD = mb.squeeze(x=self._norm(x_BND, "norm"), axes=[1], name="cls")
        if not config.num_classes:
            return self._output(x_BD, FEATURES)
        if self.dtype == np.float32:
            logits_BK = self._linear(x_BD, "head", name=LOGITS)
        else:
            logits_BK = self._output(self._linear(x_BD, "head"), LOGITS)
        return (logits_BK, mb.softmax(x=logits_BK, axis=-1, name=SHARES)) if self.spec.classifier else logits_BK

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

    def _tokens(self, image_BCHW: Any) -> Any:
        mb, config, B = self.mb, self.config, self.batch
        patches_BDhw = mb.conv(
            x=image_BCHW,
            weight=self.weight("patch_embed.weight"),
            bias=self.weight("patch_embed.bias"),
            strides=[config.patch_size] * 2,
            pad_type="valid",
            name="patch_embed",
        )
        x = mb.reshape(x=patches_BDhw, shape=[B, self.width, config.num_tokens - 1], name="patch_embed_rows")
        x_BND = mb.transpose(x=x, perm=[0, 2, 1], name="patch_embed_tokens")
        tokens_1ND = self.weight("tokens")
        x_BND = mb.add(x=x_BND, y=tokens_1ND[:, 1:], name="positions")
        cls_B1D = np.repeat(tokens_1ND[:, :1], B, axis=0)
        return mb.concat(values=[mb.const(val=cls_B1D, name="cls_token"), x_BND], axis=1, name="tokens")

    def _block(self, x_BND: Any, index: int, last: bool) -> Any:
        mb, block, scope = self.mb, f"blocks.{index}", f"blocks_{index}"
        y_BND = self._norm(x_BND, f"{block}.norm1")
        query_BND = y_BND
        if last:
            query_BND, x_BND = self._cls(y_BND, f"{scope}_attn_cls"), self._cls(x_BND, f"{scope}_cls")
        attended_BND = self._attention(query_BND, y_BND, index, 1 if last else self.config.num_tokens)
        x_BND = mb.add(x=x_BND, y=attended_BND, name=f"{scope}_attn_residual")
        hidden_BNM = self._linear(self._norm(x_BND, f"{block}.norm2"), f"{block}.mlp.fc1")
        hidden_BNM = mb.gelu(x=hidden_BNM, mode="EXACT", name=f"{scope}_mlp_gelu")
        return mb.add(x=x_BND, y=self._linear(hidden_BNM, f"{block}.mlp.fc2"), name=f"{scope}_mlp_residual")

    def _cls(self, x_BND: Any, name: str) -> Any:
        """The class token of each image."""
        return self.mb.slice_by_index(x=x_BND, begin=[0, 0, 0], end=[self.batch, 1, self.width], name=name)

    def _attention(self, query_BND: Any, x_BND: Any, index: int, num_queries: int) -> Any:
        mb, name, scope = self.mb, f"blocks.{index}.attn", f"blocks_{index}_attn"
        whole = keeps_attention_whole(self.config, self.spec)
        q_factor = math.sqrt(self.config.head_dim) if whole else 1.0
        q_BHNC = self._heads_apart(self._linear(query_BND, f"{name}.q", q_factor), f"{scope}_q", num_queries)
        k_BHNC = self._heads_apart(self._linear(x_BND, f"{name}.k"), f"{scope}_k", self.config.num_tokens)
        v_BHNC = self._heads_apart(self._linear(x_BND, f"{name}.v"), f"{scope}_v", self.config.num_tokens)
        if whole:
            a_BHNC = mb.scaled_dot_product_attention(query=q_BHNC, key=k_BHNC, value=v_BHNC, name=f"{scope}_values")
        else:
            scores_BHNN = mb.matmul(x=q_BHNC, y=k_BHNC, transpose_y=True, name=f"{scope}_scores")
            shares_BHNN = mb.softmax(x=scores_BHNN, axis=-1, name=f"{scope}_shares")
            a_BHNC = mb.matmul(x=shares_BHNN, y=v_BHNC, name=f"{scope}_values")
        a_BNHC = mb.transpose(x=a_BHNC, perm=[0, 2, 1, 3], name=f"{scope}_tokens")
        a_BND = mb.reshape(x=a_BNHC, shape=[self.batch, num_queries, self.width], name=f"{scope}_together")
        return self._linear(a_BND, f"{name}.proj")

    def _heads_apart(self, x_BND: Any, scope: str, num_tokens: int) -> Any:
        shape = [self.batch, num_tokens, self.heads, self.config.head_dim]
        x_BNHC = self.mb.reshape(x=x_BND, shape=shape, name=f"{scope}_apart")
        return self.mb.transpose(x=x_BNHC, perm=[0, 2, 1, 3], name=f"{scope}_heads")

    def _linear(self, x: Any, layer: str, factor: float = 1.0, name: str = "") -> Any:
        weight, bias = self.weight(f"{layer}.weight", factor), self.weight(f"{layer}.bias", factor)
        return self.mb.linear(x=x, weight=weight, bias=bias, name=name or layer.replace(".", "_"))

    def _norm(self, x_BND: Any, layer: str) -> Any:
        return self.mb.layer_norm(
            x=x_BND,
            axes=[-1],
            gamma=self.weight(f"{layer}.weight"),
            beta=self.weight(f"{layer}.bias"),
            epsilon=self.dtype(LAYER_NORM_EPS),
            name=layer.replace(".", "_"),
        )
