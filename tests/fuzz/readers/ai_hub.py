"""The JSON of a Qualcomm AI Hub profile."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hydra_export import bench
from hydra_export.bench import Asked
from hydra_export.latency import REFERENCE
from tests.fuzz import trees
from tests.fuzz.reader import Random, Reader
from tests.test_foreign_results import AI_HUB

_ASKED = Asked(model=REFERENCE, named=REFERENCE.name, graphs={}, heads=6, runtime="qnn", date="2026-02-03")


def _seeds() -> list[bytes]:
    single = {**AI_HUB, "execution_summary": {**AI_HUB["execution_summary"], "all_inference_times": []}}
    return [msgspec.json.encode(AI_HUB), msgspec.json.encode(single)]


def _mutate(random: Random, content: bytes) -> bytes:
    return trees.to_json(random, trees.mutate(random, msgspec.json.decode(content)))


def _read(path: Path) -> None:
    bench.read_results(path, _ASKED)


READER = Reader(_seeds, _mutate, msgspec.json.decode, _read, ".json")
