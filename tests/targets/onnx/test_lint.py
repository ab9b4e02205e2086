"""Each promise about ONNX files, broken on purpose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from hydra_export import targets
from hydra_export.errors import CheckFailed
from hydra_export.target import ExportSpec, GraphKind
from tests.targets.conftest import MakeCheckpoint

ONNX = targets.get("onnx")
Change = Callable[[onnx.ModelProto], object]


@pytest.fixture
def broken(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> Callable[[GraphKind, Change], Path]:
    """The path of a graph that was good, then changed."""

    def make(kind: GraphKind, change: Change) -> Path:
        (tmp_path / "out").mkdir()
        artifact = ONNX.write(make_checkpoint(), (1, 2), ExportSpec(graph=kind), tmp_path / "out")[-1]
        path = tmp_path / "out" / artifact.path
        ONNX.lint(path)
        model = onnx.load(path, load_external_data=False)
        change(model)
        path.write_bytes(model.SerializeToString())
        return path

    return make


def _external(model: onnx.ModelProto) -> onnx.TensorProto:
    (index,) = [i for i, t in enumerate(model.graph.initializer) if t.name == "patch_embed.weight[1:2]"]
    tensor: onnx.TensorProto = model.graph.initializer[index]
    return tensor


def _moved(**entries: str | None) -> Change:
    """Changes where the data of one weight lies; None takes an entry out."""

    def change(model: onnx.ModelProto) -> None:
        tensor = _external(model)
        kept = {entry.key: entry.value for entry in tensor.external_data} | entries
        del tensor.external_data[:]
        for key, value in kept.items():
            if value is not None:
                tensor.external_data.add(key=key, value=value)

    return change


def _ir_version(model: onnx.ModelProto) -> None:
    model.ir_version = 14  # the default of onnx 1.23, refused by older runtimes


def _opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 24
    model.ir_version = 11


def _foreign_domain(model: onnx.ModelProto) -> None:
    model.opset_import.add(domain="com.microsoft", version=1)
    model.graph.node.add(op_type="Gelu", domain="com.microsoft", name="gelu", input=["logits"], output=["more"])


def _unused_initializer(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(
        onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(model.graph.initializer[0]), "left over")
    )


def _rank_5(model: onnx.ModelProto) -> None:
    model.graph.node.add(op_type="Unsqueeze", name="five", input=["patch_embed/Conv", "cls/axis"], output=["five"])


def _rank_5_initializer(model: onnx.ModelProto) -> None:
    weight = next(t for t in model.graph.initializer if t.name == "cls/start")
    weight.dims[:] = [1, 1, 1, 1, 1]


def _constant_with_outside_data(model: onnx.ModelProto) -> None:
    node = model.graph.node.add(op_type="Constant", name="secret", output=["secret"])
    tensor = onnx.TensorProto(name="secret", dims=[1], data_type=1, data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret")
    node.attribute.append(onnx.helper.make_attribute("value", tensor))


def _unknown_shape(model: onnx.ModelProto) -> None:
    del model.graph.input[0].type.tensor_type.shape.dim[:]
    model.graph.input[0].type.tensor_type.ClearField("shape")


def _missing_input(model: onnx.ModelProto) -> None:
    model.graph.node[3].input[0] = "nowhere"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_ir_version, "IR version is 14, the lowest for opset 17 is 8"),
        (_opset, "opset 24"),
        (_foreign_domain, r"operators of \['com.microsoft'\]"),
        (_unused_initializer, "initializer left over is not used"),
        (_rank_5, "five has rank 5"),
        (_rank_5_initializer, "rank"),
        (_constant_with_outside_data, "secret"),
        (_unknown_shape, "shape"),
        (_missing_input, "nowhere"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_a_file_that_breaks_a_promise_is_refused(
    broken: Callable[[GraphKind, Change], Path], change: Change, said: str
) -> None:
    path = broken("separate", change)
    with pytest.raises(CheckFailed, match=said) as caught:
        ONNX.lint(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "entries",
    [
        {"location": "../x"},
        {"location": "/etc/hostname"},
        {"location": "./../out/tiny-shared-k1.bin"},
        {"location": ""},
        {"location": "."},
        {"location": "missing.bin"},
        {"location": None},
        {"offset": "1000000"},
        {"offset": str(2**63)},
        {"offset": "-64"},
        {"offset": "x"},
        {"offset": None},
        {"length": "1000000"},
        {"length": str(2**50)},
        {"length": "-4"},
        {"length": "0"},
        {"length": "8"},
        {"length": None},
    ],
    ids=str,
)
def test_weights_that_lie_elsewhere_are_refused(
    broken: Callable[[GraphKind, Change], Path], entries: dict[str, str | None]
) -> None:
    path = broken("shared", _moved(**entries))
    with pytest.raises(CheckFailed) as caught:
        ONNX.lint(path)
    assert str(path) in str(caught.value)


def test_a_linked_weight_file_is_refused(broken: Callable[[GraphKind, Change], Path]) -> None:
    path = broken("shared", lambda _model: None)
    shell = path.with_name("tiny-shared-k2.bin")
    shell.rename(path.parent.parent / "elsewhere.bin")
    shell.symlink_to(path.parent.parent / "elsewhere.bin")
    with pytest.raises(CheckFailed):
        ONNX.lint(path)


def test_a_truncated_weight_file_is_refused(broken: Callable[[GraphKind, Change], Path]) -> None:
    path = broken("shared", lambda _model: None)
    shell = path.with_name("tiny-shared-k2.bin")
    shell.write_bytes(shell.read_bytes()[:-1])
    with pytest.raises(CheckFailed, match=r"beyond the end of 'tiny-shared-k2\.bin'"):
        ONNX.lint(path)


@pytest.mark.parametrize("content", [b"", b"\x00", b"not a model", b"\x08\x08" * 50, bytes(range(256))])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(CheckFailed, match=r"x\.onnx"):
        ONNX.lint(path)


def test_a_name_that_is_not_utf8_is_refused(broken: Callable[[GraphKind, Change], Path]) -> None:
    path = broken("shared", lambda _model: None)
    path.write_bytes(path.read_bytes().replace(b"length", b"l\xffngth", 1))
    with pytest.raises(CheckFailed, match="is not UTF-8"):
        ONNX.lint(path)
