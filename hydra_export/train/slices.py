"""Where the weights of a subnetwork lie in the universal model's, and the shells between head counts."""

# D width of a subnetwork
from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hydra_export.architecture import HydraConfig
from hydra_export.model import HydraViT, Span


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

    def used_by(self, heads: Collection[int]) -> bool:
        """Whether a step that trains *heads* uses the parameter at all."""
        return self.owner is None or self.owner in heads

    def block(self, tensor: Tensor, spans: tuple[Span, ...]) -> Tensor:
        """A view: the block between two head counts on each axis that grows with them."""
        if self.stacked:
            tensor = tensor.unflatten(0, (3, -1))  # type: ignore[no-untyped-call]
        growing = iter(spans)
        chosen = []
        for unit in self._axes:
            low, high = next(growing) if unit else (0, 0)
            chosen.append(slice(low * unit, high * unit) if unit else slice(None))
        return tensor[tuple(chosen)]

    def shell(self, low: int, high: int) -> Iterator[tuple[Span, ...]]:
        """The spans of the blocks that subnetwork *high* has and *low* has not; together an L for matrices."""
        if self.num_growing == 0:
            if low == 0:
                yield ()
        elif self.num_growing == 1:
            yield ((low, high),)
        else:
            yield ((low, high), (0, high))
            if low:
                yield ((0, low), (low, high))

    @property
    def num_growing(self) -> int:
        """Axes that grow with the head count."""
        return sum(unit > 0 for unit in self.units)

    @property
    def _axes(self) -> tuple[int, ...]:
        return (0, *self.units) if self.stacked else self.units


def cuts(model: HydraViT) -> dict[str, Cut]:
    """The cut of every parameter of *model*, by name."""
    return {name: _cut(name, parameter.ndim, model.config) for name, parameter in model.named_parameters()}


def leaves(parameters: Mapping[str, Tensor], cuts: Mapping[str, Cut], heads: Collection[int]) -> dict[str, Tensor]:
    """Copies of all that a step on *heads* uses, cut to the largest: what autograd sees of the universal model.

    Gradients then have the size of that subnetwork. Slicing inside the graph instead would fill and add a gradient of
    the universal model's size for each parameter.
    """
    largest, found = max(heads), {}
    for name, parameter in parameters.items():
        cut = cuts[name]
        if cut.used_by(heads):
            part = cut.block(parameter.detach(), ((0, largest),) * cut.num_growing)
            whole = part.clone(memory_format=torch.contiguous_format)
            found[name] = (whole.flatten(0, 1) if cut.stacked else whole).requires_grad_()
    return found


def _cut(name: str, ndim: int, config: HydraConfig) -> Cut:
    C, M = config.head_dim, config.hidden_per_head
    if own := re.fullmatch(r"head\.k(\d+)\.(weight|bias)", name):
        return Cut((0,) * ndim, owner=int(own[1]))
    if name.startswith("head."):
        return Cut((0, C)[:ndim])
    if name in ("cls_token", "pos_embed"):
        return Cut((0, 0, C))
    if ".attn.qkv." in name:
        return Cut((C, C)[:ndim], stacked=True)
    if ".mlp.fc1." in name:
        return Cut((M, C)[:ndim])
    if ".mlp.fc2.weight" in name:
        return Cut((C, M))
    if name == "patch_embed.proj.weight":
        return Cut((C, 0, 0, 0))
    return Cut((C, C)[:ndim])  # attn.proj, norms, LayerScale and the remaining biases
