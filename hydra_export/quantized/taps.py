"""A subnetwork in PyTorch, with a tap at every tensor that integer graphs count in integers.

A tap is given a tensor and its name, and what it returns is what the subnetwork goes on with: it may only look, or
round. So one program says what ranges to choose from, what each rounding costs, and what all of them cost together.
"""

# B batch, N tokens, D width of subnetwork k, H heads, C head width, O output channels of a Linear
from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hydra_export import network
from hydra_export.architecture import HydraConfig
from hydra_export.network import Cut, Operations, Span
from hydra_export.normalised import Weight
from hydra_export.quantized.folded import Folded

Tap = Callable[[str, Tensor], Tensor]


class Tapped(Operations[Tensor]):
    """The operations of subnetwork *heads* in PyTorch.

    Args:
        weights: the normalised form.
        tap: is given every tensor by its name, constants too.
        matrix: makes of a matrix, or of the patch embedding's weight, by its name, what the products take.
        composed: norms are one operation; otherwise each step in them has a tap.
        cuts: head counts at which the inputs of Linears are cut, *heads* the last; none for whole products.
    """

    def __init__(
        self,
        config: HydraConfig,
        weights: Mapping[str, Weight],
        heads: int,
        tap: Tap,
        matrix: Callable[[str, Tensor], Tensor] = lambda name, weight: weight,
        *,
        composed: bool = False,
        cuts: Sequence[int] = (),
    ) -> None:
        self.config, self.weights, self.heads, self.tap = config, weights, heads, tap
        self.folded, self.composed = Folded(config, weights, heads), composed
        self.spans = list(itertools.pairwise((0, *cuts)))
        self._matrix = matrix
        self._cuts = {part: layer.cut for layer in network.layers(config) for part in layer.parts}
        self._kept: dict[str, Tensor] = {}

    def run(self, image_BCHW: Tensor) -> Tensor:
        """What the subnetwork gives of normalised images."""
        return network.run(self, self.config, image_BCHW, self.heads)

    def _weight(self, name: str) -> Tensor:
        if name not in self._kept:
            self._kept[name] = self._matrix(name, self.weights[name].first(self.heads).detach())
        return self._kept[name]

    def _bias(self, name: str) -> Tensor:
        if f"{name}.bias" not in self._kept:
            self._kept[f"{name}.bias"] = self.folded.bias(name)
        return self._kept[f"{name}.bias"]

    def _constant(self, name: str) -> Tensor:
        return self.tap(name, self.weights[name].first(self.heads).detach())

    def embed(self, image_BCHW: Tensor) -> Tensor:
        config, weight = self.config, self._weight("patch_embed.weight")
        bias = self.weights["patch_embed.bias"].first(self.heads)
        x_BDhw = F.conv2d(self.tap("image", image_BCHW), weight, bias, stride=config.patch_size)
        x_BND = self.tap("embed/patches", x_BDhw.flatten(2).transpose(1, 2))
        if "tokens" not in self.weights:
            return x_BND
        return self.tap("embed", F.pad(x_BND, (0, 0, config.num_prefix_tokens, 0)) + self._constant("tokens"))

    def norm(self, x: Tensor, place: str) -> Tensor:
        gamma, beta = self.folded.affine(place)
        x = self._normalised(x, place)
        if gamma is None and beta is None:
            return self.tap(place, x)
        x, name = x if self.composed else self.tap(f"{place}/normalised", x), place.replace("/", ".")
        if gamma is not None:
            x = x * self.tap(f"{name}.weight", gamma)
        if beta is not None and self.composed:
            x = x + beta  # in 32 bits
        elif beta is not None:
            x = (x if gamma is None else self.tap(f"{place}/scaled", x)) + self.tap(f"{name}.bias", beta)
        return self.tap(place, x)

    def _normalised(self, x: Tensor, place: str) -> Tensor:
        tap, epsilon = self._inner, self.config.layer_norm_eps
        if self.config.norm == "layer_norm":
            x = tap(f"{place}/centred", x - tap(f"{place}/mean", x.mean(-1, keepdim=True)))
        variance = tap(f"{place}/variance", tap(f"{place}/square", x * x).mean(-1, keepdim=True) + epsilon)
        return x * tap(f"{place}/rsqrt", variance.clamp_min(epsilon).rsqrt())

    def _inner(self, name: str, x: Tensor) -> Tensor:
        return x if self.composed else self.tap(name, x)

    def linear(self, x: Tensor, place: str) -> Tensor:
        return self._linear(x, place.replace("/", "."), place)

    def _linear(self, x: Tensor, name: str, place: str) -> Tensor:
        weight, bias, cut = self._weight(f"{name}.weight"), self._bias(name), self._cuts[name]
        if len(self.spans) < 2 or cut.owner is not None:
            return self.tap(place, F.linear(x, weight, bias))
        return self._sum_of_parts(x, weight, bias, cut, place)

    def _sum_of_parts(self, x: Tensor, weight: Tensor, bias: Tensor | None, cut: Cut, place: str) -> Tensor:
        total = None
        for low, high in self.spans:
            columns = slice(cut.place(1, low), cut.place(1, high))
            product = self.tap(f"{place}[{low}:{high}]", F.linear(x[..., columns], weight[:, columns], bias))
            if total is None:
                total, bias = product, None
                continue
            is_last = high == self.heads
            total = self.tap(place if is_last else f"{place}+[{low}:{high}]", total + product)
        assert total is not None
        return total

    def qkv(self, query_BND: Tensor, x_BND: Tensor, place: str) -> tuple[Tensor, Tensor, Tensor]:
        parts = ((query_BND, "q"), (x_BND, "k"), (x_BND, "v"))
        q, k, v = (self._apart(self.linear(x, f"{place}/{part}")) for x, part in parts)
        return q, k, v

    def _apart(self, x_BND: Tensor) -> Tensor:
        return x_BND.view(*x_BND.shape[:2], self.heads, self.config.head_dim).transpose(1, 2)

    def head_norm(self, x_BHNC: Tensor, place: str) -> Tensor:
        return self.norm(x_BHNC, place)

    def rotate(self, x_BHNC: Tensor, place: str) -> Tensor:
        first, second = x_BHNC.chunk(2, dim=-1)
        cosines = self.tap(f"{place}/cos", x_BHNC * self._constant("rope.cos"))
        sines = self.tap(f"{place}/sin", torch.cat([second, first], dim=-1) * self._constant("rope.sin"))
        return self.tap(f"{place}/rotated", cosines + sines)

    def attention(self, qkv: tuple[Tensor, Tensor, Tensor], place: str, num_queries: int) -> Tensor:
        q, k, v = qkv
        shares = self.tap(f"{place}/scores", q @ k.transpose(2, 3)).softmax(-1)
        return self.tap(f"{place}/values", (self.tap(f"{place}/shares", shares) @ v).transpose(1, 2).flatten(2))

    def activation(self, x: Tensor, place: str) -> Tensor:
        kind = self.config.activation
        if kind in ("silu", "quick_gelu"):
            y = x * self.tap(f"{place}/sigmoid", torch.sigmoid(x if kind == "silu" else 1.702 * x))
        elif kind == "relu":
            y = x.relu()
        else:
            y = F.gelu(x, approximate="tanh" if kind == "gelu_tanh" else "none")
        return self.tap(f"{place}/act", y)

    def product(self, x: Tensor, y: Tensor, place: str) -> Tensor:
        return self.tap(f"{place}/product", x * y)

    def residual(self, x_BND: Tensor, y_BND: Tensor, place: str) -> Tensor:
        return self.tap(f"{place}/residual", x_BND + y_BND)

    def select(self, x_BND: Tensor, span: Span, place: str) -> Tensor:
        return x_BND[:, slice(*span)]

    def pool(self, x_BND: Tensor, kind: str, place: str) -> Tensor:
        if kind == "max":
            return x_BND.amax(1, keepdim=True)
        mean_B1D = self.tap(f"{place}/avg", x_BND.mean(1, keepdim=True))
        return mean_B1D if kind == "avg" else self.tap(f"{place}/both", mean_B1D + x_BND.amax(1, keepdim=True)) * 0.5

    def latent(self, x_BND: Tensor, place: str) -> Tensor:
        return self._constant(place.replace("/", ".")).expand(x_BND.shape[0], -1, -1)

    def features(self, x_B1D: Tensor, place: str) -> Tensor:
        return x_B1D[:, 0]

    def classifier(self, features: Sequence[tuple[Tensor, str]]) -> Tensor:
        if len(features) == 1:
            ((x_BD, name),) = features
            return self._linear(x_BD, name, self.config.output)
        first, second = (self._linear(x_BD, name, name) for x_BD, name in features)
        return self.tap(self.config.output, first + second)

    def patch_tokens(self, x_BND: Tensor) -> Tensor:
        return x_BND
