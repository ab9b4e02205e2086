"""fp16 and int8 weights: what is in the files, what it computes, and files that say one thing and hold another."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hydra_export import parity
from hydra_export.checkpoint import Checkpoint
from hydra_export.errors import CheckFailed
from hydra_export.target import Artifact, GraphKind, InputForm, Precision
from hydra_export.targets.tflite import reader
from hydra_export.targets.tflite.operators import OPERATORS
from tests.targets.conftest import Case, MakeCheckpoint, given, pixels
from tests.targets.tflite.conftest import TFLITE, MakeFile, changed, loaded

KINDS = pytest.mark.parametrize("kind", TFLITE.graphs)
FORMS = pytest.mark.parametrize("form", ["tensor", "image"])
NARROW = pytest.mark.parametrize("precision", ["fp16", "int8"])
_NAMES = {(operator.code, operator.version): f"{operator.name}/{operator.version}" for operator in OPERATORS}


def constants(path: Path) -> dict[str, NDArray[Any]]:
    """The weights of the largest subnetwork, by name."""
    model = loaded(path)
    content = path.read_bytes()
    dtypes = {0: "<f4", 1: "<f2", 9: "i1"}
    found = {}
    graph = max(model.subgraphs, key=lambda graph: len(graph.tensors))
    for tensor in graph.tensors:
        buffer = model.buffers[tensor.buffer]
        if tensor.type in dtypes and tensor.buffer:
            data = content[buffer.offset : buffer.offset + buffer.size] if buffer.offset else bytes(buffer.data)
            found[tensor.name.decode().rpartition("/")[2]] = np.frombuffer(data, dtypes[tensor.type]).reshape(
                tuple(tensor.shape)
            )
    return found


def scales(path: Path) -> dict[str, NDArray[np.float32]]:
    graph = max(loaded(path).subgraphs, key=lambda graph: len(graph.tensors))
    return {t.name.decode().rpartition("/")[2]: np.asarray(t.quantization.scale) for t in graph.tensors if t.type == 9}


def ops(path: Path) -> Counter[str]:
    model = reader.read(path)
    return Counter(_NAMES[model.opcodes[operation.opcode]] for graph in model.graphs for operation in graph.operations)


def cosines(checkpoint: Checkpoint, artifacts: list[Artifact], out: Path) -> list[float]:
    """The smallest of each artifact and head count, against PyTorch."""
    data, images = checkpoint.info.preprocessing, pixels(checkpoint.info.config)
    found = []
    for artifact in artifacts:
        for k in artifact.heads:
            logits = TFLITE.load(out / artifact.path, k).run(given(checkpoint, artifact.spec))
            found.append(parity.compare(logits, parity.reference(checkpoint.model, k, images, data)).cosine)
    return found


@KINDS
@NARROW
def test_files_are_called_after_their_precision(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, kind: GraphKind, precision: Precision
) -> None:
    artifacts = Case(TFLITE, kind, precision).write(make_checkpoint(), (1, 2), tmp_path / "out")
    which = ["universal"] if kind == "universal" else ["k1", "k2"]
    assert [artifact.path for artifact in artifacts] == [f"tiny-{part}-{precision}.tflite" for part in which]


@FORMS
def test_fp16_weights_are_the_rounded_ones_whichever_form_images_have(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, form: InputForm
) -> None:
    checkpoint = make_checkpoint()
    (artifact,) = Case(TFLITE, "separate", "fp16").write(checkpoint, (2,), tmp_path / "out", input=form)
    found = {name: array for name, array in constants(tmp_path / "out" / artifact.path).items() if array.size > 3}
    expected = checkpoint.model.weights(2)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        rounded = tensor.half().numpy()
        assert found[name].dtype == np.float16
        np.testing.assert_array_equal(
            found[name], rounded.transpose(0, 2, 3, 1) if name == "patch_embed.weight" else rounded
        )
    assert ops(tmp_path / "out" / artifact.path)["DEQUANTIZE/3"] == len(expected)


@KINDS
def test_int8_linears_are_rounded_to_scales_of_their_rows(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, kind: GraphKind
) -> None:
    checkpoint = make_checkpoint()
    (artifact,) = Case(TFLITE, kind, "int8").write(checkpoint, (4,), tmp_path / "out")
    path = tmp_path / "out" / artifact.path
    found, of_rows = constants(path), scales(path)
    assert len(of_rows) == 2 * 6 + 1  # every Linear
    for name, scale in of_rows.items():
        wide = checkpoint.model.weights(4)[name.partition("[")[0]].numpy()
        assert found[name].dtype == np.int8
        assert np.abs(found[name].astype(int)).max(axis=1).tolist() == [127] * len(scale)
        np.testing.assert_allclose(found[name] * scale[:, None], wide, rtol=0, atol=0.51 * scale.max())


@pytest.mark.parametrize("size", [0.0, 1e-40])
def test_int8_rows_of_nothing_are_zero(make_checkpoint: MakeCheckpoint, tmp_path: Path, size: float) -> None:
    checkpoint = make_checkpoint()
    rows = checkpoint.model.state_dict()["blocks.0.mlp.fc1.weight"]
    rows[3] = size
    (artifact,) = Case(TFLITE, "separate", "int8").write(checkpoint, (4,), tmp_path / "out")
    path = tmp_path / "out" / artifact.path
    assert not constants(path)["blocks.0.mlp.fc1.weight"][3].any()
    assert min(cosines(checkpoint, [artifact], tmp_path / "out")) > 0.99


def test_int8_of_several_head_counts_has_one_scale_per_row(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    """The numbers of a smaller subnetwork are the beginning of the largest one's: so their scales are."""
    (artifact,) = Case(TFLITE, "universal", "int8").write(make_checkpoint(), (1, 2, 4), tmp_path / "out")
    rows: dict[str, list[NDArray[np.float32]]] = {}
    for graph in loaded(tmp_path / "out" / artifact.path).subgraphs:
        for tensor in graph.tensors:
            if tensor.type == 9:
                rows.setdefault(tensor.name.decode().rpartition("/")[2].partition("[")[0], []).append(
                    tensor.quantization.scale
                )
    assert len(rows) == 13
    for name, found in rows.items():
        longest = max(found, key=len)
        assert len(found) == 6, name
        assert all(np.array_equal(scale, longest[: len(scale)]) for scale in found)


