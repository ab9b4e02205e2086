"""What was written before is copied, and made anew where it was damaged."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hydra_export import checkpoint
from hydra_export.cache import Cache, default_folder
from hydra_export.checkpoint import Checkpoint
from hydra_export.errors import BadInput
from hydra_export.exporting import export, jobs
from hydra_export.targets.onnx import OnnxOptions
from tests.conftest import available_targets, snapshot

GRAPHS = ["separate", "shared", "universal"]


def export_with(cache: Cache, path: Path, out: Path, heads: tuple[int, ...] = (1, 2, 4), **choices: Any) -> list[str]:
    """Exports ONNX in every graph kind; what came out of the cache."""
    cache.reused.clear()
    export(checkpoint.load(path), out, jobs(["onnx"], GRAPHS, **choices), heads=heads, cache=cache)
    return sorted(each.name for each in cache.reused)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    made = Cache(tmp_path / "cache")
    made.check()
    return made


def test_a_second_export_takes_everything_from_the_cache_and_is_the_same(
    cache: Cache, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    export(checkpoint.load(tiny_checkpoint), tmp_path / "without", jobs(["onnx"], GRAPHS), heads=(1, 2, 4))
    assert export_with(cache, tiny_checkpoint, tmp_path / "first") == []
    reused = export_with(cache, tiny_checkpoint, tmp_path / "second")
    assert reused == sorted(path.name for path in (tmp_path / "first" / "onnx").glob("*.onnx"))
    assert snapshot(tmp_path / "first") == snapshot(tmp_path / "second") == snapshot(tmp_path / "without")


def test_another_list_of_head_counts_reuses_the_separate_artifacts_of_those_that_stay(
    cache: Cache, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    export_with(cache, tiny_checkpoint, tmp_path / "first")
    reused = export_with(cache, tiny_checkpoint, tmp_path / "second", heads=(1, 3, 4))
    assert reused == ["tiny-k1.onnx", "tiny-k4.onnx"]


@pytest.mark.parametrize(
    "changed",
    [{"input": "image"}, {"batch": 2}, {"options": OnnxOptions(opset=20)}, {"precisions": ["fp16"]}],
    ids=lambda choices: next(iter(choices)),
)
def test_other_choices_are_written_anew(
    cache: Cache, tiny_checkpoint: Path, tmp_path: Path, changed: dict[str, Any]
) -> None:
    export_with(cache, tiny_checkpoint, tmp_path / "first")
    assert export_with(cache, tiny_checkpoint, tmp_path / "second", **changed) == []


def change_weight(loaded: Checkpoint) -> Checkpoint:
    next(loaded.model.parameters()).data.view(-1)[0] += 1
    return loaded


def change_labels(loaded: Checkpoint) -> Checkpoint:
    return replace(loaded, info=msgspec.structs.replace(loaded.info, labels=tuple("abcdefg")))


@pytest.mark.parametrize("change", [change_weight, change_labels])
def test_another_model_is_written_anew(
    cache: Cache, tiny_checkpoint: Path, tmp_path: Path, change: Callable[[Checkpoint], Checkpoint]
) -> None:
    export_with(cache, tiny_checkpoint, tmp_path / "first")
    cache.reused.clear()
    export(change(checkpoint.load(tiny_checkpoint)), tmp_path / "second", jobs(["onnx"], GRAPHS), cache=cache)
    assert not cache.reused


def test_another_version_of_a_package_writes_anew(
    cache: Cache, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_with(cache, tiny_checkpoint, tmp_path / "first")
    monkeypatch.setattr(
        "hydra_export.conversion.version", lambda name: "0" if name == "onnx-ir" else importlib.metadata.version(name)
    )
    assert export_with(cache, tiny_checkpoint, tmp_path / "second") == []


@pytest.mark.parametrize("folder", ["files", "writes"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "gone", "longer"])
def test_damaged_entries_are_found_and_made_anew(
    cache: Cache, tiny_checkpoint: Path, tmp_path: Path, folder: str, damage: str
) -> None:
    export_with(cache, tiny_checkpoint, tmp_path / "first", heads=(2,))
    for path in (cache.folder / folder).iterdir():
        content = path.read_bytes()
        half = len(content) // 2
        path.write_bytes(
            {
                "flipped": content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :],
                "cut": content[:half],
                "longer": content + b" ",
            }.get(damage, b"")
        )
        if damage == "gone":
            path.unlink()
    assert export_with(cache, tiny_checkpoint, tmp_path / "second", heads=(2,)) == []
    assert snapshot(tmp_path / "first") == snapshot(tmp_path / "second")
    written = sorted(path.name for path in (tmp_path / "first" / "onnx").glob("*.onnx"))
    assert export_with(cache, tiny_checkpoint, tmp_path / "third", heads=(2,)) == written


def test_a_folder_that_others_may_change_is_refused(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("files", "writes", "."):
        (cache.folder / place).mkdir(exist_ok=True)
        (cache.folder / place).chmod(0o777)
        with pytest.raises(BadInput, match="Every user can write into the cache"):
            cache.check()
        (cache.folder / place).chmod(0o775)
    cache.check()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(BadInput, match="belongs to another user"):
        cache.check()


def test_files_are_copies_and_no_links(cache: Cache, tiny_checkpoint: Path, tmp_path: Path) -> None:
    export_with(cache, tiny_checkpoint, tmp_path / "first")
    export_with(cache, tiny_checkpoint, tmp_path / "second")
    everything = [*tmp_path.rglob("*.onnx"), *(cache.folder / "files").iterdir()]
    assert all(path.stat().st_nlink == 1 and not path.is_symlink() for path in everything)


def test_pruning_leaves_what_was_used_last(cache: Cache, tmp_path: Path) -> None:
    (cache.folder / "files").mkdir()
    for age, name in enumerate("abc"):
        path = cache.folder / "files" / (name * 64)
        path.write_bytes(bytes(100))
        os.utime(path, (1e9 - age, 1e9 - age))
    replace(cache, limit=250).prune()
    assert sorted(path.name[0] for path in (cache.folder / "files").iterdir()) == ["a", "b"]


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(BadInput, match="exists and is not a cache"):
        Cache(tmp_path).check()
    with pytest.raises(BadInput, match="is not a folder"):
        Cache(tmp_path / "holiday.jpg").check()
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


@pytest.mark.skipif(sys.platform != "linux", reason="the XDG Base Directory Specification")
def test_the_default_folder_is_where_caches_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "hydra-export" / "artifacts"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the specification
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "hydra-export" / "artifacts"


@pytest.mark.slow
@pytest.mark.skipif("coreml" not in available_targets(), reason="converts to Core ML")
def test_converters_run_only_for_what_is_not_there(cache: Cache, tiny_checkpoint: Path, tmp_path: Path) -> None:
    loaded, listed = checkpoint.load(tiny_checkpoint), jobs(["coreml"])
    export(loaded, tmp_path / "first", listed, heads=(1, 2), cache=cache)
    told: list[str] = []
    export(
        loaded,
        tmp_path / "second",
        listed,
        heads=(1, 2),
        cache=cache,
        progress=lambda what, _done, _all: told.append(what),
    )
    assert not [what for what in told if "converter" in what or "writing" in what]
    assert len(cache.reused) == 2
    assert snapshot(tmp_path / "first") == snapshot(tmp_path / "second")
