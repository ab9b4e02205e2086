"""Shared weights: each shell file holds what its head count adds, and nothing twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from hydra_export import targets
from hydra_export.checkpoint import Checkpoint
from hydra_export.errors import CheckFailed
from hydra_export.target import Artifact, ExportSpec, InputForm
from tests.targets.conftest import Case, MakeCheckpoint, given

ONNX = targets.get("onnx")
SHARED = Case(ONNX, "shared", "fp32")
ALIGNMENT = 64
FILES = pytest.mark.parametrize("weight_files", ["each", "one"])
LISTS = pytest.mark.parametrize(
    "heads",
    [(3, 6, 12), (1, 2, 4, 12), (5,), (11, 12), pytest.param(tuple(range(1, 13)), marks=pytest.mark.slow)],
    ids=str,
)
Extent = tuple[int, int, str]  # first byte, length, initializer


def twelve_heads(make_checkpoint: MakeCheckpoint, **overrides: object) -> Checkpoint:
    return make_checkpoint(heads=12, head_dim=4, **overrides)


def extents(artifacts: list[Artifact], out: Path) -> dict[str, set[Extent]]:
    """The byte ranges of every shell file that some graph uses."""
    found: dict[str, set[Extent]] = {}
    for artifact in artifacts:
        for tensor in onnx.load(out / artifact.path, load_external_data=False).graph.initializer:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            if entries:
                extent = int(entries["offset"]), int(entries["length"]), tensor.name
                found.setdefault(entries["location"], set()).add(extent)
    return found


def weight_bytes(model: onnx.ModelProto) -> int:
    """Of the float32 weights; shapes are int64, and the constants of GELU are scalars."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer if tensor.dims and tensor.data_type == 1)


@LISTS
@FILES
@pytest.mark.parametrize("form", ["tensor", "image"])
def test_every_list_of_head_counts_computes_its_subnetworks(
    make_checkpoint: MakeCheckpoint,
    tmp_path: Path,
    form: InputForm,
    weight_files: str,
    heads: tuple[int, ...],
) -> None:
    checkpoint = twelve_heads(make_checkpoint)
    artifacts = SHARED.write(checkpoint, heads, tmp_path / "out", input=form, weight_files=weight_files)
    for artifact in artifacts:
        ONNX.lint(tmp_path / "out" / artifact.path)
    SHARED.verify(checkpoint, artifacts, tmp_path / "out")


@LISTS
def test_one_weight_file_has_every_byte_used_by_the_largest_and_no_more(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, heads: tuple[int, ...]
) -> None:
    artifacts = SHARED.write(twelve_heads(make_checkpoint), heads, tmp_path / "out", weight_files="one")
    weights = f"tiny-shared-k{heads[-1]}.bin"
    assert [artifact.files for artifact in artifacts] == [(artifact.path, weights) for artifact in artifacts]
    largest = extents(artifacts[-1:], tmp_path / "out")
    assert largest.keys() == {weights}
    payload = sum(length for _offset, length, _name in largest[weights])
    size = (tmp_path / "out" / weights).stat().st_size
    assert payload <= size < payload + ALIGNMENT * len(largest[weights])


@pytest.mark.parametrize("heads", [(2,), (2, 4)])
@FILES
def test_separate_classifiers_are_shared_too(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, weight_files: str, heads: tuple[int, ...]
) -> None:
    checkpoint = make_checkpoint(separate_classifiers=(2, 3, 4), layer_scale=0.5)
    artifacts = SHARED.write(checkpoint, heads, tmp_path / "out", weight_files=weight_files)
    SHARED.verify(checkpoint, artifacts, tmp_path / "out")


@LISTS
def test_every_byte_of_every_shell_is_used_once_or_is_padding(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, heads: tuple[int, ...]
) -> None:
    artifacts = SHARED.write(twelve_heads(make_checkpoint), heads, tmp_path / "out")
    used = extents(artifacts, tmp_path / "out")
    assert used.keys() == {f"tiny-shared-k{k}.bin" for k in heads}
    for location, ranges in used.items():
        content, end = (tmp_path / "out" / location).read_bytes(), 0
        for offset, length, _name in sorted(ranges):
            assert 0 <= offset - end < ALIGNMENT
            assert not any(content[end:offset])
            assert offset % ALIGNMENT == 0
            end = offset + length
        assert end == len(content)


