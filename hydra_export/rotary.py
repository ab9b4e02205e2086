"""Rotary positions as tables: what queries and keys of each token are turned by."""

# N tokens, P patches, C head width
from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hydra_export.architecture import HydraConfig, Rotary


def tables(config: HydraConfig, positions: Rotary) -> tuple[Tensor, Tensor]:
    """Cosines and sines [N, C], float32, with which x cos + (x2, x1) sin turns the halves x1 and x2 of a head.

    Prefix tokens are left as they are. Every step is timm's, in its order and its float32 (build_rotary_pos_embed and
    RotaryEmbeddingDinoV3, both with ``rotate_half``), so that the numbers are the same to the last bit.
    """
    angles_PH = _angles(config, positions)
    prefix = (0, 0, config.num_prefix_tokens, 0)
    cosines_NH, sines_NH = F.pad(angles_PH.cos(), prefix, value=1.0), F.pad(angles_PH.sin(), prefix)
    return torch.cat([cosines_NH, cosines_NH], dim=1), torch.cat([-sines_NH, sines_NH], dim=1)


def _angles(config: HydraConfig, positions: Rotary) -> Tensor:
    """[P, C / 2]: those of rows, then those of columns, or the other way round."""
    axes, bands = [], config.head_dim // 4
    for i, side in enumerate(config.grid):
        at = torch.arange(side, dtype=torch.float32)
        if positions.grid == "centered":
            axes.append(2.0 * ((0.5 + at + positions.offset) / side) - 1.0)
        else:
            at = at + positions.offset
            axes.append(at / side * positions.reference[i] if positions.reference else at)
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 2, 1)
    if positions.columns_first:
        grid = grid.flip(1)
    if positions.grid == "centered":
        exponents = 2.0 * torch.arange(bands, dtype=torch.float32) / (config.head_dim // 2)
        angles = 2 * math.pi * grid / positions.temperature**exponents
    else:
        exponents = torch.arange(bands).to(torch.float32) / bands
        angles = grid * (1.0 / positions.temperature**exponents)
    return angles.flatten(1)
