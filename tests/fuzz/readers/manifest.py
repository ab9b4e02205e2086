"""A bundle's manifest.json."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hydra_export import bundle
from tests.fuzz import checkpoints, trees
from tests.fuzz.reader import Random, Reader


def _seeds() -> list[bytes]:
    return [(checkpoints.bundle() / bundle.MANIFEST).read_bytes()]


def _mutate(random: Random, content: bytes) -> bytes:
    return trees.to_json(random, trees.mutate(random, msgspec.json.decode(content)))


def _read(path: Path) -> None:
    (path.parent / bundle.MANIFEST).write_bytes(path.read_bytes())
    bundle.read(path.parent)


READER = Reader(_seeds, _mutate, msgspec.json.decode, _read, ".json")
