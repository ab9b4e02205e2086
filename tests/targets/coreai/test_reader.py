"""Apple's reader and runtime end the process that they fail in: it is not ours."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydra_export.errors import CheckFailed
from hydra_export.target import TensorInfo
from tests.targets.conftest import given
from tests.targets.coreai.conftest import COREAI, Write, sign

pytestmark = pytest.mark.usefixtures("needs_coreai")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go, of a process that was not there before."""
    from hydra_export.targets.coreai import reader

    folder = tmp_path / "temporary"
    folder.mkdir()
    reader._worker.close()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    reader._worker.close()


def test_a_damaged_program_is_a_failed_check_and_leaves_nothing(write: Write, temporary: Path) -> None:
    checkpoint, artifact, path = write()
    whole = (path / "main.mlirb").read_bytes()
    (path / "main.mlirb").write_bytes(whole[: len(whole) // 2])
    sign(path)
    for attempt in (COREAI.lint, COREAI.signature, lambda path: COREAI.load(path, 2)):
        with pytest.raises(CheckFailed, match=f"Reading {path} crashed with SIG"):
            attempt(path)
        assert not list(temporary.iterdir())
    (path / "main.mlirb").write_bytes(whole)
    sign(path)
    assert COREAI.load(path, 2).run(given(checkpoint, artifact.spec)).shape == (5, 7)


def test_a_runtime_that_crashes_is_a_failed_check_and_leaves_nothing(tmp_path: Path, temporary: Path) -> None:
    """For want of memory: it asks for 4 TiB."""
    import coreai.authoring as ca

    from hydra_export.targets.coreai import builder

    def body(image: Any) -> Any:
        squared = ca.broadcasting_add(image, ca.transpose(image, builder.sizes(0, 1, 3, 2)))
        part = ca.slice_(squared, builder.indices(0, 0, 0, 0), builder.indices(1, 1, 1, 1), builder.indices(1, 1, 1, 1))
        return ca.reshape(part, builder.sizes(1, 1))

    image = TensorInfo(name="image", dtype="float32", shape=(1, 1, 2**20, 1))
    path = tmp_path / "large.aimodel"
    builder.write(path, lambda program: program.function("main", [image], "logits", body), {}, {})
    session = COREAI.load(path, 1)
    assert len(list(temporary.iterdir())) == 1
    with pytest.raises(CheckFailed, match=r"Running .* crashed with SIG"):
        session.run(np.ones((1, 1, 2**20, 1), np.float32))
    assert not list(temporary.iterdir())


def test_what_the_runtime_prints_is_not_seen(write: Write, temporary: Path, capfd: pytest.CaptureFixture[str]) -> None:
    checkpoint, artifact, path = write()
    COREAI.load(path, 2).run(given(checkpoint, artifact.spec))
    assert capfd.readouterr() == ("", "")


def test_an_asset_that_was_changed_is_read_and_run_anew(write: Write) -> None:
    checkpoint, artifact, path = write()
    session, image = COREAI.load(path, 2), given(checkpoint, artifact.spec)
    before = session.run(image)
    content = bytearray((path / "main.mlirb").read_bytes())
    bias = checkpoint.state["head.bias"].numpy().tobytes()
    at = content.index(bias)
    content[at : at + len(bias)] = (np.frombuffer(bias, "<f4") + 1).tobytes()
    (path / "main.mlirb").write_bytes(content)
    sign(path)
    np.testing.assert_allclose(COREAI.load(path, 2).run(image), before + 1, atol=1e-5)


def test_another_head_count_is_a_failed_check(write: Write) -> None:
    _, _, path = write(heads=(1, 2), graph="universal")
    with pytest.raises(CheckFailed, match="has functions k1, k2, none for heads 3"):
        COREAI.load(path, 3)


@pytest.mark.parametrize(("heads", "graph"), [((2,), "separate"), ((1, 2), "universal")])
def test_what_bench_times_on_a_mac_gives_the_same(write: Write, heads: tuple[int, ...], graph: str) -> None:
    from hydra_export.targets.coreai.runners import RUNNERS

    checkpoint, artifact, path = write(heads=heads, graph=graph)
    image: Any = given(checkpoint, artifact.spec, 1)
    opened: Any = RUNNERS["coreai"]["open"]
    for k in heads:
        np.testing.assert_array_equal(opened(path, 0)(k)(image), COREAI.load(path, k).run(image))
