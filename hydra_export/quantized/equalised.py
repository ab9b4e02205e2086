"""Weights rewritten so that integers count activations better; what the model computes stays the same.

A norm's affine goes into the Linears that read it. Where a few channels are much larger than others, a scale of 8 bits
for all of them would count the others in few steps: then the norm scales its channels so that they are more alike, and
the Linears take the inverse (the idea of SmoothQuant, Xiao et al. 2023, arXiv:2211.10438). So it goes with the values
of attention and the Linear behind them, and with the product of a gated MLP (Nagel et al. 2019, arXiv:1906.04721). What
a norm multiplies by are whole steps of an 8-bit grid, so that nothing of it is lost.

How much is evened out is tried on images: what costs the Linears least is taken. All head counts share it.
"""

# n images, S vectors that they gave, D channels, O output channels of a Linear
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hydra_export import network
from hydra_export.architecture import HydraConfig
from hydra_export.normalised import weights
from hydra_export.quantized.folded import readers
from hydra_export.quantized.taps import Tapped

_SHARES = (0.0, 0.3, 0.5, 0.65, 0.8, 1.0)  # of the differences between channels that are evened out
_VECTORS = 1024  # of each place and head count, by which that is judged
_BATCH = 8
_STEPS = 127  # of the grid of what a norm multiplies by
_WORTH = 0.8  # of the error that there is otherwise: what is hardly better is not worth an operator
_LEAST = 1e-12

State = dict[str, Tensor]


@dataclass(frozen=True)
class _Place:
    """Where channels can be scaled.

    Attributes:
        taps: what these channels are called, the first that there is.
        maker: the norm that gives them, or the Linear, by the name of the normalised form.
        readers: the Linears that take them.
    """

    taps: tuple[str, ...]
    maker: str
    readers: tuple[str, ...]
    is_norm: bool


@torch.no_grad()
def equalised(
    config: HydraConfig, state: Mapping[str, Tensor], heads: Sequence[int], image_nCHW: Tensor, smooth: bool = True
) -> State:
    """*state*, timm's names, with channels evened out by what normalised images give at *heads*.

    Args:
        smooth: otherwise affines are moved and that is all.
    """
    new, places = dict(state), list(_places(config, heads[-1]))
    seen = [_seen(config, state, k, image_nCHW, places) for k in heads] if smooth else []
    for i, place in enumerate(places):
        _scale(config, new, place, [vectors[i] for vectors in seen])
    return new


def _places(config: HydraConfig, heads: int) -> Iterator[_Place]:
    for place, names in readers(config, heads).items():
        yield _Place((f"{place}/normalised", place), place.replace("/", "."), names, is_norm=True)
    for i in range(config.depth):
        block = f"blocks.{i}"
        if not config.attention_norm:
            yield _Place((f"{block}/attn/values",), f"{block}.attn.v", (f"{block}.attn.proj",), is_norm=False)
        if config.gated_mlp and not config.mlp_norm:
            yield _Place((f"{block}/mlp/product",), f"{block}.mlp.fc1", (f"{block}.mlp.fc2",), is_norm=False)