@LISTS
def test_the_shells_add_up_to_the_largest_subnetwork(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, heads: tuple[int, ...]
) -> None:
    checkpoint = twelve_heads(make_checkpoint)
    artifacts = SHARED.write(checkpoint, heads, tmp_path / "out")
    (tmp_path / "separate").mkdir()
    whole = ONNX.write(checkpoint, heads, ExportSpec(), tmp_path / "separate")
    used = extents(artifacts, tmp_path / "out")
    for index, artifact in enumerate(whole):  # and so does every prefix of the list
        payload = sum(length for k in heads[: index + 1] for _at, length, _name in used[f"tiny-shared-k{k}.bin"])
        assert payload == weight_bytes(onnx.load(tmp_path / "separate" / artifact.path))


def test_a_graph_needs_the_shells_up_to_its_own(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    artifacts = SHARED.write(twelve_heads(make_checkpoint), (3, 6, 12), tmp_path / "out")
    needed = [[name for name in artifact.files if name.endswith(".bin")] for artifact in artifacts]
    shells = ["tiny-shared-k3.bin", "tiny-shared-k6.bin", "tiny-shared-k12.bin"]
    assert needed == [shells[:1], shells[:2], shells]
    for artifact in artifacts:
        assert extents([artifact], tmp_path / "out").keys() == set(artifact.files) - {artifact.path}


def test_a_device_with_the_first_graph_and_shell_alone_runs_the_first_subnetwork(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    checkpoint = twelve_heads(make_checkpoint)
    first, second, _third = SHARED.write(checkpoint, (3, 6, 12), tmp_path / "out")
    kept = {"tiny-shared-k3.onnx", "tiny-shared-k3.bin"}
    for path in (tmp_path / "out").iterdir():
        if path.name not in {*kept, second.path}:
            path.unlink()
    SHARED.verify(checkpoint, [first], tmp_path / "out")
    with pytest.raises(CheckFailed, match=r"cannot load .*tiny-shared-k6\.onnx"):
        ONNX.load(tmp_path / "out" / second.path, 6)


def test_the_weights_outside_of_the_graph_are_all_of_them(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    artifacts = SHARED.write(twelve_heads(make_checkpoint), (3, 12), tmp_path / "out")
    for artifact in artifacts:
        for tensor in onnx.load(tmp_path / "out" / artifact.path, load_external_data=False).graph.initializer:
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                assert len(tensor.raw_data) <= 64  # shapes and scalars


def test_separate_classifiers_lie_in_the_shell_of_their_own_head_count(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    checkpoint = twelve_heads(make_checkpoint, separate_classifiers=(3, 6, 12))
    artifacts = SHARED.write(checkpoint, (3, 12), tmp_path / "out")
    SHARED.verify(checkpoint, artifacts, tmp_path / "out")
    classifiers = {
        location: sorted(name for _at, _length, name in ranges if name.startswith("head"))
        for location, ranges in extents(artifacts, tmp_path / "out").items()
    }
    assert classifiers == {
        "tiny-shared-k3.bin": ["head.k3.bias", "head.k3.weight"],
        "tiny-shared-k12.bin": ["head.k12.bias", "head.k12.weight"],
    }


def test_shared_and_separate_give_the_same_logits(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = twelve_heads(make_checkpoint)
    logits = []
    for kind in ("separate", "shared"):
        case = Case(ONNX, kind, "fp32")
        artifact = case.write(checkpoint, (3, 6, 12), tmp_path / kind)[1]
        session = ONNX.load(tmp_path / kind / artifact.path, 6, threads=1)
        logits.append(session.run(given(checkpoint, artifact.spec)))
    np.testing.assert_array_equal(logits[0], logits[1])
