"""A preprocessing file of the user."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hydra_export.preprocess import inception, named
from tests.fuzz import trees
from tests.fuzz.reader import Random, Reader


def _seeds() -> list[bytes]:
    return [msgspec.json.encode(inception(size)) for size in (16, 224)]


def _mutate(random: Random, content: bytes) -> bytes:
    return trees.to_json(random, trees.mutate(random, msgspec.json.decode(content)))


def _read(path: Path) -> None:
    named(str(path), 16)


READER = Reader(_seeds, _mutate, msgspec.json.decode, _read, ".json")
