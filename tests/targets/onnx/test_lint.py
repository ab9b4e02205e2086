"""Each promise about ONNX files, broken on purpose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
import pytest

from hydra_export import targets
from hydra_export.errors import CheckFailed
from hydra_export.target import ExportSpec, GraphKind, Precision
from tests.targets.conftest import MakeCheckpoint

ONNX = targets.get("onnx")
Change = Callable[[onnx.ModelProto], object]


class Break(Protocol):
    """Writes a graph, checks that it is good, changes it, and says where it is."""

    def __call__(self, kind: GraphKind, change: Change, precision: Precision = "fp32") -> Path: ...


@pytest.fixture
def broken(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> Break:
    """The path of a graph that was good, then changed."""

    def make(kind: GraphKind, change: Change, precision: Precision = "fp32") -> Path:
        (tmp_path / "out").mkdir()
        spec = ExportSpec(graph=kind, precision=precision)
        artifacts = ONNX.write(make_checkpoint(head_dim=16), (1, 2), spec, tmp_path / "out")
        artifact = artifacts[0 if kind == "universal" else -1]
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


def _reshape(graph: onnx.GraphProto, source: str, sizes: list[int], name: str) -> None:
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(sizes), f"{name}/sizes"))
    graph.node.add(op_type="Reshape", name=name, input=[source, f"{name}/sizes"], output=[name])


def _rank_5(model: onnx.ModelProto) -> None:
    _reshape(model.graph, "patch_embed/Conv", [1, 1, 1, 1, -1], "five")


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


def _foreign_operator(model: onnx.ModelProto) -> None:
    model.graph.node.add(op_type="Expand", name="more", input=["patch_embed/Conv", "cls/axis"], output=["more"])


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
        (_foreign_operator, r"it uses operators \['Expand'\]"),
        (_missing_input, "nowhere"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_a_file_that_breaks_a_promise_is_refused(broken: Break, change: Change, said: str) -> None:
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
def test_weights_that_lie_elsewhere_are_refused(broken: Break, entries: dict[str, str | None]) -> None:
    path = broken("shared", _moved(**entries))
    with pytest.raises(CheckFailed) as caught:
        ONNX.lint(path)
    assert str(path) in str(caught.value)


def test_a_linked_weight_file_is_refused(broken: Break) -> None:
    path = broken("shared", lambda _model: None)
    shell = path.with_name("tiny-shared-k2.bin")
    shell.rename(path.parent.parent / "elsewhere.bin")
    shell.symlink_to(path.parent.parent / "elsewhere.bin")
    with pytest.raises(CheckFailed):
        ONNX.lint(path)


def test_a_truncated_weight_file_is_refused(broken: Break) -> None:
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


def test_a_name_that_is_not_utf8_is_refused(broken: Break) -> None:
    path = broken("shared", lambda _model: None)
    path.write_bytes(path.read_bytes().replace(b"length", b"l\xffngth", 1))
    with pytest.raises(CheckFailed, match="is not UTF-8"):
        ONNX.lint(path)


# Branches: what is inside of them is held to the same


def _branch(model: onnx.ModelProto) -> onnx.GraphProto:
    """That of two heads."""
    node = next(node for node in model.graph.node if node.name == "k2/If")
    branch: onnx.GraphProto = next(attribute.g for attribute in node.attribute if attribute.name == "then_branch")
    return branch


def _unused_inside(model: onnx.ModelProto) -> None:
    _branch(model).initializer.append(onnx.numpy_helper.from_array(np.zeros(3, np.float32), "left over"))


def _rank_5_inside(model: onnx.ModelProto) -> None:
    _reshape(_branch(model), "k2/patch_embed/Conv", [1, 1, 1, 1, -1], "five")


def _unknown_shape_inside(model: onnx.ModelProto) -> None:
    _reshape(_branch(model), "k/NonZero", [-1], "places")
    _branch(model).node.add(
        op_type="Reshape", name="unknown", input=["k2/patch_embed/Conv", "places"], output=["unknown"]
    )


def _outside_data_inside(model: onnx.ModelProto) -> None:
    tensor = _branch(model).initializer.add(name="secret", dims=[1], data_type=1)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    _branch(model).node.add(op_type="Identity", name="read", input=["secret"], output=["read"])


def _beyond_the_end_inside(model: onnx.ModelProto) -> None:
    tensor = _branch(model).initializer.add(name="far", dims=[1], data_type=1)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "tiny-universal.bin"), ("offset", str(10**9)), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    _branch(model).node.add(op_type="Identity", name="read", input=["far"], output=["read"])


def _if_in_an_if(model: onnx.ModelProto) -> None:
    copied = onnx.NodeProto()
    copied.CopyFrom(next(node for node in model.graph.node if node.name == "k1/If"))
    copied.name, copied.output[0] = "deep", "deep"
    _branch(model).node.append(copied)


def _foreign_operator_inside(model: onnx.ModelProto) -> None:
    _branch(model).node.add(op_type="Tile", name="more", input=["k2/patch_embed/Conv", "k2/cls/axis"], output=["more"])


def _loop(model: onnx.ModelProto) -> None:
    inputs = [onnx.helper.make_tensor_value_info(name, kind, []) for name, kind in (("i", 7), ("go", 9))]
    outputs = [onnx.helper.make_tensor_value_info(name, kind, []) for name, kind in (("go_on", 9), ("seen", 7))]
    nodes = [onnx.helper.make_node("Identity", [a], [b]) for a, b in (("go", "go_on"), ("i", "seen"))]
    body = onnx.helper.make_graph(nodes, "body", inputs, outputs)
    model.graph.node.append(onnx.helper.make_node("Loop", ["", ""], ["all_seen"], name="loop", body=body))


def _constant_inside(model: onnx.ModelProto) -> None:
    node = _branch(model).node.add(op_type="Constant", name="inside", output=["inside"])
    node.attribute.append(onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(np.zeros(1, np.float32))))


def _missing_input_inside(model: onnx.ModelProto) -> None:
    _branch(model).node[3].input[0] = "nowhere"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_unused_inside, "initializer left over is not used"),
        (_rank_5_inside, "five has rank 5"),
        (_unknown_shape_inside, "the shape of unknown cannot be inferred"),
        (_outside_data_inside, "secret"),
        (_beyond_the_end_inside, "far is beyond the end of 'tiny-universal.bin'"),
        (_if_in_an_if, "deep has a graph inside"),
        (_foreign_operator_inside, r"it uses operators \['Tile'\]"),
        (_loop, "loop has a graph inside"),
        (_constant_inside, "inside has a tensor or graphs inside"),
        (_missing_input_inside, "nowhere"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_a_branch_that_breaks_a_promise_is_refused(broken: Break, change: Change, said: str) -> None:
    path = broken("universal", change)
    with pytest.raises(CheckFailed, match=said) as caught:
        ONNX.lint(path)
    assert str(path) in str(caught.value)


# Precisions: a quantization that did nothing is an error


def _said(precision: str) -> Change:
    """The file says that it is of another precision."""

    def change(model: onnx.ModelProto) -> None:
        next(entry for entry in model.metadata_props if entry.key == "hydra_export.precision").value = precision

    change.__name__ = f"said_{precision}"
    return change


def _widened(model: onnx.ModelProto) -> None:
    """One weight as float32; the graph stays valid."""
    index, tensor = next((i, t) for i, t in enumerate(model.graph.initializer) if t.name == "blocks.1.mlp.fc2.weight")
    wide = onnx.numpy_helper.to_array(tensor).astype(np.float32)
    node = model.graph.node.add(op_type="Cast", name="narrow", input=["wide"], output=[tensor.name])
    node.attribute.append(onnx.helper.make_attribute("to", tensor.data_type))
    model.graph.initializer.append(onnx.numpy_helper.from_array(wide, "wide"))
    del model.graph.initializer[index]
    model.graph.node.insert(0, node)
    del model.graph.node[-1]


def _float_product(model: onnx.ModelProto) -> None:
    """A Linear that stayed as it was."""
    weight = onnx.numpy_helper.from_array(np.zeros((2, 2), np.float32), "small")
    model.graph.initializer.append(weight)
    model.graph.node.add(op_type="Gemm", name="kept", input=["small", "small"], output=["kept"])


@pytest.mark.parametrize(
    ("precision", "change", "said"),
    [
        ("fp16", _widened, r"initializer wide is float \[128, 32\] in a file that is fp16"),
        ("int8", _widened, r"initializer wide is float \[128, 32\] in a file that is int8"),
        ("int8", _float_product, r"it is int8 and its products are \['Gemm', 'MatMulInteger'\]"),
        ("fp32", _said("int8"), "is float .* in a file that is int8"),
        ("fp32", _said("fp16"), "is float .* in a file that is fp16"),
        ("fp16", _said("fp32"), "is float16 .* in a file that is fp32"),
        ("int8", _said("fp32"), "is int8 .* in a file that is fp32"),
        ("int8", _said("int4"), "its precision is 'int4'"),
        ("int8", lambda model: model.ClearField("metadata_props"), "its precision is ''"),
    ],
)
def test_weights_of_another_precision_than_the_file_says_are_refused(
    broken: Break, precision: Precision, change: Change, said: str
) -> None:
    with pytest.raises(CheckFailed, match=said):
        ONNX.lint(broken("separate", change, precision))


def test_a_file_that_says_int8_without_a_product_of_integers_is_refused(broken: Break) -> None:
    def change(model: onnx.ModelProto) -> None:
        del model.graph.node[:], model.graph.initializer[:]
        model.graph.output[0].CopyFrom(model.graph.input[0])
        model.graph.output[0].name = "logits"
        model.graph.node.add(op_type="Identity", name="nothing", input=["image"], output=["logits"])

    with pytest.raises(CheckFailed, match=r"it is int8 and its products are \[\]"):
        ONNX.lint(broken("separate", change, "int8"))


def test_a_file_that_says_fp32_with_a_product_of_integers_is_refused(broken: Break) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((2, 2), np.int8), "small"))
        model.graph.node.add(op_type="MatMulInteger", name="more", input=["small", "small"], output=["more"])

    with pytest.raises(CheckFailed, match=r"it is fp32 and its products are \['Gemm', 'MatMulInteger'\]"):
        ONNX.lint(broken("separate", change))
