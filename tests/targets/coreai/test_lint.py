"""Assets that are not as promised."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydra_export.errors import CheckFailed
from tests.targets.conftest import MakeCheckpoint
from tests.targets.coreai.conftest import COREAI, Write, case

pytestmark = pytest.mark.usefixtures("needs_coreai")


def _metadata(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((path / "metadata.json").read_bytes())
    change(document)
    content = json.dumps(document, ensure_ascii=False, indent=2, sort_keys=True)
    (path / "metadata.json").write_text(content + "\n", encoding="utf-8")


def _own(**fields: object) -> Callable[[Path], None]:
    return lambda path: _metadata(path, lambda document: document["creatorDefinedMetadata"].update(fields))


def _linked(path: Path) -> None:
    (path / "main.hash").rename(path.parent / "elsewhere")
    (path / "main.hash").symlink_to(path.parent / "elsewhere")


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file more": (lambda path: (path / "notes.txt").write_text("."), "it contains"),
    "a folder more": (lambda path: (path / "more").mkdir(), "it contains"),
    "no hash": (lambda path: (path / "main.hash").unlink(), "it contains"),
    "no program": (lambda path: (path / "main.mlirb").unlink(), "it contains"),
    "another hash": (lambda path: (path / "main.hash").write_bytes(bytes(32)), "not the SHA-256"),
    "a longer hash": (lambda path: (path / "main.hash").write_bytes(bytes(33)), "33 bytes"),
    "a link": (_linked, "a link, not a file"),
    "another program": (lambda path: (path / "main.mlirb").write_bytes(b"ML\xefR"), "not the SHA-256"),
    "no JSON": (lambda path: (path / "metadata.json").write_text("{"), "metadata.json"),
    "a date": (lambda path: _metadata(path, lambda d: d.update(creationDate="20260101T000000Z")), "'creationDate'"),
    "no producer": (lambda path: _metadata(path, lambda d: d.pop("producer")), "what wrote it"),
    "keys in another order": (
        lambda path: (path / "metadata.json").write_text(json.dumps(json.loads((path / "metadata.json").read_text()))),
        "in canonical form",
    ),
    "metadata of others": (_own(made_on="my laptop"), "'made_on'"),
    "metadata that is no text": (_own(**{"hydra_export.heads": 2}), "was not written by hydra-export"),
    "other heads": (_own(**{"hydra_export.heads": "2,4"}), "states heads 2,4"),
    "another graph kind": (_own(**{"hydra_export.graph": "universal"}), "states heads 2"),
    "another precision": (_own(**{"hydra_export.precision": "fp16"}), "a product of f32"),
    "heads that are no numbers": (_own(**{"hydra_export.heads": "9" * 5000}), "states heads 999"),
    "no precision": (_own(**{"hydra_export.precision": "fp8"}), "its precision is 'fp8'"),
    "another input": (_own(**{"hydra_export.input": "image"}), "takes"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_files_that_are_not_ours_are_refused(wrong: str, write: Write) -> None:
    _, _, path = write()
    COREAI.lint(path)
    change, problem = WRONG[wrong]
    change(path)
    with pytest.raises(CheckFailed, match=problem) as refused:
        COREAI.lint(path)
    assert str(path) in str(refused.value)


def test_a_program_that_is_too_large_is_not_read(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra_export.targets.coreai import folder

    _, _, path = write()
    monkeypatch.setattr(folder, "_MOST_PROGRAM_BYTES", 1000)
    with pytest.raises(CheckFailed, match="allowed: at most 1,000 bytes"):
        COREAI.lint(path)


def _tanh(self: Any, x: Any, place: str) -> Any:
    import coreai.authoring as ca

    return ca.tanh(x)


def _reduced(self: Any, x: Any, place: str) -> Any:
    import coreai.authoring as ca

    return ca.broadcasting_add(x, ca.reduce_mean(x, np.array([2], np.int32)))


def _rank_5(self: Any, x: Any, place: str) -> Any:
    import coreai.authoring as ca

    shape = tuple(x.type.shape)
    return ca.reshape(ca.gelu(ca.reshape(x, np.array((1, 1, *shape), np.uint32))), np.array(shape, np.uint32))


def _sliced(self: Any, whole: Any, shape: tuple[int, ...]) -> Any:
    import coreai.authoring as ca

    zeros, ones = np.zeros(len(shape), np.int32), np.ones(len(shape), np.int32)
    return ca.slice_(whole, zeros, np.array(shape, np.int32), ones)


@pytest.mark.parametrize(
    ("activation", "problem"),
    [
        (_tanh, "uses operation coreai.tanh"),
        (_reduced, r"reduce_mean turns \[1, 17, 64\] into \[1, 17, 1\]"),
        (_rank_5, r"is f32 \[1, 1, 1, 17, 64\]"),
    ],
)
def test_operations_that_are_not_ours_are_refused(
    activation: Any,
    problem: str,
    make_checkpoint: MakeCheckpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from hydra_export.targets.coreai.graph import CoreAIEmitter

    monkeypatch.setattr(CoreAIEmitter, "activation", activation)
    (artifact,) = case().write(make_checkpoint(), (2,), tmp_path / "out")
    with pytest.raises(CheckFailed, match=problem):
        COREAI.lint(tmp_path / "out" / artifact.path)


def test_weights_that_are_stored_twice_are_refused(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Apple's code makes of a slice of a constant."""
    from hydra_export.targets.coreai.builder import AssetBuilder

    monkeypatch.setattr(AssetBuilder, "beginning", _sliced)
    (artifact,) = case(graph="universal").write(make_checkpoint(), (2, 4), tmp_path / "out")
    with pytest.raises(CheckFailed, match="matrices of function k2 are not those of k4"):
        COREAI.lint(tmp_path / "out" / artifact.path)


def test_a_place_in_a_source_file_is_refused(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydra_export.targets.coreai import builder

    class Nothing:
        @staticmethod
        def parse(_pipeline: str) -> Any:
            return type("Passes", (), {"run": staticmethod(lambda _operation: None)})

    monkeypatch.setattr(builder, "PassManager", Nothing)
    (artifact,) = case().write(make_checkpoint(), (2,), tmp_path / "out")
    with pytest.raises(CheckFailed, match="has a source location"):
        COREAI.lint(tmp_path / "out" / artifact.path)
