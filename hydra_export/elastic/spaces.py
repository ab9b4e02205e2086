"""Vector spaces that a ViT's weights map between, and exact changes of their bases."""

# E width of the universal model, H heads, C head width
from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hydra_export import network
from hydra_export.architecture import HydraConfig

RESIDUAL, POOLED, LATENT = "residual", "attn_pool", "attn_pool.latent"
State = dict[str, Tensor]


def heads_of(block: str) -> str:
    """The space of what the heads of *block* attend to, side by side."""
    return f"{block}.heads"


def hidden_of(block: str) -> str:
    """The space of the hidden units of the MLP of *block*."""
    return f"{block}.hidden"


def is_of_heads(space: str) -> bool:
    """Whether its entries are those of heads."""
    return space.endswith(".heads")


def is_stream(space: str) -> bool:
    """Whether blocks add to it."""
    return space in (RESIDUAL, POOLED)


def blocks(config: HydraConfig) -> list[str]:
    """Name prefixes of whatever has heads and an MLP."""
    pooling = [POOLED] if config.pooling == "attention" else []
    return [f"blocks.{i}" for i in range(config.depth)] + pooling


def last(config: HydraConfig) -> str:
    """The space of the pooled features."""
    return POOLED if config.pooling == "attention" else RESIDUAL


def spaces(config: HydraConfig) -> dict[str, tuple[str, ...]]:
    """By timm's name of each parameter, the space of each axis; "" where it has none."""
    table = {}
    for name, cut in network.cuts(config).items():
        of_axes = _of(name.removesuffix(".weight").removesuffix(".bias"), config)
        table[name] = (of_axes + ("",) * len(cut.units))[: len(cut.units)]
    return table


def _of(layer: str, config: HydraConfig) -> tuple[str, ...]:
    match layer.split("."):
        case ["cls_token" | "dist_token" | "reg_token" | "pos_embed"]:
            return "", "", RESIDUAL
        case ["blocks", i, *inner]:
            return _in_block(inner, f"blocks.{i}", RESIDUAL)
        case ["attn_pool", "latent"]:
            return "", "", LATENT
        case ["attn_pool", "q"]:
            return heads_of(POOLED), LATENT
        case ["attn_pool", "kv"]:
            return heads_of(POOLED), RESIDUAL
        case ["attn_pool", *inner]:
            return _in_block(inner, POOLED, POOLED)
        case ["head" | "head_dist" | "head_patches", *_]:
            return "", last(config)
        case ["fc_norm"]:
            return (last(config),)
        case _:  # patch_embed.proj, norm_pre, norm
            return (RESIDUAL,)


def _in_block(inner: list[str], block: str, stream: str) -> tuple[str, ...]:
    heads, hidden = heads_of(block), hidden_of(block)
    return {
        "attn.qkv": (heads, stream),
        "attn.q_norm": ("",),
        "attn.k_norm": ("",),
        "attn.norm": (heads,),
        "attn.proj": (stream, heads),
        "proj": (stream, heads),
        "mlp.fc1": (hidden, stream),
        "mlp.norm": (hidden,),
        "mlp.fc2": (stream, hidden),
    }.get(".".join(inner), (stream,))


@torch.no_grad()
def changed(config: HydraConfig, state: Mapping[str, Tensor], bases: Mapping[str, Tensor]) -> State:
    """*state* in other bases of some spaces, by their names.

    Args:
        bases: an order, int64 [E], or an orthogonal matrix [E, E] whose rows are the new basis vectors. Matrices are
            applied in float64. Norms that lie in the space of a matrix have to be ``folded``.
    """
    cuts, new = network.cuts(config), dict(state)
    for name, of_axes in spaces(config).items():
        for axis, space in enumerate(of_axes):
            if space in bases and not (new[name].ndim == 1 and _is_gain(name) and bases[space].ndim == 2):
                new[name] = _along(new[name], axis, bases[space], cuts[name].stacked)
    return new


def _is_gain(name: str) -> bool:
    """Of a norm: 1 in every basis where it is folded."""
    return name.endswith("weight")


def _along(tensor: Tensor, axis: int, basis: Tensor, stacked: int) -> Tensor:
    apart = stacked if axis == 0 else 1
    parts = tensor.reshape(apart, -1, *tensor.shape[1:])
    axis += 1
    if basis.ndim == 1:
        turned = parts.index_select(axis, basis)
    else:
        turned = (parts.movedim(axis, -1).double() @ basis.T).movedim(-1, axis).to(tensor.dtype)
    return turned.reshape(tensor.shape).contiguous()


@torch.no_grad()
def folded(config: HydraConfig, state: Mapping[str, Tensor]) -> State:
    """The same function with LayerScale in the Linears before it, and norms in those behind them: gains 1, shifts 0."""
    new = dict(state)
    for layer in network.layers(config):
        if layer.scale:
            gamma = new.pop(f"{layer.scale}.gamma").double()
            for kind in ("weight", "bias"):
                whole = new[f"{layer.name}.{kind}"]
                scaled = whole.double() * (gamma[:, None] if whole.ndim > 1 else gamma)
                new[f"{layer.name}.{kind}"] = scaled.to(whole.dtype)
    for norm, linears in readers(config).items():
        gain = new[f"{norm}.weight"]
        shift = new.get(f"{norm}.bias")
        for linear in linears:
            weight, bias = new[f"{linear}.weight"].double(), new[f"{linear}.bias"]
            if shift is not None:
                new[f"{linear}.bias"] = (bias.double() + weight @ shift.double()).to(bias.dtype)
            new[f"{linear}.weight"] = (weight * gain.double()).to(gain.dtype)
        new[f"{norm}.weight"] = torch.ones_like(gain)
        if shift is not None:
            new[f"{norm}.bias"] = torch.zeros_like(shift)
    return new


def readers(config: HydraConfig) -> dict[str, tuple[str, ...]]:
    """The norms that nothing but Linears reads, or a mean and then Linears; and these Linears."""
    table: dict[str, tuple[str, ...]] = {}
    for block in blocks(config):
        if block != POOLED:
            table[f"{block}.norm1"] = (f"{block}.attn.qkv",)
        table[f"{block}.norm{2 if block != POOLED else ''}"] = (f"{block}.mlp.fc1",)
    classifiers = config.classifier_names
    if config.final_norm == "after_pooling":
        table["fc_norm"] = classifiers
    elif config.final_norm == "before_pooling" and config.pooling == "attention":
        table["norm"] = ("attn_pool.kv",)
    elif config.final_norm == "before_pooling" and config.pooling in ("token", "avg", "token_avg"):
        table["norm"] = classifiers
    return table
