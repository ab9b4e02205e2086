"""Outputs that an import must reproduce, of a checkpoint that stays as it is."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from hydra_export import checkpoint, reference
from hydra_export.checkpoint import Checkpoint
from tests.fuzz import arrays, checkpoints, zips
from tests.fuzz.reader import Random, Reader
from tests.fuzz.readers import golden


@functools.cache
def _checkpoint() -> Checkpoint:
    return checkpoint.load(checkpoints.checkpoint())


def _seeds() -> list[bytes]:
    path = checkpoints.folder() / "reference.npz"
    model = _checkpoint().model
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    reference.save_reference(model.subnetwork(model.config.heads), path, image)
    return [path.read_bytes()]


def _mutate(random: Random, content: bytes) -> bytes:
    return zips.mutate(random, content, lambda chance, _name, array: arrays.mutate(chance, array), share=0.7)


def _read(path: Path) -> None:
    reference.held_to(_checkpoint(), path)


READER = Reader(_seeds, _mutate, golden.READER.parse, _read, ".npz")
