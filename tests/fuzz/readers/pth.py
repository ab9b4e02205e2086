"""Checkpoints that torch.save wrote: a zip of a pickle and storages, or, before PyTorch 1.6, pickles in a row."""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path
from typing import Any

from hydra_export import checkpoint
from tests.fuzz import checkpoints, pickles, trees, zips
from tests.fuzz.reader import Random, Reader

_ZIP = b"PK"


def _seeds() -> list[bytes]:
    plain = checkpoints.plain()
    trained = {"model": plain, "model_ema": plain, "epoch": 3, "args": argparse.Namespace(lr=0.1, model="deit_tiny")}
    return [_saved(plain), _saved(trained), _saved({"state_dict": plain}, _use_new_zipfile_serialization=False)]


def _saved(content: Any, **options: bool) -> bytes:
    import torch

    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def _mutate(random: Random, content: bytes) -> bytes:
    if content[:2] != _ZIP:
        return trees.bruise(random, pickles.mutate(random, content), 0.1)
    return zips.mutate(random, content, _changed, share=0.8)


def _changed(random: Random, name: str, content: bytes) -> bytes:
    return pickles.mutate(random, content) if name.endswith(".pkl") else trees.bruise(random, content)


def _parse(content: bytes) -> None:
    if content[:2] != _ZIP:
        pickles.check(content)
        return
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".pkl"))
        pickles.check(archive.read(name))


def _read(path: Path) -> None:
    checkpoint.load(path, head_dim=4)


READER = Reader(_seeds, _mutate, _parse, _read, ".pth")
