"""Running ONNX artifacts: what cannot be loaded or run is a failed check that names the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from hydra_export import targets
from hydra_export.errors import CheckFailed
from hydra_export.target import ExportSpec
from hydra_export.targets.onnx.session import OnnxSession
from tests.targets.conftest import MakeCheckpoint, given

ONNX = targets.get("onnx")


@pytest.fixture
def path(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> Path:
    (artifact,) = ONNX.write(make_checkpoint(), (2,), ExportSpec(), tmp_path)
    return tmp_path / artifact.path


@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_a_file_that_is_no_model_is_a_failed_check(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(CheckFailed, match=r"cannot load .*x\.onnx"):
        OnnxSession(tmp_path / "x.onnx")


def test_a_missing_file_is_a_failed_check(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match=r"cannot load .*gone\.onnx"):
        OnnxSession(tmp_path / "gone.onnx")


def test_an_image_of_another_size_is_a_failed_check(path: Path) -> None:
    with pytest.raises(CheckFailed, match=r"cannot run .*tiny-k2\.onnx"):
        OnnxSession(path).run(np.zeros((1, 3, 8, 8), np.float32))


def test_a_graph_without_logits_is_a_failed_check(path: Path) -> None:
    model = onnx.load(path)
    for node in model.graph.node:
        node.output[:] = ["scores" if name == "logits" else name for name in node.output]
    model.graph.output[0].name = "scores"
    onnx.save(model, path)
    with pytest.raises(CheckFailed, match="inputs or outputs other"):
        OnnxSession(path)


def test_the_number_of_threads_is_taken(path: Path) -> None:
    session = OnnxSession(path, threads=1)
    assert session.runtime.get_session_options().intra_op_num_threads == 1


def test_logits_are_float32_one_row_per_image(path: Path, make_checkpoint: MakeCheckpoint) -> None:
    logits = OnnxSession(path).run(given(make_checkpoint(), ExportSpec()))
    assert logits.dtype == np.float32
    assert logits.shape == (5, 7)


def test_a_graph_with_another_input_than_the_head_count_is_a_failed_check(path: Path) -> None:
    model = onnx.load(path)
    model.graph.input.append(onnx.helper.make_tensor_value_info("k", onnx.TensorProto.INT32, []))
    onnx.save(model, path)
    with pytest.raises(CheckFailed, match="inputs or outputs other"):
        OnnxSession(path, heads=2)
