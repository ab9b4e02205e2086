"""A bundle's golden images and logits, of a manifest that stays as it is."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from hydra_export import bundle
from tests.fuzz import arrays, checkpoints, zips
from tests.fuzz.reader import Random, Reader


def _seeds() -> list[bytes]:
    return [(checkpoints.bundle() / bundle.GOLDEN).read_bytes()]


def _mutate(random: Random, content: bytes) -> bytes:
    return zips.mutate(random, content, lambda chance, _name, array: arrays.mutate(chance, array), share=0.7)


def _parse(content: bytes) -> None:
    zipfile.ZipFile(io.BytesIO(content)).close()


def _read(path: Path) -> None:
    (path.parent / bundle.GOLDEN).parent.mkdir(exist_ok=True)
    (path.parent / bundle.GOLDEN).write_bytes(path.read_bytes())
    bundle.read_golden(path.parent, bundle.read(checkpoints.bundle()))


READER = Reader(_seeds, _mutate, _parse, _read, ".npz")
