"""A device profile in TOML, a user's own."""

from __future__ import annotations

import copy
import functools
import tomllib
from pathlib import Path
from typing import Any

from hydra_export import device
from tests.fuzz import trees
from tests.fuzz.reader import Random, Reader

_PROFILES = Path(device.__file__).with_name("profiles")


def _seeds() -> list[bytes]:
    return [(_PROFILES / f"{name}.toml").read_bytes() for name in ("rpi5", "pixel7", "macbook-m1")]


def _mutate(random: Random, content: bytes) -> bytes:
    return trees.to_toml(random, trees.mutate(random, copy.deepcopy(_tree(content))))


@functools.lru_cache(maxsize=64)
def _tree(content: bytes) -> Any:
    return tomllib.loads(content.decode())


def _read(path: Path) -> None:
    device.encode(device.read(path))


READER = Reader(_seeds, _mutate, _tree, _read, ".toml")
