"""How files are written: streamed, aligned, whole, and with the weights that are expected."""

from __future__ import annotations

import itertools
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydra_export import targets
from hydra_export.errors import BadInput
from hydra_export.target import ExportSpec
from hydra_export.targets.tflite import file, reader
from tests.targets.conftest import MakeCheckpoint
from tests.targets.tflite.conftest import TFLITE, MakeFile, loaded, save, weight, without_labels


def test_the_streamed_file_is_what_the_schemas_own_classes_would_write(written: MakeFile, tmp_path: Path) -> None:
    path = written(batch="dynamic")
    model = loaded(path)
    without_labels(model)
    save(model, tmp_path / "again.tflite")
    assert _plain(loaded(tmp_path / "again.tflite")) == _plain(model)
    TFLITE.lint(tmp_path / "again.tflite")


def test_content_is_aligned_and_nothing_lies_in_two_places(written: MakeFile) -> None:
    model = reader.read(written())
    extents = sorted((extent.start, extent.size) for extent in model.buffers[1:])
    assert all(start % 64 == 0 and size for start, size in extents)
    for (start, size), (following, _size) in itertools.pairwise(extents):
        assert start + size <= following < start + size + 64 + 4


def test_weights_are_the_slices_of_the_checkpoint(make_checkpoint: MakeCheckpoint, written: MakeFile) -> None:
    state = {name: tensor.numpy() for name, tensor in make_checkpoint().model.state_dict().items()}
    model = loaded(written())
    D, E, M = 16, 32, 64  # width of subnetwork 2, of the universal model, hidden width of subnetwork 2
    qkv = state["blocks.1.attn.qkv.weight"].reshape(3, E, E)[:, :D, :D]
    np.testing.assert_array_equal(weight(model, "blocks.1.attn.k.weight"), qkv[1])
    np.testing.assert_array_equal(weight(model, "blocks.1.attn.v.weight"), qkv[2])
    np.testing.assert_allclose(weight(model, "blocks.1.attn.q.weight"), qkv[0] * 8**-0.5, rtol=1e-6)
    np.testing.assert_array_equal(weight(model, "blocks.0.mlp.fc1.weight"), state["blocks.0.mlp.fc1.weight"][:M, :D])
    np.testing.assert_array_equal(weight(model, "blocks.0.mlp.fc2.weight"), state["blocks.0.mlp.fc2.weight"][:D, :M])
    patches = state["patch_embed.proj.weight"][:D].transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(weight(model, "patch_embed.weight"), patches)


def test_a_subnetwork_has_the_same_bytes_whichever_others_are_listed(
    make_checkpoint: MakeCheckpoint, written: MakeFile, tmp_path: Path
) -> None:
    alone = written(2).read_bytes()
    TFLITE.write(make_checkpoint(), (1, 2, 3, 4), ExportSpec(), tmp_path)
    assert (tmp_path / "tiny-k2.tflite").read_bytes() == alone


def test_a_file_beyond_the_limit_of_the_format_is_refused_before_it_is_written(
    make_checkpoint: MakeCheckpoint, written: MakeFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = reader.read(written())
    monkeypatch.setattr(file, "_LARGEST_FILE_BYTES", model.end)
    written()  # just fits
    monkeypatch.setattr(file, "_LARGEST_FILE_BYTES", model.end - 1)
    with pytest.raises(BadInput, match=r"tiny-k2 needs 0\.0 GB; a TFLite file is limited to 2 GB"):
        TFLITE.write(make_checkpoint(), (2,), ExportSpec(), tmp_path)
    assert (tmp_path / "tiny-k2.tflite").stat().st_size == 0


def test_the_limit_is_the_one_of_signed_offsets() -> None:
    assert file._LARGEST_FILE_BYTES == reader._LARGEST_BYTES == 2**31 - 1


def test_at_most_one_weight_is_in_memory_besides_the_model(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(heads=16, head_dim=16, depth=4)
    TFLITE.write(checkpoint, (1,), ExportSpec(), tmp_path)  # imports
    tracemalloc.start()
    try:
        (artifact,) = TFLITE.write(checkpoint, (16,), ExportSpec(), tmp_path)
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / artifact.path).stat().st_size > 12e6
    assert peak < 3e6  # the graph's own objects


def test_the_target_is_found() -> None:
    assert "tflite" in targets.names()


def _plain(value: Any) -> Any:
    """The schema's objects as plain ones, to compare."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if hasattr(value, "__dict__"):
        return {name: _plain(item) for name, item in vars(value).items() if name != "Pack" and item is not None}
    return value
