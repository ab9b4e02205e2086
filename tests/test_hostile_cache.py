"""Caches that somebody else prepared: an export is what it would be without, and touches nothing outside."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest

from hydra_export import bundle, checkpoint, checkpoint_file
from hydra_export.architecture import HydraConfig
from hydra_export.cache import Cache
from hydra_export.exporting import export, jobs
from hydra_export.preprocess import Preprocessing
from tests.conftest import perturbed, snapshot

FOLDERS = int(os.environ.get("HYDRA_EXPORT_CACHES", "24"))
TERABYTE = 2**40


@dataclass(frozen=True)
class Prepared:
    """A cache to spoil, beside files of the user that nothing may change."""

    cache: Path
    sound: Path
    outside: Path
    chance: random.Random

    @property
    def entries(self) -> list[Path]:
        return sorted(self.cache / "writes" / path.name for path in (self.sound / "writes").iterdir())

    @property
    def contents(self) -> list[Path]:
        return sorted(self.cache / "files" / path.name for path in (self.sound / "files").iterdir())

    def entry(self) -> tuple[Path, dict[str, object]]:
        """One of them, and what it holds before it is spoilt."""
        path = self.chance.choice(self.entries)
        return path, json.loads((self.sound / "writes" / path.name).read_bytes().partition(b"\n")[2])


Spoil = Callable[[Prepared], None]


def write_entry(path: Path, document: object) -> None:
    content = json.dumps(document).encode()
    path.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)


# What stands for a hash, a name or a whole entry


def value(text: object) -> Spoil:
    def spoil(prepared: Prepared) -> None:
        path, document = prepared.entry()
        given = text.format(outside=prepared.outside) if isinstance(text, str) else text
        write_entry(path, {**document, prepared.chance.choice([*document]): given})

    return spoil


def name(text: str) -> Spoil:
    """A file more, or another one, with a content that is there."""

    def spoil(prepared: Prepared) -> None:
        path, document = prepared.entry()
        old = prepared.chance.choice([*document])
        digest = document[old]
        if prepared.chance.random() < 0.5:
            del document[old]
        write_entry(path, {**document, text.format(outside=prepared.outside): digest})

    return spoil


def whole(document: object) -> Spoil:
    return lambda prepared: write_entry(prepared.entry()[0], document)


def nested(prepared: Prepared) -> None:
    content = b"[" * 100_000
    prepared.entry()[0].write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)


def exchange_entries(prepared: Prepared) -> None:
    first, second = prepared.chance.sample(prepared.entries, 2)
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])


def exchange_hashes(prepared: Prepared) -> None:
    path, document = prepared.entry()
    names = [*document]
    write_entry(path, dict(zip(names, [document[each] for each in names[1:] + names[:1]], strict=True)))


# What lies where a file or a folder is expected


def fifo(path: Path, _prepared: Prepared) -> None:
    os.mkfifo(path)


def directory(path: Path, _prepared: Prepared) -> None:
    (path / "inner").mkdir(parents=True)


def sparse(path: Path, _prepared: Prepared) -> None:
    path.touch()
    os.truncate(path, TERABYTE)


def link(text: str) -> Callable[[Path, Prepared], None]:
    return lambda path, prepared: path.symlink_to(text.format(outside=prepared.outside))


def second_name(path: Path, prepared: Prepared) -> None:
    os.link(prepared.outside / "victim", path)


PLACED = [
    *(fifo, directory, sparse, second_name),
    *map(link, ("{outside}/victim", "{outside}/new", "{outside}", "/dev/zero", "/dev/null", "loop", "..")),
]
PLACES: list[Callable[[Prepared], Path]] = [
    lambda prepared: prepared.chance.choice(prepared.entries),
    lambda prepared: prepared.chance.choice(prepared.contents),
    lambda prepared: prepared.cache / "CACHEDIR.TAG",
    lambda prepared: prepared.cache / "writes",
    lambda prepared: prepared.cache / "files",
    lambda prepared: prepared.cache / "writes" / f".{prepared.chance.choice(prepared.entries).name}.x.partial",
    lambda prepared: prepared.cache / "files" / f".{prepared.chance.choice(prepared.contents).name}.x.partial",
]


def placed(place: Callable[[Prepared], Path], put: Callable[[Path, Prepared], None]) -> Spoil:
    def spoil_place(prepared: Prepared) -> None:
        path = place(prepared)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        with contextlib.suppress(NotADirectoryError):  # below what another one put there
            path.unlink(missing_ok=True)
            put(path, prepared)

    return spoil_place


# Other contents, with the hashes that go with them


def replaced(change: Callable[[bytes], bytes], ending: str) -> Spoil:
    def spoil(prepared: Prepared) -> None:
        path, document = prepared.entry()
        for each in document:
            if each.endswith(ending):
                content = change((prepared.sound / "files" / str(document[each])).read_bytes())
                document[each] = hashlib.sha256(content).hexdigest()
                (prepared.cache / "files" / str(document[each])).write_bytes(content)
        write_entry(path, document)

    return spoil


def graph(change: Callable[[onnx.ModelProto], None]) -> Spoil:
    def changed(content: bytes) -> bytes:
        model = onnx.load_from_string(content)
        unchanged = model.SerializeToString()
        change(model)
        spoilt = bytes(model.SerializeToString())
        return content if spoilt == unchanged else spoilt  # the same in another order of bytes is no harm

    return replaced(changed, ".onnx")


def weaken(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.raw_data:
            tensor.raw_data = bytes(len(tensor.raw_data))


def tell_other_labels(model: onnx.ModelProto) -> None:
    for entry in model.metadata_props:
        if entry.key == "hydra_export.labels":
            entry.value = entry.value.replace("ant", "\x1b[31mant")


def need_newer(model: onnx.ModelProto) -> None:
    model.opset_import[0].version, model.ir_version = 20, 9


def import_twice(model: onnx.ModelProto) -> None:
    model.opset_import.add(version=16)


def rename_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "features"


def read_elsewhere(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../../outside/victim"


SPOILS: list[Spoil] = [
    *map(value, ("../../outside/victim", "{outside}/victim", "", "A" * 64, "a\0b", "0" * 64, "0" * 10**7, 7, None)),
    *map(name, ("evil.sh", "../../../escaped", "{outside}/victim", "a\0b", ".", "deep/er", "README.md", "a" * 5000)),
    *map(whole, ({}, [], 7, "x", {"sha256": {}, "artifacts": []})),
    *(nested, exchange_entries, exchange_hashes),
    *(placed(place, put) for place in PLACES for put in PLACED),
    *(replaced(change, "") for change in (lambda _: b"", lambda content: content[:-9], lambda content: content[::-1])),
    *map(graph, (weaken, tell_other_labels, need_newer, import_twice, rename_output, read_elsewhere)),
]


@dataclass(frozen=True)
class Plain:
    """An export without a cache, and the cache that another one filled."""

    checkpoint: Path
    bundle: Path
    cache: Path


def exported(source: Path, out: Path, cache: Path | None) -> Cache | None:
    kept = None if cache is None else Cache(cache)
    if kept is not None:
        kept.check()
    export(checkpoint.load(source), out, jobs(["onnx"], ["separate", "shared"]), heads=(1, 2), cache=kept)
    if kept is not None:
        kept.prune()
    return kept


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Plain:
    place = tmp_path_factory.mktemp("plain")
    config = HydraConfig(heads=2, head_dim=8, depth=1, patch_size=8, image_size=16, num_classes=3)
    data = Preprocessing(image_size=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), crop=1.0)
    info = checkpoint_file.CheckpointInfo(
        name="tiny", config=config, preprocessing=data, labels=("ant", "bee", "cat"), license="CC0-1.0"
    )
    checkpoint_file.write(place / "tiny.safetensors", perturbed(config).state_dict(), info)
    exported(place / "tiny.safetensors", place / "bundle", None)
    exported(place / "tiny.safetensors", place / "filled", place / "cache")
    return Plain(place / "tiny.safetensors", place / "bundle", place / "cache")


def status_beside(place: Path) -> dict[str, tuple[object, ...]]:
    """Everything beside the cache and the bundle, with what changes where one writes or touches it."""
    found: dict[str, tuple[object, ...]] = {}
    beside = [path for path in place.iterdir() if path.name not in ("cache", "out")]
    for path in sorted(each for one in beside for each in (one, *one.rglob("*"))):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[str(path.relative_to(place))] = (status.st_mode, status.st_mtime_ns, content)
    return found


def bundle_is_the_same_with(plain: Plain, place: Path, spoils: list[Spoil], seed: int) -> None:
    outside = place / "outside"
    outside.mkdir(parents=True)
    (outside / "victim").write_bytes(b"precious")
    (outside / ("ab" * 32)).write_bytes(b"precious too")
    os.utime(outside / "victim", (1, 1))
    shutil.copytree(plain.cache, place / "cache")
    prepared = Prepared(place / "cache", plain.cache, outside, random.Random(seed))
    for spoil in sorted(spoils, key=lambda spoil: spoil.__name__ == "spoil_place"):  # what replaces whole folders last
        spoil(prepared)
    before = status_beside(place)
    exported(plain.checkpoint, place / "out", place / "cache")
    assert snapshot(place / "out") == snapshot(plain.bundle)
    assert status_beside(place) == before


@pytest.mark.parametrize("number", range(FOLDERS))
def test_an_export_through_a_hostile_cache_is_the_one_without(plain: Plain, tmp_path: Path, number: int) -> None:
    """All ways to spoil one, alone, and then several at once."""
    ways = random.Random(0).sample(SPOILS, len(SPOILS))
    spoils = ways[number : number + 1] or random.Random(number).sample(SPOILS, 3)
    bundle_is_the_same_with(plain, tmp_path, spoils, number)


def test_the_cache_that_is_spoilt_here_is_used_when_it_is_not(plain: Plain, tmp_path: Path) -> None:
    cache = exported(plain.checkpoint, tmp_path / "out", plain.cache)
    assert cache is not None
    assert len(cache.reused) == len(bundle.read(tmp_path / "out").artifacts)
    assert snapshot(tmp_path / "out") == snapshot(plain.bundle)