@KINDS
@FORMS
@pytest.mark.parametrize("batch", [3, "dynamic"])
def test_int8_computes_nearly_the_subnetworks(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, kind: GraphKind, form: InputForm, batch: int | str
) -> None:
    checkpoint = make_checkpoint(layer_scale=0.5)
    artifacts = Case(TFLITE, kind, "int8").write(checkpoint, (1, 2, 4), tmp_path / "out", input=form, batch=batch)
    assert min(cosines(checkpoint, artifacts, tmp_path / "out")) > 0.99


@KINDS
def test_int8_multiplies_int8_everywhere(make_checkpoint: MakeCheckpoint, tmp_path: Path, kind: GraphKind) -> None:
    artifacts = Case(TFLITE, kind, "int8").write(make_checkpoint(), (2,), tmp_path / "out")
    found = ops(tmp_path / "out" / artifacts[0].path)
    assert found["FULLY_CONNECTED/12"] == 2 * 6 + 1
    assert not found["FULLY_CONNECTED/5"] + found["FULLY_CONNECTED/6"] + found["DEQUANTIZE/3"]


@KINDS
@pytest.mark.parametrize(("precision", "share"), [("fp16", 0.5), ("int8", 0.3)])
def test_narrow_files_are_small(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, kind: GraphKind, precision: Precision, share: float
) -> None:
    sizes = []
    for each in ("fp32", precision):
        checkpoint = make_checkpoint(head_dim=64)
        (artifact,) = Case(TFLITE, kind, each).write(checkpoint, (4,), tmp_path / each)
        sizes.append((tmp_path / each / artifact.path).stat().st_size)
    assert sizes[1] < (share + 0.02) * sizes[0]


def test_xnnpack_multiplies_int8_itself(written: MakeFile) -> None:
    from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-untyped]

    for precision in ("fp16", "int8"):
        opened = Interpreter(str(written(precision=precision)))
        opened.allocate_tensors()
        names = [found["op_name"] for found in opened._get_ops_details()]
        assert names.count("DELEGATE") == 1
        (output,) = opened.get_output_details()
        (delegate,) = [found for found in opened._get_ops_details() if found["op_name"] == "DELEGATE"]
        assert list(delegate["outputs"]) == [output["index"]]


# lint


def _says(model: Any, precision: bytes) -> None:
    (entry,) = [entry for entry in model.metadata if entry.name == b"hydra_export.precision"]
    model.buffers[entry.buffer].data = np.frombuffer(precision, np.uint8)


def _scale(model: Any) -> Any:
    return next(t for t in model.subgraphs[0].tensors if t.type == 9).quantization


def _change_scale(value: float) -> Any:
    def change(model: Any) -> None:
        _scale(model).scale = np.array([value, *_scale(model).scale[1:]], np.float32)

    return change


def _zero_point(model: Any) -> None:
    _scale(model).zeroPoint = np.array([1, *_scale(model).zeroPoint[1:]], np.int64)


def _fewer_scales(model: Any) -> None:
    _scale(model).scale, _scale(model).zeroPoint = _scale(model).scale[1:], _scale(model).zeroPoint[1:]


def _other_dimension(model: Any) -> None:
    _scale(model).quantizedDimension = 1


def _no_scale(model: Any) -> None:
    next(t for t in model.subgraphs[0].tensors if t.type == 9).quantization = None


@pytest.mark.parametrize(
    ("precision", "change", "message"),
    [
        ("fp32", lambda model: _says(model, b"int8"), r"float32 \[\d+, \d+\] in a file that is int8"),
        ("fp32", lambda model: _says(model, b"fp16"), "is float32 .* in a file that is fp16"),
        ("fp16", lambda model: _says(model, b"fp32"), "is float16 .* in a file that is fp32"),
        ("fp16", lambda model: _says(model, b"int8"), "is float.* in a file that is int8"),
        ("int8", lambda model: _says(model, b"fp32"), "is int8 .* in a file that is fp32"),
        ("int8", lambda model: _says(model, b"fp16"), "is (int8|float32) .* in a file that is fp16"),
        ("int8", lambda model: _says(model, b"int4"), "its precision is 'int4'"),
        ("int8", _change_scale(0.0), "has a scale that is not valid"),
        ("int8", _change_scale(-1.0), "has a scale that is not valid"),
        ("int8", _change_scale(1e-39), "has a scale that is not valid"),  # XNNPACK refuses it
        ("int8", _change_scale(float("nan")), "has a scale that is not valid"),
        ("int8", _zero_point, "has an invalid zero point"),
        ("int8", _fewer_scales, "has 15 scales"),
        ("int8", _other_dimension, "QuantizationParameters .* has field 6, which these files do not have"),
        ("int8", _no_scale, "is int8 with or without a scale"),
    ],
    ids=lambda value: "change" if callable(value) else value,
)
def test_a_file_that_says_something_else_is_refused(
    written: MakeFile, precision: Precision, change: Any, message: str
) -> None:
    path = written(precision=precision)
    TFLITE.lint(path)
    changed(path, change)
    with pytest.raises(CheckFailed, match=message):
        TFLITE.lint(path)
