"""A subnetwork as a program over named weights, and how each parameter is cut per head: no tensors, no torch.

``run`` is the network, written once. Who computes or writes it supplies the operations in the form that is fastest
there; who stores or trains weights reads from ``layers`` and ``cuts`` what a subnetwork uses of them.
"""

# B batch, N tokens, D width of subnetwork k, H heads, C head width, M MLP channels per head, K outputs
from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache, partial
from typing import Any, Protocol, TypeVar

from hydra_export.architecture import HydraConfig

Span = tuple[int, int]  # from one head count, or token, up to another
Unit = int | Fraction
V = TypeVar("V")
_ALL = slice(None)


class Operations(Protocol[V]):
    """The operations of a subnetwork, on values *V* of any kind.

    A *place* such as ``blocks.3/attn/q`` is an operation's place in the network. With dots for slashes, it is the name
    of the operation's weights in the normalised form (``normalised.weights``).
    """

    def block(self, run: Callable[[V], V], x: V) -> V:
        """The output of the block *run* for *x*; training may discard and recompute it."""
        return run(x)

    def embed(self, image: V) -> V:
        """The tokens of an image: prefix tokens, then embedded patches, with positions added if they are learned."""

    def norm(self, x: V, place: str) -> V:
        """LayerNorm or RMSNorm over the channels."""

    def linear(self, x: V, place: str) -> V:
        """A matrix product and a bias."""

    def qkv(self, query: V, x: V, place: str) -> tuple[V, V, V]:
        """The Linears ``q`` of *query*, ``k`` and ``v`` of *x*, laid out as ``attention`` takes them."""

    def head_norm(self, x: V, place: str) -> V:
        """A norm over the channels of each head of a query or key."""

    def rotate(self, x: V, place: str) -> V:
        """Rotary positions of all tokens, of a query or key: with x1 and x2 the halves of a head's channels,
        x1 cos - x2 sin, then x2 cos + x1 sin; ``rope.cos`` and ``rope.sin`` are [1, 1, N, C], halves side by side,
        the sine of the first half negative already: x * cos + (x2, x1) * sin.
        """

    def attention(self, qkv: tuple[V, V, V], place: str, num_queries: int) -> V:
        """The attention output of all heads, side by side; q of the normalised form already includes the scale."""

    def activation(self, x: V, place: str) -> V:
        """The configuration's activation."""

    def product(self, x: V, y: V, place: str) -> V:
        """*x* times *y*, of the same shape."""

    def residual(self, x: V, y: V, place: str) -> V:
        """*x* plus *y*, the output of the branch at *place* for *x*."""

    def select(self, x: V, span: Span, place: str) -> V:
        """The tokens of each image from one up to another."""

    def pool(self, x: V, kind: str, place: str) -> V:
        """One token from all: their mean (``avg``), maximum (``max``), or half the sum of both (``avgmax``)."""

    def latent(self, x: V, place: str) -> V:
        """The learned query of attention pooling, a token for each image of *x*."""

    def features(self, x: V, place: str) -> V:
        """The one remaining token, [B, D]."""

    def classifier(self, features: Sequence[tuple[V, str]]) -> V:
        """Logits or projection: a Linear for each of the features [B, D], by the name of its weights, and their sum."""

    def patch_tokens(self, x: V) -> V:
        """The output of a model that does not pool, [B, N, D]."""


def run(ops: Operations[V], config: HydraConfig, image: V, heads: int) -> V:
    """Subnetwork *heads*: the logits, or the features of a model without classes."""
    return output(ops, config, tokens(ops, config, image), heads)


def tokens(ops: Operations[V], config: HydraConfig, image: V) -> V:
    """From the image to the tokens that the last block gives, as many as are read.

    Where nothing after the last block reads any token but the first ones, their queries alone are computed of it.
    """
    x = ops.embed(image)
    if config.pre_norm:
        x = ops.norm(x, "norm_pre")
    for i in range(config.depth):
        read = config.num_read_tokens if i == config.depth - 1 else None
        x = ops.block(partial(_block, ops, config, block=f"blocks.{i}", read=read), x)
    return ops.norm(x, "norm") if config.final_norm == "before_pooling" else x


def output(ops: Operations[V], config: HydraConfig, x: V, heads: int) -> V:
    """From these tokens to what subnetwork *heads* returns."""
    if config.pooling == "none":
        return ops.patch_tokens(_of_patches(ops, config, x))
    parts = pooled(ops, config, x)
    if not config.num_outputs:
        return parts[0]
    return ops.classifier(list(zip(parts, config.classifiers(heads), strict=True)))


