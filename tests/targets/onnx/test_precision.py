"""fp16 and int8 weights: what is in the files, and what it computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnxruntime.quantization import QuantType, quantize_dynamic

from hydra_export import checkpoint as checkpoints
from hydra_export import parity, targets
from hydra_export.checkpoint import Checkpoint
from hydra_export.data.packaged import packaged_images
from hydra_export.target import Artifact, ExportSpec, GraphKind, InputForm, Precision
from hydra_export.targets.onnx import universal
from tests.targets.conftest import Case, MakeCheckpoint, given, pixels
from tests.targets.onnx.test_graph import op_counts, with_branches

ONNX = targets.get("onnx")
KINDS = pytest.mark.parametrize("kind", ONNX.graphs)
FORMS = pytest.mark.parametrize("form", ["tensor", "image"])
NARROW: tuple[Precision, ...] = ("fp16", "int8")
# Eight bits, through two blocks of few channels.
SMALLEST_COSINE = 0.99


@pytest.fixture(params=["branches", "slices"])
def slices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the graph that takes the head count has one body or a branch for each."""
    if request.param == "slices":
        monkeypatch.setattr(universal, "_MOST_COPIES", 0.0)
        monkeypatch.setattr(universal, "_MOST_BYTES", 0)
    return bool(request.param == "slices")


def cosines(checkpoint: Checkpoint, artifacts: list[Artifact], out: Path) -> list[float]:
    """The smallest of each artifact and head count, against PyTorch; every graph passes lint."""
    data, images = checkpoint.info.preprocessing, pixels(checkpoint.info.config)
    found = []
    for artifact in artifacts:
        ONNX.lint(out / artifact.path)
        for k in artifact.heads:
            logits = ONNX.load(out / artifact.path, k).run(given(checkpoint, artifact.spec))
            found.append(parity.compare(logits, parity.reference(checkpoint.model, k, images, data)).cosine)
    return found


def weights_of(path: Path) -> dict[str, NDArray[Any]]:
    """The initializers with more than a number, by name."""
    return {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for graph in with_branches(onnx.load(path).graph)
        for tensor in graph.initializer
        if tensor.dims and tensor.data_type != onnx.TensorProto.INT64
    }


# fp16


@KINDS
@FORMS
@pytest.mark.parametrize("opset", [13, *(pytest.param(opset, marks=pytest.mark.slow) for opset in (17, 20)), 23])
@pytest.mark.usefixtures("slices")
def test_fp16_computes_the_rounded_subnetworks_of_every_kind(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, kind: GraphKind, form: InputForm, opset: int
) -> None:
    checkpoint, case = make_checkpoint(layer_scale=0.5), Case(ONNX, kind, "fp16")
    artifacts = case.write(checkpoint, (1, 2, 4), tmp_path / "out", input=form, opset=opset)
    for artifact in artifacts:
        ONNX.lint(tmp_path / "out" / artifact.path)
    case.verify(checkpoint, artifacts, tmp_path / "out")


