"""A subnetwork as a program over named weights, and how each parameter is cut per head: no tensors, no torch.

``run`` is the network, written once. Who computes or writes it supplies the operations in the form that is fastest
there; who stores or trains weights reads from ``layers`` and ``cuts`` what a subnetwork uses of them.
"""

# B batch, N tokens, D width of subnetwork k, H heads, C head width
from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from hydra_export.architecture import HydraConfig

Span = tuple[int, int]  # from one head count to another
V = TypeVar("V")
_ALL = slice(None)


class Operations(Protocol[V]):
    """What a subnetwork is made of, on values *V* of whatever kind.

    A *place* such as ``blocks.3/attn/q`` says where in the network an operation is. With dots for slashes it is the
    name of the operation's weights in the normalised form (``normalised.weights``).
    """

    def embed(self, image: V) -> V:
        """The tokens of an image: prefix tokens, then embedded patches, and positions added to all."""

    def layer_norm(self, x: V, place: str) -> V:
        """LayerNorm over the channels."""

    def linear(self, x: V, place: str) -> V:
        """A matrix product and a bias."""

    def qkv(self, query: V, x: V, place: str) -> tuple[V, V, V]:
        """The Linears ``q`` of *query*, ``k`` and ``v`` of *x*, laid out as ``attention`` takes them."""

    def attention(self, qkv: tuple[V, V, V], place: str, num_queries: int) -> V:
        """What the heads attend to, side by side again; the normalised form's q carries the scale already."""

    def activation(self, x: V, place: str) -> V:
        """GELU."""

    def residual(self, x: V, y: V, place: str) -> V:
        """*x* plus *y*, which the branch at *place* made of it."""

    def select(self, x: V, place: str) -> V:
        """The first token of each image, the class token."""

    def features(self, x: V) -> V:
        """The one token that is left, [B, D]."""

    def classifier(self, features_BD: V, weights: str) -> V:
        """The Linear named *weights*, which makes the logits."""


def run(ops: Operations[V], config: HydraConfig, image: V, heads: int) -> V:
    """Subnetwork *heads*: the logits, or the features of a model without a classifier."""
    x = features(ops, config, image)
    return ops.classifier(x, config.classifier(heads)) if config.num_classes else x


def features(ops: Operations[V], config: HydraConfig, image: V) -> V:
    """From the image to what the classifier takes.

    Nothing after the last block reads any token but the class token: of that block only its query is computed.
    """
    x = ops.embed(image)
    for i in range(config.depth):
        x = _block(ops, config, x, f"blocks.{i}", last=i == config.depth - 1)
    return ops.features(ops.layer_norm(x, "norm"))


def _block(ops: Operations[V], config: HydraConfig, x: V, block: str, last: bool) -> V:
    query = y = ops.layer_norm(x, f"{block}/norm1")
    if last:
        query, x = ops.select(y, f"{block}/attn/cls"), ops.select(x, f"{block}/cls")
    qkv = ops.qkv(query, y, f"{block}/attn")
    y = ops.attention(qkv, f"{block}/attn", 1 if last else config.num_tokens)
    x = ops.residual(x, ops.linear(y, f"{block}/attn/proj"), f"{block}/attn")
    y = ops.linear(ops.layer_norm(x, f"{block}/norm2"), f"{block}/mlp/fc1")
    y = ops.linear(ops.activation(y, f"{block}/mlp"), f"{block}/mlp/fc2")
    return ops.residual(x, y, f"{block}/mlp")