def pooled(ops: Operations[V], config: HydraConfig, x: V) -> list[V]:
    """The features [B, D]: what each classifier takes."""
    if config.distillation_token and config.num_outputs:
        tokens = [ops.select(x, (i, i + 1), f"pool/{name}") for i, name in enumerate(("cls", "dist"))]
    elif config.distillation_token:
        tokens = [ops.pool(x, "avg", "pool")]
    elif config.pooling == "token":
        tokens = [x]
    elif config.pooling == "token_avg":
        tokens = [ops.select(x, (0, 1), "pool/cls"), ops.pool(_of_patches(ops, config, x), "avg", "pool")]
    else:
        x = x if config.pool_prefix else _of_patches(ops, config, x)
        by_attention = config.pooling == "attention"
        tokens = [_attention_pool(ops, config, x) if by_attention else ops.pool(x, config.pooling, "pool")]
    if config.final_norm == "after_pooling":
        tokens = [ops.norm(token, "fc_norm") for token in tokens]
    second = "dist" if config.distillation_token else "patches"
    places = ("cls", second) if len(tokens) > 1 else ("norm",)
    return [ops.features(token, place) for token, place in zip(tokens, places, strict=True)]


def _of_patches(ops: Operations[V], config: HydraConfig, x: V) -> V:
    prefix = config.num_prefix_tokens
    return ops.select(x, (prefix, config.num_tokens), "pool/patches") if prefix else x


def _block(ops: Operations[V], config: HydraConfig, x: V, block: str, read: int | None) -> V:
    attn = f"{block}/attn"
    query = y = ops.norm(x, f"{block}/norm1")
    if read is not None:
        query, x = ops.select(y, (0, read), f"{attn}/cls"), ops.select(x, (0, read), f"{block}/cls")
    q, k, v = ops.qkv(query, y, attn)
    if config.qk_norm:
        q, k = ops.head_norm(q, f"{attn}/q_norm"), ops.head_norm(k, f"{attn}/k_norm")
    if config.rotary is not None:  # which the first tokens have none of
        q, k = q if read is not None else ops.rotate(q, f"{attn}/q"), ops.rotate(k, f"{attn}/k")
    y = ops.attention((q, k, v), attn, config.num_tokens if read is None else read)
    if config.attention_norm:
        y = ops.norm(y, f"{attn}/norm")
    x = ops.residual(x, ops.linear(y, f"{attn}/proj"), attn)
    y = _mlp(ops, config, ops.norm(x, f"{block}/norm2"), f"{block}/mlp", config.gated_mlp, config.mlp_norm)
    return ops.residual(x, y, f"{block}/mlp")


def _mlp(ops: Operations[V], config: HydraConfig, x: V, mlp: str, gated: bool = False, norm: bool = False) -> V:
    if gated:
        y = ops.product(ops.activation(ops.linear(x, f"{mlp}/gate"), mlp), ops.linear(x, f"{mlp}/fc1"), mlp)
    else:
        y = ops.activation(ops.linear(x, f"{mlp}/fc1"), mlp)
    return ops.linear(ops.norm(y, f"{mlp}/norm") if norm else y, f"{mlp}/fc2")


def _attention_pool(ops: Operations[V], config: HydraConfig, x: V) -> V:
    """timm's AttentionPoolLatent: a learned query over all tokens, then an MLP."""
    pool = "attn_pool"
    y = ops.attention(ops.qkv(ops.latent(x, f"{pool}/latent"), x, pool), pool, 1)
    x = ops.linear(y, f"{pool}/proj")
    return ops.residual(x, _mlp(ops, config, ops.norm(x, f"{pool}/norm"), f"{pool}/mlp"), f"{pool}/mlp")


