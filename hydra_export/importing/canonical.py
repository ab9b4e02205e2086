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
_MAY_LACK_BIAS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")  # of a block's layers, in all blocks alike


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
    ours, blocks = dict(state), list(dict.fromkeys(match[1] for name in state if (match := _BLOCK.match(name))))
    for block in blocks:
        attn, mlp = f"{block}.attn", f"{block}.mlp"
        for kind in ("weight", "bias"):
            _pack(ours, f"{attn}.qkv.{kind}", [f"{attn}.{part}_proj.{kind}" for part in "qkv"], state)
            _pack(ours, f"{mlp}.fc1.{kind}", [f"{mlp}.fc1_g.{kind}", f"{mlp}.fc1_x.{kind}"], state)
        _pack(ours, f"{attn}.qkv.bias", [f"{attn}.{part}_bias" for part in "qkv"], state)
        for i in (1, 2):
            if (gamma := ours.pop(f"{block}.gamma_{i}", None)) is not None:
                ours[f"{block}.ls{i}.gamma"] = gamma
    _add_neutral(ours, blocks)
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


def _pack(ours: dict[str, Tensor], name: str, parts: Sequence[str], state: Mapping[str, Tensor]) -> None:
    """Puts *parts* on top of each other under *name*; biases that no block of *state* has are 0, as EVA's of keys."""
    found = [ours.pop(part, None) for part in parts]
    like = next((part for part in found if part is not None), None)
    if like is None:
        return
    whole = [
        like.new_zeros(like.shape) if part is None and like.ndim == 1 and not _in_a_block(state, _kind(what)) else part
        for what, part in zip(parts, found, strict=True)
    ]
    if any(part is None or part.shape != like.shape for part in whole):
        raise BadInput(f"{', '.join(parts)} do not match.", "Download it again.")
    ours[name] = torch.cat([part for part in whole if part is not None])


def _add_neutral(state: dict[str, Tensor], blocks: Sequence[str]) -> None:
    """Biases of 0 and LayerScales of 1 where all blocks lack them alike, with which the network is the same."""
    added = [(f"{layer}.bias", f"{layer}.weight", 0.0) for layer in _MAY_LACK_BIAS]
    if _in_a_block(state, "ls1.gamma"):
        added.append(("ls2.gamma", "mlp.fc2.weight", 1.0))
    for kind, rows, value in added:
        if not _in_a_block(state, kind):
            for block in blocks:
                if (weight := state.get(f"{block}.{rows}")) is not None:
                    state[f"{block}.{kind}"] = weight.new_full(weight.shape[:1], value)
    patches = state.get("patch_embed.proj.weight")
    if "norm_pre.weight" in state and patches is not None:  # before a norm it is usual to leave it out
        state.setdefault("patch_embed.proj.bias", patches.new_zeros(patches.shape[:1]))


def _in_a_block(state: Mapping[str, Tensor], kind: str) -> bool:
    return any(name.endswith(f".{kind}") and _kind(name) == kind for name in state)


def _kind(name: str) -> str:
    """The name of a block's tensor without the block."""
    return _BLOCK.sub("", name, count=1)


def _halves(tensor: Tensor, head_dim: int) -> Tensor:
    """Its rows, of all heads, with the channels at even places of a head before those at odd ones."""
    if tensor.shape[0] % head_dim:
        raise BadInput(
            f"{tensor.shape[0]} channels do not divide into heads of {head_dim}.", "Pass the correct `head_dim`."
        )
    pairs = tensor.reshape(-1, head_dim // 2, 2, *tensor.shape[1:])
    return pairs.transpose(1, 2).reshape(tensor.shape)