@dataclass(frozen=True)
class Cut:
    """How subnetworks are cut from one parameter.

    Attributes:
        units: per axis the channels that one head adds, 0 where every head count has all.
        stacked: q, k and v lie on top of each other, each to be cut for itself.
        owner: the head count whose own classifier this is; None where all share the parameter.
    """

    units: tuple[int, ...]
    stacked: bool = False
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
        return tuple((high - low) * unit or size for (low, high), unit, size in sizes)

    def block(self, tensor: Any, spans: Sequence[Span]) -> Any:
        """A view: the block between two head counts per axis; axes that all head counts share are whole."""
        chosen = [
            slice(low * unit, high * unit) if unit else _ALL
            for (low, high), unit in zip(spans, self.units, strict=True)
        ]
        return self._chosen(tensor, chosen)

    def first(self, tensor: Any, heads: int) -> Any:
        """A view: what subnetwork *heads* uses, q, k and v along an axis of their own where they are stacked."""
        return self._chosen(tensor, [slice(heads * unit) if unit else _ALL for unit in self.units])

    def _chosen(self, tensor: Any, chosen: list[slice]) -> Any:
        return tensor.unflatten(0, (3, -1))[(_ALL, *chosen)] if self.stacked else tensor[tuple(chosen)]

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


@dataclass(frozen=True)
class Layer:
    """A weight, and a bias with an entry for each of its rows.

    Attributes:
        name: timm's.
        cut: of the weight.
        fixed: the lengths of the weight's axes that every head count has whole.
        parts: the layers of the normalised form that lie stacked in it, one where it is its own.
        scale: the LayerScale behind it, which the normalised form folds into it; "" for none.
    """

    name: str
    cut: Cut
    fixed: tuple[int, ...]
    parts: tuple[str, ...]
    scale: str = ""

    def shape(self, heads: int) -> tuple[int, ...]:
        """Of the weight of the universal model, which has *heads*."""
        fixed = iter(self.fixed)
        first, *others = (unit * heads or next(fixed) for unit in self.cut.units)
        return len(self.parts) * first, *others


def layers(config: HydraConfig) -> list[Layer]:
    """Everything that has a weight and a bias, in the order of the network."""
    C, M = config.head_dim, config.hidden_per_head
    patches = (config.channels, config.patch_size, config.patch_size)
    table = [Layer("patch_embed.proj", Cut((C, 0, 0, 0)), patches, ("patch_embed",))]

    def add(
        name: str,
        *units: int,
        fixed: tuple[int, ...] = (),
        scale: str = "",
        parts: str = "",
        owner: int | None = None,
    ) -> None:
        names = tuple(f"{name.removesuffix(parts)}{part}" for part in parts) or (name,)
        table.append(Layer(name, Cut(units, owner=owner), fixed, names, scale))

    for i in range(config.depth):
        block = f"blocks.{i}"
        scales = (f"{block}.ls1", f"{block}.ls2") if config.layer_scale else ("", "")
        add(f"{block}.norm1", C)
        add(f"{block}.attn.qkv", C, C, parts="qkv")
        add(f"{block}.attn.proj", C, C, scale=scales[0])
        add(f"{block}.norm2", C)
        add(f"{block}.mlp.fc1", M, C)
        add(f"{block}.mlp.fc2", C, M, scale=scales[1])
    add("norm", C)
    for k in config.separate_classifiers:
        add(f"head.k{k}", 0, 0, fixed=(config.num_classes, config.width(k)), owner=k)
    if config.num_classes and not config.separate_classifiers:
        add("head", 0, C, fixed=(config.num_classes,))
    return table


def cuts(config: HydraConfig) -> dict[str, Cut]:
    """The cut of every parameter of the universal model, by timm's name."""
    table = dict.fromkeys((*config.prefix_tokens, "pos_embed"), Cut((0, 0, config.head_dim)))
    for layer in layers(config):
        cut = replace(layer.cut, stacked=len(layer.parts) > 1)
        table[f"{layer.name}.weight"], table[f"{layer.name}.bias"] = cut, cut.along(0)
        if layer.scale:
            table[f"{layer.scale}.gamma"] = cut.along(0)
    return table


def shapes(config: HydraConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of the universal model, by timm's name."""
    width = config.width(config.heads)
    table: dict[str, tuple[int, ...]] = {name: (1, count, width) for name, count in config.prefix_tokens.items()}
    table["pos_embed"] = (1, config.num_tokens, width)
    for layer in layers(config):
        shape = layer.shape(config.heads)
        table[f"{layer.name}.weight"], table[f"{layer.name}.bias"] = shape, shape[:1]
        if layer.scale:
            table[f"{layer.scale}.gamma"] = shape[:1]
    return table