@dataclass(frozen=True)
class Cut:
    """How subnetworks are cut from one parameter.

    Attributes:
        units: per axis the channels that one head adds, 0 where every head count has all; a fraction where heads do
            not divide them, of which each head count has the whole part.
        stacked: so many parts lie on top of each other, such as q, k and v, each to be cut for itself.
        owner: the head count whose own classifier this is; None where all share the parameter.
    """

    units: tuple[Unit, ...]
    stacked: int = 1
    owner: int | None = None

    def along(self, axis: int) -> Cut:
        """Of a vector with an entry for each place of *axis*."""
        return replace(self, units=self.units[axis : axis + 1])

    @property
    def growing(self) -> list[int]:
        """The axes that grow with the head count."""
        return [axis for axis, unit in enumerate(self.units) if unit]

    def used_by(self, heads: Collection[int]) -> bool:
        """Whether one of the subnetworks *heads* uses the parameter at all."""
        return self.owner is None or self.owner in heads

    def spans(self, heads: int, columns: Span | None = None) -> list[Span]:
        """Per axis, what subnetwork *heads* uses; with *columns*, of a matrix that part of its second axis."""
        return [(0, heads)] * len(self.units) if columns is None else [(0, heads), columns]

    def shape(self, full: Sequence[int], spans: Sequence[Span]) -> tuple[int, ...]:
        """Shape of the block between two head counts per axis, of a tensor of shape *full*."""
        sizes = zip(spans, self.units, full, strict=True)
        return tuple(_place(high, unit) - _place(low, unit) or size for (low, high), unit, size in sizes)

    def block(self, tensor: Any, spans: Sequence[Span]) -> Any:
        """A view: the block between two head counts per axis; axes that all head counts share are whole."""
        chosen = [
            slice(_place(low, unit), _place(high, unit)) if unit else _ALL
            for (low, high), unit in zip(spans, self.units, strict=True)
        ]
        return self._chosen(tensor, chosen)

    def first(self, tensor: Any, heads: int) -> Any:
        """A view: what subnetwork *heads* uses, stacked parts along an axis of their own."""
        return self._chosen(tensor, [slice(_place(heads, unit)) if unit else _ALL for unit in self.units])

    def _chosen(self, tensor: Any, chosen: list[slice]) -> Any:
        return tensor.unflatten(0, (self.stacked, -1))[(_ALL, *chosen)] if self.stacked > 1 else tensor[tuple(chosen)]

    def place(self, axis: int, heads: int) -> int:
        """Where the part of subnetwork *heads* ends on *axis*."""
        return _place(heads, self.units[axis])

    def shell(self, low: int, high: int) -> Iterator[tuple[Span, ...]]:
        """The spans of the blocks that subnetwork *high* has and *low* has not.

        Of a matrix that grows on both axes an L: the new rows, then the new columns of the older rows. What does not
        grow belongs to the first head, or to its owner.
        """
        match len(self.growing):
            case 0 if not low < (self.owner or 1) <= high:
                return
            case 2:
                yield (low, high), (0, high)
                if low:
                    yield (0, low), (low, high)
            case _:
                yield ((low, high),) * len(self.units)


def _place(heads: int, unit: Unit) -> int:
    return int(heads * unit)


@dataclass(frozen=True)
class Layer:
    """A weight, and mostly a bias with an entry for each of its rows.

    Attributes:
        name: timm's.
        cut: of the weight.
        fixed: the lengths of the weight's axes that every head count has whole.
        parts: the layers of the normalised form that lie stacked in it, one where it is its own.
        rows: how many vectors of an image it is multiplied with; 0 for what is no product.
        scale: the LayerScale behind it, which the normalised form folds into it; "" for none.
        factor: what the normalised form multiplies its first part by.
        has_bias: whether it has one.
    """

    name: str
    cut: Cut
    fixed: tuple[int, ...]
    parts: tuple[str, ...]
    rows: int = 0
    scale: str = ""
    factor: float = 1.0
    has_bias: bool = True

    def shape(self, heads: int) -> tuple[int, ...]:
        """Of the weight of subnetwork *heads*, or of the universal model where that is all of its own."""
        fixed = iter(self.fixed)
        first, *others = (_place(heads, unit) or next(fixed) for unit in self.cut.units)
        return len(self.parts) * first, *others

    def parameters(self) -> Iterator[tuple[str, Cut]]:
        """The names and cuts of what it has, but for the LayerScale."""
        cut = replace(self.cut, stacked=len(self.parts))
        yield f"{self.name}.weight", cut
        if self.has_bias:
            yield f"{self.name}.bias", cut.along(0)