def _seen(
    config: HydraConfig, state: Mapping[str, Tensor], heads: int, image_nCHW: Tensor, places: Sequence[_Place]
) -> list[Tensor]:
    """[S, D] of each place, of as many images as there are; the largest of each channel is in the last row."""
    wanted = {tap for place in places for tap in place.taps}
    rows, peaks = dict[str, list[Tensor]](), dict[str, Tensor]()
    of_batch = max(1, _VECTORS * _BATCH // len(image_nCHW))

    def look(name: str, x: Tensor) -> Tensor:
        if name in wanted:
            flat_ND = x.flatten(0, -2)
            rows.setdefault(name, []).append(flat_ND[:: max(1, len(flat_ND) // of_batch)].clone())
            peak_D = flat_ND.abs().amax(0)
            peaks[name] = torch.maximum(peaks.get(name, peak_D), peak_D)
        return x

    tapped = Tapped(config, weights(config, state), heads, look)
    for start in range(0, len(image_nCHW), _BATCH):
        tapped.run(image_nCHW[start : start + _BATCH])
    taps = [next(tap for tap in place.taps if tap in rows) for place in places]
    return [torch.cat([*rows[tap], peaks[tap][None]]) for tap in taps]


def _scale(config: HydraConfig, state: State, place: _Place, seen: Sequence[Tensor]) -> None:
    """Scales the channels of *place* in *state*."""
    columns = [_part(config, state, name) for name in place.readers]
    if place.is_norm:
        gain_E = state[f"{place.maker}.weight"]
        columns = [weight * gain_E[: weight.shape[1]] for weight in columns]
    factor_E = _best(columns, seen, place.is_norm) if seen else None
    if place.is_norm:
        _move_affine(config, state, place, torch.ones_like(gain_E) if factor_E is None else factor_E)
    elif factor_E is not None:
        _multiply(config, state, place.maker, factor_E, axis=0)
        for name in place.readers:
            _multiply(config, state, name, 1 / factor_E, axis=1)


def _move_affine(config: HydraConfig, state: State, place: _Place, factor_E: Tensor) -> None:
    """The norm multiplies by *factor_E*; where it gave the same number always, it goes on to."""
    name = place.maker
    gain_E, shift_E = state[f"{name}.weight"], state.get(f"{name}.bias")
    factor_E = torch.where(gain_E == 0, 0.0, factor_E)
    inverse_E = torch.where(gain_E == 0, 1.0, gain_E / factor_E)
    for reader in place.readers:
        _multiply(config, state, reader, inverse_E, axis=1)
    state[f"{name}.weight"] = factor_E
    if shift_E is not None:
        state[f"{name}.bias"] = (shift_E.double() / inverse_E.double()).float()


def _best(columns: Sequence[Tensor], seen: Sequence[Tensor], on_grid: bool) -> Tensor | None:
    """[E], by which the channels are multiplied; None for nothing."""
    widest = seen[-1]
    peak_E = torch.stack([F.pad(x_SD[-1], (0, widest.shape[1] - x_SD.shape[1])) for x_SD in seen]).amax(0)
    found: list[tuple[float, Tensor | None]] = []
    for share in _SHARES:
        factor_E = (peak_E.median().clamp_min(_LEAST) / peak_E.clamp_min(_LEAST)).clamp(1e-4, 1e4) ** share
        if on_grid:
            step = factor_E.max() / _STEPS
            factor_E = (factor_E / step).round().clamp_min(1) * step
        found.append((_error(columns, seen, factor_E), factor_E if share else None))
    least, best = min(found, key=lambda each: each[0])
    if best is None or least >= _WORTH * found[0][0]:
        return None
    return F.pad(best, (0, columns[0].shape[1] - len(best)), value=1.0)  # what no listed head count has


def _error(columns: Sequence[Tensor], seen: Sequence[Tensor], factor_E: Tensor) -> float:
    """What 8 bits of both change what the Linears give, as a share of that."""
    total = 0.0
    for x_SD in seen:
        D = x_SD.shape[1]
        scaled_SD = _rounded(x_SD * factor_E[:D])[:-1]
        for weight in columns:
            part_OD = weight[:, :D]  # rows of other head counts say as much
            exact = x_SD[:-1] @ part_OD.T
            off = scaled_SD @ _rounded(part_OD / factor_E[:D], per_row=True).T - exact
            total += float(off.square().mean() / exact.square().mean().clamp_min(_LEAST))
    return total


def _rounded(x: Tensor, per_row: bool = False) -> Tensor:
    if per_row:
        scale = x.abs().amax(1, keepdim=True).clamp_min(_LEAST) / 127
        return (x / scale).round() * scale
    low, high = x.min().clamp_max(0), x.max().clamp_min(0)
    scale = (high - low).clamp_min(_LEAST) / 255
    return (x / scale).round() * scale


def _layer(config: HydraConfig, name: str) -> tuple[network.Layer, int]:
    return next((layer, layer.parts.index(name)) for layer in network.layers(config) if name in layer.parts)


def _part(config: HydraConfig, state: Mapping[str, Tensor], name: str) -> Tensor:
    """The weight of a Linear of the normalised form, [O, I]."""
    layer, i = _layer(config, name)
    return state[f"{layer.name}.weight"].chunk(len(layer.parts))[i]


def _multiply(config: HydraConfig, state: State, name: str, factor_E: Tensor, axis: int) -> None:
    """The rows of a Linear, and its bias, or the columns; in float64."""
    layer, i = _layer(config, name)
    for kind in ("weight", "bias")[: 2 - axis]:
        parts = list(state[f"{layer.name}.{kind}"].chunk(len(layer.parts)))
        part = parts[i].double()
        along = factor_E[: part.shape[axis]].double()
        parts[i] = (part * (along[:, None] if axis == 0 and kind == "weight" else along)).float()
        state[f"{layer.name}.{kind}"] = torch.cat(parts)
