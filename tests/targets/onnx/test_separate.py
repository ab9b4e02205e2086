"""Separate files: self-contained, streamed, and the weights that are expected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from hydra_export import targets
from hydra_export.checkpoint import Checkpoint
from hydra_export.errors import BadInput
from hydra_export.target import ExportSpec
from hydra_export.targets.onnx import separate
from tests.targets.conftest import MakeCheckpoint

ONNX = targets.get("onnx")


def path_of(checkpoint: Checkpoint, out: Path, heads: int = 2) -> Path:
    out.mkdir(exist_ok=True)
    (artifact,) = ONNX.write(checkpoint, (heads,), ExportSpec(), out)
    return out / artifact.path


def arrays(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_the_streamed_file_is_what_protobuf_would_write(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    path = path_of(make_checkpoint(), tmp_path / "out")
    model = onnx.load(path)
    again = model.SerializeToString()
    assert len(again) == path.stat().st_size  # no field is unknown, doubled or left out
    copy = onnx.load_from_string(again)
    assert copy == model
    assert arrays(copy).keys() == arrays(model).keys()
    for name, array in arrays(copy).items():
        np.testing.assert_array_equal(array, arrays(model)[name])


def test_initializers_are_the_slices_of_the_checkpoint(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    found = arrays(onnx.load(path_of(checkpoint, tmp_path / "out")))
    state = {name: tensor.numpy() for name, tensor in checkpoint.model.state_dict().items()}
    D, E, M = 16, 32, 64  # width of subnetwork 2, of the universal model, hidden width of subnetwork 2
    qkv = state["blocks.1.attn.qkv.weight"].reshape(3, E, E)[:, :D, :D]
    np.testing.assert_array_equal(found["blocks.1.attn.k.weight"], qkv[1].T)
    np.testing.assert_array_equal(found["blocks.1.attn.v.weight"], qkv[2].T)
    np.testing.assert_allclose(found["blocks.1.attn.q.weight"], qkv[0].T * 8**-0.5, rtol=1e-6)  # the scale folded
    np.testing.assert_array_equal(found["blocks.0.mlp.fc1.weight"], state["blocks.0.mlp.fc1.weight"][:M, :D].T)
    np.testing.assert_array_equal(found["blocks.0.mlp.fc2.weight"], state["blocks.0.mlp.fc2.weight"][:D, :M].T)
    np.testing.assert_array_equal(found["patch_embed.bias"], state["patch_embed.proj.bias"][:D])


def test_a_subnetwork_has_the_same_bytes_whichever_others_are_listed(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint()
    alone = path_of(checkpoint, tmp_path / "alone").read_bytes()
    (tmp_path / "all").mkdir()
    ONNX.write(checkpoint, (1, 2, 3, 4), ExportSpec(), tmp_path / "all")
    assert (tmp_path / "all" / "tiny-k2.onnx").read_bytes() == alone


def test_a_file_beyond_the_limit_of_protobuf_is_refused_before_it_is_written(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = make_checkpoint()
    size = path_of(checkpoint, tmp_path / "out").stat().st_size
    monkeypatch.setattr(separate, "_LARGEST_FILE_BYTES", size)
    assert path_of(checkpoint, tmp_path / "out").stat().st_size == size  # just fits
    monkeypatch.setattr(separate, "_LARGEST_FILE_BYTES", size - 1)
    with pytest.raises(BadInput, match=r"Subnetwork 2 needs .* Use `graph=shared`"):
        path_of(checkpoint, tmp_path / "refused")
    assert sum(path.stat().st_size for path in (tmp_path / "refused").iterdir()) == 0


def test_the_limit_is_the_one_of_protobuf() -> None:
    assert separate._LARGEST_FILE_BYTES == 2**31 - 1


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 16383, 16384, 2**31 - 1])
def test_lengths_are_encoded_as_protobuf_does(value: int) -> None:
    tensor = onnx.TensorProto(dims=[value])  # field 1, packed or not: tag, then the number
    encoded = tensor.SerializeToString()
    assert encoded.endswith(separate._varint(value))
    assert len(encoded) - len(separate._varint(value)) in (1, 2)
