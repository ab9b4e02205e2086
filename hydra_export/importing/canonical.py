"""Our form of a ViT's tensors, whoever wrote them: timm's names, packed Linears, a bias wherever one may be."""

# O output channels of a Linear, H heads, C head width
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hydra_export.errors import BadInput

_BLOCK = re.compile(r"(blocks\.\d{1,4})\.")
# Linears, and the norms that have a bias where others have.
_BIASED = re.compile(
    r"(patch_embed\.proj|head|head_dist|head_patches|.*\.(attn\.qkv|proj|fc1|fc2|kv)|attn_pool\.q)\.weight"
)
_NORMS = re.compile(r"(norm|norm_pre|fc_norm|.*\.(norm|norm1|norm2|q_norm|k_norm))\.weight")


@dataclass(frozen=True)
class Layout:
    """What names do not say of tensors.

    Attributes:
        gate_last: the gate of a packed, gated MLP is its second half.
        interleaved: rotary positions turn neighbouring channels, of heads *head_dim* wide; 0 where they turn halves.
    """

    gate_last: bool = False
    interleaved: int = 0


def converted(state: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """*state*, under the names that timm has for it, in our form; what is as it should be is not copied.

    Raises:
        BadInput: tensors that belong together do not fit.
    """
    ours = dict(state)
    for block in dict.fromkeys(match[1] for name in state if (match := _BLOCK.match(name))):
        attn, mlp = f"{block}.attn", f"{block}.mlp"
        for kind in ("weight", "bias"):
            _pack(ours, f"{attn}.qkv.{kind}", [f"{attn}.{part}_proj.{kind}" for part in "qkv"])
            _pack(ours, f"{mlp}.fc1.{kind}", [f"{mlp}.fc1_g.{kind}", f"{mlp}.fc1_x.{kind}"])
        _pack(ours, f"{attn}.qkv.bias", [f"{attn}.{part}_bias" for part in "qkv"])
        for i in (1, 2):
            if (gamma := ours.pop(f"{block}.gamma_{i}", None)) is not None:
                ours[f"{block}.ls{i}.gamma"] = gamma
        if f"{block}.ls1.gamma" in ours and (fc2 := ours.get(f"{mlp}.fc2.weight")) is not None:
            ours.setdefault(f"{block}.ls2.gamma", torch.ones(fc2.shape[:1], dtype=fc2.dtype))
    _add_biases(ours)
    for name, tensor in ours.items():
        if layout.gate_last and ".mlp.fc1." in name and name.startswith("blocks."):
            ours[name] = torch.cat(tensor.chunk(2)[::-1])
        elif layout.interleaved and name.endswith((".attn.qkv.weight", ".attn.qkv.bias")):
            query, key, value = tensor.chunk(3)
            turned = [_halves(part, layout.interleaved) for part in (query, key)]
            ours[name] = torch.cat([*turned, value])
        elif layout.interleaved and re.search(r"\.attn\.[qk]_norm\.", name):
            ours[name] = _halves(tensor, layout.interleaved)
    return ours


def _pack(state: dict[str, Tensor], name: str, parts: Sequence[str]) -> None:
    """Puts *parts* on top of each other under *name*; of biases those that are missing are 0."""
    found = [state.pop(part, None) for part in parts]
    like = next((part for part in found if part is not None), None)
    if like is None:
        return
    whole = [torch.zeros_like(like) if part is None and like.ndim == 1 else part for part in found]
    if any(part is None or part.shape != like.shape for part in whole):
        raise BadInput(f"{', '.join(parts)} do not match.", "Download it again.")
    state[name] = torch.cat([part for part in whole if part is not None])


def _add_biases(state: dict[str, Tensor]) -> None:
    """Of 0: the network is the same."""
    has_norms = any(name.endswith(("norm1.bias", "norm.bias")) for name in state)
    for name in list(state):
        if _BIASED.fullmatch(name) or (has_norms and _NORMS.fullmatch(name)):
            bias = name.removesuffix("weight") + "bias"
            if bias not in state:
                state[bias] = state[name].new_zeros(state[name].shape[:1])


def _halves(tensor: Tensor, head_dim: int) -> Tensor:
    """Its rows, of all heads, with the channels at even places of a head before those at odd ones."""
    if tensor.shape[0] % head_dim:
        raise BadInput(f"{tensor.shape[0]} channels are no heads of {head_dim}.", "Give the right `head_dim`.")
    pairs = tensor.reshape(-1, head_dim // 2, 2, *tensor.shape[1:])
    return pairs.transpose(1, 2).reshape(tensor.shape)
