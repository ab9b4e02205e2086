"""The normalised form of a model's parameters: what every target emits from, and what fp16 and int8 round."""

# E width of the universal model, N tokens, C head width
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hydra_export import network, rotary
from hydra_export.architecture import HydraConfig
from hydra_export.network import Cut, Span
from hydra_export.preprocess import Preprocessing


@dataclass(frozen=True)
class Weight:
    """One tensor of the normalised form, and how subnetworks are cut from it.

    The weight is *full* times *factor*: so that no copy is made before a part is asked for.
    """

    full: Tensor
    cut: Cut
    factor: float = 1.0

    @property
    def is_matrix(self) -> bool:
        """Whether it is that of a Linear."""
        return self.full.ndim == 2

    def permuted(self, *axes: int) -> Weight:
        """With its axes in another order."""
        units = tuple(self.cut.units[axis] for axis in axes)
        return Weight(self.full.permute(axes), replace(self.cut, units=units), self.factor)

    def part(self, spans: Sequence[Span]) -> Tensor:
        """The block between two head counts per axis; axes that all head counts share are whole."""
        view: Tensor = self.cut.block(self.full, spans)
        return view if self.factor == 1.0 else view * self.factor

    def first(self, heads: int) -> Tensor:
        """What subnetwork *heads* uses: a view where there is no factor."""
        return self.part(self.cut.spans(heads))

    def shape(self, spans: Sequence[Span]) -> tuple[int, ...]:
        """Shape of the block between two head counts per axis."""
        return self.cut.shape(self.full.shape, spans)


def array(tensor: Tensor) -> NDArray[np.float32]:
    """*tensor* as files hold it: contiguous, little-endian float32; a view where it is that already."""
    return np.asarray(tensor.detach().to(torch.float32).contiguous().numpy(), dtype="<f4")


@torch.no_grad()
def weights(config: HydraConfig, state: Mapping[str, Tensor], pixels: Preprocessing | None = None) -> dict[str, Weight]:
    """The normalised form of the universal model whose parameters are *state*, under timm's names.

    q, k and v are apart and q carries the attention's scale; so are the two halves of a gated MLP's first Linear.
    LayerScale is folded into the Linear before it. Linears keep torch's layout [out, in]. ``tokens`` [1, N, E] is what
    is added to zero tokens and the embedded patches: the prefix tokens with their positions, then the positions of
    patches. Rotary positions are two tables, as ``network.Operations.rotate`` takes them. With *pixels*, the patch
    embedding takes raw pixels in 0-255: its weights and bias absorb that normalisation, computed in float64.
    """
    weights: dict[str, Weight] = {}
    for layer in network.layers(config):
        weight = state[f"{layer.name}.weight"]
        bias = state[f"{layer.name}.bias"] if layer.has_bias else None
        if pixels is not None and layer.parts == ("patch_embed",):
            assert bias is not None
            weight, bias = _fold_normalisation(weight, bias, pixels)
        if layer.scale:
            assert bias is not None
            gamma = state[f"{layer.scale}.gamma"]
            weight, bias = weight * gamma[:, None], bias * gamma
        for i, name in enumerate(layer.parts):
            factor = layer.factor if i == 0 else 1.0
            for kind, cut, whole in (("weight", layer.cut, weight), ("bias", layer.cut.along(0), bias)):
                if whole is not None:
                    weights[f"{name}.{kind}"] = Weight(whole.chunk(len(layer.parts))[i], cut, factor)
        if layer.parts == ("patch_embed",):
            weights |= _of_tokens(config, state)
    return weights


def _of_tokens(config: HydraConfig, state: Mapping[str, Tensor]) -> dict[str, Weight]:
    found, width = {}, config.width(config.heads)
    prefix, positions = [state[token] for token in config.prefix_tokens], state.get("pos_embed")
    if config.num_tokens > config.num_patches or positions is not None:
        some = positions if positions is not None else prefix[0]
        tokens_1NE = torch.cat([*prefix, some.new_zeros(1, config.num_patches, width)], dim=1)
        if positions is not None:
            tokens_1NE = tokens_1NE + F.pad(positions, (0, 0, config.num_tokens - config.num_positions, 0))
        found["tokens"] = Weight(tokens_1NE, Cut((0, 0, config.head_dim)))
    if config.pooling == "attention":
        found["attn_pool.latent"] = Weight(state["attn_pool.latent"], Cut((0, 0, config.head_dim)))
    if config.rotary is not None:
        for name, table_NC in zip(("rope.cos", "rope.sin"), rotary.tables(config, config.rotary), strict=True):
            found[name] = Weight(table_NC[None, None], Cut((0, 0, 0, 0)))
    return found


def _fold_normalisation(patch: Tensor, bias: Tensor, pixels: Preprocessing) -> tuple[Tensor, Tensor]:
    """(x / 255 - mean) / std, then the patch embedding, as one embedding of x; exact as there is no padding."""
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in (pixels.mean, pixels.std))
    wide = patch.double() / std
    return (wide / 255).to(patch.dtype), (bias.double() - (wide * mean).sum((1, 2, 3))).to(bias.dtype)