@lru_cache(maxsize=16)
def layers(config: HydraConfig) -> tuple[Layer, ...]:
    """Everything that has a weight, in the order of the network."""
    C, M, N = config.head_dim, config.hidden_per_head, config.num_tokens
    table: list[Layer] = []

    def add(name: str, *units: Unit, parts: Sequence[str] = (), owner: int | None = None, **others: Any) -> None:
        table.append(Layer(name, Cut(units, owner=owner), others.pop("fixed", ()), tuple(parts) or (name,), **others))

    def norm(name: str, unit: Unit = C, **others: Any) -> None:
        add(name, unit, has_bias=config.norm == "layer_norm", **others)

    def mlp(name: str, rows: int, scale: str = "", gated: bool = False, normed: bool = False) -> None:
        add(f"{name}.fc1", M, C, rows=rows, parts=(f"{name}.gate", f"{name}.fc1") if gated else ())
        if normed:
            norm(f"{name}.norm", M)
        add(f"{name}.fc2", C, M, rows=rows, scale=scale)

    patches = (config.channels, config.patch_size, config.patch_size)
    add("patch_embed.proj", C, 0, 0, 0, fixed=patches, rows=config.num_patches, parts=("patch_embed",))
    if config.pre_norm:
        norm("norm_pre")
    for i in range(config.depth):
        block = f"blocks.{i}"
        attn, scales = f"{block}.attn", (f"{block}.ls1", f"{block}.ls2") if config.layer_scale else ("", "")
        scale = 1.0 if config.qk_norm else config.attention_scale
        norm(f"{block}.norm1")
        add(f"{attn}.qkv", C, C, rows=N, parts=[f"{attn}.{part}" for part in "qkv"], factor=scale)
        if config.qk_norm:
            norm(f"{attn}.q_norm", 0, fixed=(C,), factor=config.attention_scale)
            norm(f"{attn}.k_norm", 0, fixed=(C,))
        if config.attention_norm:
            norm(f"{attn}.norm")
        add(f"{attn}.proj", C, C, rows=N, scale=scales[0])
        norm(f"{block}.norm2")
        mlp(f"{block}.mlp", N, scales[1], config.gated_mlp, config.mlp_norm)
    if config.final_norm == "before_pooling":
        norm("norm")
    if config.pooling == "attention":
        add("attn_pool.q", C, C, rows=1, factor=config.attention_scale)
        add("attn_pool.kv", C, C, rows=config.num_pooled_tokens, parts=("attn_pool.k", "attn_pool.v"))
        add("attn_pool.proj", C, C, rows=1)
        norm("attn_pool.norm")
        mlp("attn_pool.mlp", 1)
    if config.final_norm == "after_pooling":
        norm("fc_norm")
    K, names, share = config.num_outputs, config.classifier_names, config.logits_share
    for k in config.separate_classifiers:
        for name in names:
            add(f"{name}.k{k}", 0, 0, fixed=(K, config.width(k)), owner=k, rows=1, factor=share)
    if K and not config.separate_classifiers:
        for name in names:
            add(name, 0, C, fixed=(K,), rows=1, factor=share)
    return tuple(table)


def cuts(config: HydraConfig) -> dict[str, Cut]:
    """The cut of every parameter of the universal model, by timm's name."""
    table = dict.fromkeys(_tokens(config), Cut((0, 0, config.head_dim)))
    for layer in layers(config):
        table.update(layer.parameters())
        if layer.scale:
            table[f"{layer.scale}.gamma"] = layer.cut.along(0)
    return table


def shapes(config: HydraConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of the universal model, by timm's name."""
    width = config.width(config.heads)
    table: dict[str, tuple[int, ...]] = {name: (1, count, width) for name, count in _tokens(config).items()}
    for layer in layers(config):
        shape = layer.shape(config.heads)
        table |= {name: shape[: len(cut.units)] for name, cut in layer.parameters()}
        if layer.scale:
            table[f"{layer.scale}.gamma"] = shape[:1]
    return table


def _tokens(config: HydraConfig) -> dict[str, int]:
    """The parameters that are tokens, or are added to tokens, and how many each holds."""
    counts = {**config.prefix_tokens, "pos_embed": config.num_positions}
    if config.pooling == "attention":
        counts["attn_pool.latent"] = 1
    return {name: count for name, count in counts.items() if count}


def num_params(config: HydraConfig, heads: int) -> int:
    """Parameters of the dense subnetwork *heads* (for ViT-B/16: PAPER table, DeiT's own numbers)."""
    count = config.width(heads) * sum(_tokens(config).values())
    for layer in layers(config):
        if layer.cut.used_by((heads,)):
            shape = layer.shape(heads)
            count += math.prod(shape) + shape[0] * (layer.has_bias + bool(layer.scale))
    return count


def macs(config: HydraConfig, heads: int) -> int:
    """Multiply-accumulates of one image through subnetwork *heads*: all products, attention's included."""
    N, D = config.num_tokens, config.width(heads)
    products = sum(
        layer.rows * math.prod(layer.shape(heads)) for layer in layers(config) if layer.cut.used_by((heads,))
    )
    pooled = config.num_pooled_tokens if config.pooling == "attention" else 0
    return products + 2 * D * (config.depth * N * N + pooled)