def test_fp16_weights_are_the_rounded_ones_whichever_form_images_have(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint()
    found = {}
    for form in ("tensor", "image"):
        (artifact,) = Case(ONNX, "separate", "fp16").write(checkpoint, (2,), tmp_path / form, input=form)
        found[form] = weights_of(tmp_path / form / artifact.path)
    normalisation = {name: found["image"].pop(name) for name in ("image/mean", "image/std")}
    assert {array.shape for array in normalisation.values()} == {(1, 3, 1, 1)}
    expected = checkpoint.model.weights(2)
    tokens = expected.pop("tokens")
    expected |= {"tokens.prefix": tokens[:, :1], "tokens.positions": tokens[:, 1:]}
    assert found["tensor"].keys() == found["image"].keys() == expected.keys()
    for name, tensor in expected.items():
        rounded = tensor.half().numpy()
        for arrays in found.values():
            assert arrays[name].dtype == np.float16
            np.testing.assert_array_equal(
                arrays[name], rounded.T if name.endswith(".weight") and rounded.ndim == 2 else rounded
            )


@KINDS
def test_fp16_takes_half_the_bytes(make_checkpoint: MakeCheckpoint, tmp_path: Path, kind: GraphKind) -> None:
    total = {
        precision: _weight_bytes(Case(ONNX, kind, precision), make_checkpoint(head_dim=16), tmp_path)
        for precision in ("fp32", "fp16")
    }
    assert total["fp16"] == pytest.approx(total["fp32"] / 2, rel=0.02)  # blocks begin at whole cache lines


# int8


@KINDS
@FORMS
@pytest.mark.parametrize("opset", [13, *(pytest.param(opset, marks=pytest.mark.slow) for opset in (17, 20)), 23])
@pytest.mark.usefixtures("slices")
def test_int8_computes_nearly_the_subnetworks_of_every_kind(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, kind: GraphKind, form: InputForm, opset: int
) -> None:
    checkpoint = make_checkpoint(layer_scale=0.5)
    artifacts = Case(ONNX, kind, "int8").write(checkpoint, (1, 2, 4), tmp_path / "out", input=form, opset=opset)
    assert min(cosines(checkpoint, artifacts, tmp_path / "out")) > SMALLEST_COSINE


@KINDS
@pytest.mark.parametrize("batch", [3, "dynamic"])
@pytest.mark.parametrize("architecture", [{"separate_classifiers": (2, 4)}, {"num_classes": 0}, {"depth": 1}], ids=str)
@pytest.mark.usefixtures("slices")
def test_int8_of_every_architecture_and_batch(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, kind: GraphKind, batch: int | str, architecture: dict[str, object]
) -> None:
    checkpoint = make_checkpoint(**architecture)
    artifacts = Case(ONNX, kind, "int8").write(checkpoint, (2, 4), tmp_path / "out", batch=batch)
    assert min(cosines(checkpoint, artifacts, tmp_path / "out")) > SMALLEST_COSINE


def test_int8_has_the_operators_that_onnxruntime_s_own_quantization_gives(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = make_checkpoint()
    (wide,) = Case(ONNX, "separate", "fp32").write(checkpoint, (2,), tmp_path / "fp32")
    (narrow,) = Case(ONNX, "separate", "int8").write(checkpoint, (2,), tmp_path / "int8")
    peer = tmp_path / "peer.onnx"
    with caplog.at_level("ERROR"):  # it warns that the graph was not prepared
        quantize_dynamic(
            tmp_path / "fp32" / wide.path,
            peer,
            per_channel=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm"],
        )
    ours = tmp_path / "int8" / narrow.path
    assert op_counts(onnx.load(ours)) == op_counts(onnx.load(peer))
    image = given(checkpoint, narrow.spec)
    exact = exact_logits(ours, image)
    # Theirs uses the eighth bit of each weight, which some of onnxruntime's kernels cannot multiply: never run there.
    np.testing.assert_allclose(exact, exact_logits(peer, image), atol=0.05)
    # Float32 noise decides the rounding of a few activations: none or one step of one of them.
    np.testing.assert_allclose(ONNX.load(ours, 2).run(image), exact, atol=0.01)


def exact_logits(path: Path, image_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the standard says that a graph computes: onnx's evaluator multiplies integers in numpy, in 32 bits."""
    run = cast("Callable[..., list[NDArray[np.float32]]]", ReferenceEvaluator(onnx.load(path)).run)
    return np.concatenate([run(None, {"image": one_CHW[None]})[0] for one_CHW in image_BCHW])


@KINDS
def test_every_linear_is_in_integers_and_attention_is_not(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, kind: GraphKind
) -> None:
    checkpoint = make_checkpoint()
    for artifact in Case(ONNX, kind, "int8").write(checkpoint, (1, 4), tmp_path / "out"):
        model = onnx.load(tmp_path / "out" / artifact.path)
        counts = Counter(node.op_type for graph in with_branches(model.graph) for node in graph.node)
        bodies, depth = len(artifact.heads), checkpoint.info.config.depth
        assert counts["MatMulInteger"] == bodies * (6 * depth + 1)
        # q, k and v share one quantized input, but in the last block, where q is of the class token alone.
        assert counts["DynamicQuantizeLinear"] == bodies * (4 * depth + 2)
        assert counts["MatMul"] == bodies * 2 * depth
        assert counts["Gemm"] == 0


@pytest.mark.parametrize("heads", [2, 4])
def test_int8_weights_are_the_nearest_in_units_of_their_channel(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, heads: int
) -> None:
    checkpoint = make_checkpoint()
    (artifact,) = Case(ONNX, "separate", "int8").write(checkpoint, (heads,), tmp_path / "out")
    found, expected = weights_of(tmp_path / "out" / artifact.path), checkpoint.model.weights(heads)
    quantized = [name for name, array in found.items() if array.dtype == np.int8]
    assert len(quantized) == 6 * 2 + 1
    for name in quantized:
        wanted_IO, scale_O = expected[name].detach().numpy().T, found[name.replace(".weight", ".scale")]
        np.testing.assert_allclose(found[name] * scale_O, wanted_IO, atol=float(scale_O.max()) * 0.501)
        largest_O = np.abs(wanted_IO).max(axis=0)
        assert (scale_O >= largest_O / 127 * (1 - 1e-6)).all()
        assert (scale_O <= 2 * largest_O / 127).all()  # no channel is coarser than seven bits
        assert np.abs(found[name]).max() > 100


@KINDS
@pytest.mark.parametrize("architecture", [{}, {"head_dim": 1, "mlp_ratio": 1.0}, {"head_dim": 3}], ids=str)
def test_two_products_of_integers_never_saturate_in_sixteen_bits(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, kind: GraphKind, architecture: dict[str, object]
) -> None:
    checkpoint = make_checkpoint(**architecture)
    for artifact in Case(ONNX, kind, "int8").write(checkpoint, (1, 3, 4), tmp_path / "out"):
        matrices = [array for array in weights_of(tmp_path / "out" / artifact.path).values() if array.dtype == np.int8]
        assert matrices
        for matrix in matrices:
            rows = np.concatenate([matrix, np.zeros((len(matrix) % 2, matrix.shape[1]))]).astype(int)
            pairs = rows.reshape(-1, 2, matrix.shape[1])
            assert 255 * np.clip(pairs, 0, None).sum(axis=1).max() < 2**15
            assert 255 * np.clip(pairs, None, 0).sum(axis=1).min() >= -(2**15)


def test_a_channel_of_zeros_stays_zero(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    checkpoint.model.state_dict()["blocks.0.mlp.fc1.weight"][3] = 0.0
    (artifact,) = Case(ONNX, "separate", "int8").write(checkpoint, (2,), tmp_path / "out")
    found = weights_of(tmp_path / "out" / artifact.path)
    assert not found["blocks.0.mlp.fc1.weight"][:, 3].any()
    assert found["blocks.0.mlp.fc1.scale"][3] == 1.0
    assert min(cosines(checkpoint, [artifact], tmp_path / "out")) > SMALLEST_COSINE


@pytest.mark.parametrize("kind", ["shared", "universal"])
def test_one_stored_integer_serves_every_head_count(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, kind: GraphKind
) -> None:
    checkpoint = make_checkpoint()
    case = Case(ONNX, kind, "int8")
    narrow, wide = (
        _weight_bytes(case, checkpoint, tmp_path),
        _weight_bytes(Case(ONNX, kind, "fp32"), checkpoint, tmp_path),
    )
    (alone,) = Case(ONNX, "separate", "int8").write(checkpoint, (4,), tmp_path / "alone")
    payload = sum(array.nbytes for array in weights_of(tmp_path / "alone" / alone.path).values())
    num_blocks = 3 * (6 * 2 * 6 + 10)  # at most so many are padded to whole cache lines
    assert payload <= narrow <= payload + 64 * num_blocks
    assert narrow < wide


@KINDS
def test_int8_of_a_wide_model_takes_a_good_quarter(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, kind: GraphKind
) -> None:
    checkpoint = make_checkpoint(head_dim=64, depth=3)
    total = {
        precision: _weight_bytes(Case(ONNX, kind, precision), checkpoint, tmp_path) for precision in ("fp32", "int8")
    }
    assert 0.25 < total["int8"] / total["fp32"] <= 0.28


@pytest.mark.parametrize("kind", ["separate", "shared"])
def test_the_packaged_model_keeps_its_accuracy_in_int8(tmp_path: Path, kind: GraphKind) -> None:
    checkpoint = checkpoints.load()
    images = packaged_images(checkpoint.info.preprocessing)
    artifacts = Case(ONNX, kind, "int8").write(checkpoint, (3, 12), tmp_path / "out", input="image")
    for artifact in artifacts:
        (k,) = artifact.heads
        logits = ONNX.load(tmp_path / "out" / artifact.path, k, threads=1).run(images.pixels)
        accuracy = 100 * float((logits.argmax(axis=1) == images.labels).mean())
        reference = parity.reference(checkpoint.model, k, images.pixels, checkpoint.info.preprocessing, "int8")
        expected = 100 * float((reference.torch_fp32.argmax(axis=1) == images.labels).mean())
        record = parity.compare(logits, reference)
        assert accuracy > expected - 0.6
        assert record.top1_agreement > 0.99
        assert record.cosine > 0.997


def test_the_precision_is_in_every_name_and_file(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    (tmp_path / "out").mkdir()
    written: list[str] = []
    for precision in ("fp32", *NARROW):
        for kind in ONNX.graphs:
            spec = ExportSpec(graph=kind, precision=precision)
            for artifact in ONNX.write(checkpoint, (1, 4), spec, tmp_path / "out"):
                written += artifact.files
                said = {entry.key: entry.value for entry in onnx.load(tmp_path / "out" / artifact.path).metadata_props}
                assert said["hydra_export.precision"] == precision
                assert all((f"-{precision}." in name) == (precision != "fp32") for name in artifact.files)
    for name in set(written):  # and none replaced another
        if name.endswith(".onnx"):
            ONNX.lint(tmp_path / "out" / name)


def _weight_bytes(case: Case, checkpoint: Checkpoint, tmp_path: Path) -> int:
    """Of the weights of heads 1, 2 and 4, in the graphs or beside them."""
    out = tmp_path / f"{case.graph}-{case.precision}"
    artifacts = case.write(checkpoint, (1, 2, 4), out)
    beside = sum(path.stat().st_size for path in out.iterdir() if path.suffix == ".bin")
    if beside:
        return beside
    return sum(array.nbytes for artifact in artifacts for array in weights_of(out / artifact.path).values())
