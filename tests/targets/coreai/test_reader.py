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
    """It ends with SIGSEGV for tables of 16 weights, which the reader takes."""
    import coreai.authoring as ca
    from coreai.authoring.constant import constant

    from hydra_export.targets.coreai import builder

    def body(image: Any) -> Any:
        places = constant(np.random.default_rng(0).integers(0, 16, (64, 64), np.uint8), dtype=ca.uint4)
        table = constant(np.arange(16, dtype=np.float32).reshape(1, 1, 16, 1))
        return ca.broadcasting_batch_matmul(image, ca.lut_to_dense(places, table, constant(np.array(1, np.int16))))

    image = TensorInfo(name="image", dtype="float32", shape=(1, 64))
    path = tmp_path / "table.aimodel"
    builder.write(path, lambda program: program.function("main", [image], "logits", body), {}, {})
    session = COREAI.load(path, 1)
    assert len(list(temporary.iterdir())) == 1
    with pytest.raises(CheckFailed, match=r"Running .* crashed with SIGSEGV"):
        session.run(np.ones((1, 64), np.float32))
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
