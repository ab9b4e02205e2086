"""What a page measured in a browser, as it is sent or saved."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec

from hydra_export import bench
from hydra_export.bench import Asked, BrowserRecord, browser
from hydra_export.latency import REFERENCE
from tests.fuzz import trees
from tests.fuzz.reader import Random, Reader
from tests.test_browser_times import document


def _seeds() -> list[bytes]:
    return [msgspec.json.encode(document()), msgspec.json.encode(document(provider="webgpu", backend="litert-web"))]


def _mutate(random: Random, content: bytes) -> bytes:
    return trees.to_json(random, trees.mutate(random, msgspec.json.decode(content)))


def _read(path: Path) -> None:
    record = bench.read_results(path, Asked(model=REFERENCE, named=REFERENCE.name, graphs={}))
    assert isinstance(record, BrowserRecord), "nothing else is accepted as it is"
    times = browser.records(record, REFERENCE, str(path), None)
    with tempfile.TemporaryDirectory(dir=path.parent) as profiles:
        browser.save(record, times, Path(profiles))


READER = Reader(_seeds, _mutate, msgspec.json.decode, _read, ".json")
