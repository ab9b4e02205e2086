"""Programs and descriptions that break a rule, or hold what the evaluator does not understand."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydra_export import mil
from hydra_export.errors import BadInput, CheckFailed
from tests.mil.conftest import (
    MODEL,
    add_const,
    add_input,
    add_operation,
    add_output,
    new_model,
    read_model,
    set_type,
    set_value,
    write_package,
)

Edit = Callable[[Any, Any], object]  # of a model and the block of its function


def doubling(ios: int = 18) -> tuple[Any, Any]:
    """A model that doubles what it is given."""
    model, block = new_model(ios)
    add_input(model, "x", "fp32", (2, 3))
    add_const(block, "two", np.array(2, np.float32))
    add_operation(block, "mul", {"x": "x", "y": "two"}, [("result", "fp32", (2, 3))])
    add_output(model, "result", "fp32", (2, 3))
    return model, block


def test_a_program_runs_and_says_what_it_is(tmp_path: Path) -> None:
    model, _ = doubling(16)
    model.description.metadata.author = "somebody"
    model.description.metadata.userDefined.add(key="colour", value="red")
    model.description.input[0].shortDescription = "A matrix."
    package = mil.load(write_package(tmp_path / "a.mlpackage", model))
    outputs = package.run({"x": np.arange(6, dtype=np.float32).reshape(2, 3)})
    assert outputs["result"].tolist() == [[0, 2, 4], [6, 8, 10]]
    assert (package.ios, package.default_function, package.weight_files) == (16, "main", ())
    assert (package.metadata, package.user_metadata) == ({"author": "somebody"}, {"colour": "red"})
    (given,), (result,) = package.signatures["main"].inputs, package.signatures["main"].outputs
    assert given == mil.Feature("x", "tensor", "fp32", (2, 3), description="A matrix.")
    assert (result.name, result.kind) == ("result", "tensor")
    assert package.functions["main"].operations == {"mul"}
    mil.check(package.path)


def test_several_runs_side_by_side_give_what_each_gives_alone(tmp_path: Path) -> None:
    package = mil.load(write_package(tmp_path / "a.mlpackage", doubling()[0]))
    batches = [{"x": np.full((2, 3), i, np.float32)} for i in range(3)]
    results = [outputs["result"].tolist() for outputs in package.run_each(batches)]
    assert results == [package.run(each)["result"].tolist() for each in batches]
    assert package.run_each([]) == []


def test_values_are_dropped_after_their_last_use(tmp_path: Path) -> None:
    model, block = new_model()
    add_input(model, "x0", "fp32", (2**18,))
    for index in range(40):
        add_operation(block, "erf", {"x": f"x{index}"}, [(f"x{index + 1}", "fp32", (2**18,))])
    add_output(model, "x40", "fp32", (2**18,))
    package = mil.load(write_package(tmp_path / "a.mlpackage", model))
    given = {"x0": np.zeros(2**18, np.float32)}
    package.run(given)  # what it imports is not a part of it
    tracemalloc.start()
    package.run(given)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 2**20 <= peak < 4 * 2**20  # of 40 MiB in all


@pytest.mark.parametrize(
    ("inputs", "function", "message"),
    [
        ({}, None, r"was given \[\]"),
        ({"x": np.zeros((2, 3)), "y": np.zeros(1)}, None, r"was given \['x', 'y'\]"),
        ({"x": np.zeros((3, 2))}, None, r"x has shape \[3, 2\]"),
        ({"x": np.zeros((2, 3))}, "other", "has no function 'other'"),
    ],
)
def test_wrong_inputs_are_refused(inputs: dict[str, Any], function: str | None, message: str, tmp_path: Path) -> None:
    package = mil.load(write_package(tmp_path / "a.mlpackage", doubling()[0]))
    with pytest.raises(BadInput, match=message) as refused:
        package.run(inputs, function)
    assert refused.value.remedy


def _operation(block: Any) -> Any:
    return block.operations[-1]


def _const(block: Any) -> Any:
    return block.operations[0]


def _function(model: Any) -> Any:
    return model.mlProgram.functions[0].value


def _other_block(model: Any, block: Any) -> None:
    _function(model).block_specializations.add(key="CoreML6").value.CopyFrom(block)


def _same_function_twice(model: Any, block: Any) -> None:
    model.mlProgram.functions.add(key="main").value.CopyFrom(_function(model))


def _undescribed_function(model: Any, block: Any) -> None:
    model.mlProgram.functions.add(key="other").value.CopyFrom(_function(model))


def _image(model: Any, block: Any) -> None:
    image = model.description.input[0].type.imageType
    image.width, image.height, image.colorSpace = 3, 2, 20


def _list_constant(model: Any, block: Any) -> None:
    _const(block).attributes[1].value.CopyFrom(type(_const(block).attributes[1].value)())
    set_value(_const(block).attributes[1].value, ["a"])


def _unused_nan(model: Any, block: Any) -> None:
    add_operation(block, "mul", {"x": "late", "y": "two"}, [("unused", "fp32", (2, 3))])


REFUSED: list[tuple[str, Edit]] = [
    ("specification version 10 is not supported", lambda m, b: setattr(m, "specificationVersion", 10)),
    ("specification version 5 is not supported", lambda m, b: setattr(m, "specificationVersion", 5)),
    ("not an ML Program of version 1", lambda m, b: setattr(m.mlProgram, "version", 2)),
    ("not an ML Program of version 1", lambda m, b: m.ClearField("mlProgram")),
    ("needs iOS 18, but the model states 17", lambda m, b: setattr(m, "specificationVersion", 8)),
    ("the program has the attribute 'x'", lambda m, b: m.mlProgram.attributes.add(key="x")),
    ("the same function occurs twice", _same_function_twice),
    ("describes functions .'main'. but contains .'main', 'other'.", _undescribed_function),
    ("opset 'CoreML9' is not known", lambda m, b: setattr(_function(m), "opset", "CoreML9")),
    ("it has code for", _other_block),
    ("it has code for", lambda m, b: setattr(_function(m), "opset", "CoreML7")),
    ("a function is described twice", lambda m, b: [m.description.functions.add(name="main") for _ in range(2)]),
    ("inputs and outputs outside any function", lambda m, b: m.description.functions.add(name="main")),
    ("describes functions .'other'.", lambda m, b: setattr(m.description, "defaultFunctionName", "other")),
    ("inputs ..* are described, function 'main' has .'x'.", lambda m, b: m.description.ClearField("input")),
    ("'y' is a fp32", lambda m, b: setattr(m.description.input[0], "name", "y")),
    (
        "'x' is a fp32.2, 4., but in the program",
        lambda m, b: m.description.input[0].type.multiArrayType.shape.__setitem__(1, 4),
    ),
    ("'x' is a fp16", lambda m, b: setattr(m.description.input[0].type.multiArrayType, "dataType", 65552)),
    ("'x' is a data type 7", lambda m, b: setattr(m.description.input[0].type.multiArrayType, "dataType", 7)),
    ("'x' is of a kind that is not supported", lambda m, b: m.description.input[0].ClearField("type")),
    ("in the program fp32", _image),
    ("'result' is the predicted feature", lambda m, b: setattr(m.description, "predictedFeatureName", "result")),
    ("'no' is the predicted feature", lambda m, b: setattr(m.description, "predictedProbabilitiesName", "no")),
    ("output 'no' is not computed", lambda m, b: b.outputs.__setitem__(0, "no")),
    ("output 'result' is not computed, or is listed twice", lambda m, b: b.outputs.append("result")),
    ("operation 'sin' is not known", lambda m, b: setattr(_operation(b), "type", "sin")),
    ("operation '' is not known", lambda m, b: setattr(_operation(b), "type", "")),
    ("attribute 'mode' is not known", lambda m, b: set_value(_operation(b).attributes.add(key="mode").value, "x")),
    ("the same attribute occurs twice", lambda m, b: _operation(b).attributes.add(key="name")),
    ("the same input occurs twice", lambda m, b: _operation(b).inputs.add(key="x")),
    ("input 'z' is not known", lambda m, b: setattr(_operation(b).inputs[0], "key", "z")),
    ("input 'x' is missing", lambda m, b: _operation(b).inputs.__delitem__(0)),
    ("input 'x' is given 0 times", lambda m, b: _operation(b).inputs[0].value.ClearField("arguments")),
    ("input 'x' is given 2 times", lambda m, b: _operation(b).inputs[0].value.arguments.add(name="two")),
    (
        "uses 'later', which is not computed before",
        lambda m, b: setattr(_operation(b).inputs[0].value.arguments[0], "name", "later"),
    ),
    ("uses '', which is not computed before", lambda m, b: _operation(b).inputs[0].value.arguments[0].Clear()),
    ("uses 'late', which", _unused_nan),
    ("'x' is empty or given twice", lambda m, b: setattr(_operation(b).outputs[0], "name", "x")),
    ("'' is empty or given twice", lambda m, b: setattr(_operation(b).outputs[0], "name", "")),
    (
        "declared as fp32.2, 3., fp32",
        lambda m, b: _operation(b).outputs.add(name="more").CopyFrom(_operation(b).outputs[0]),
    ),
    ("declared as nothing", lambda m, b: _operation(b).ClearField("outputs")),
    ("declared as fp16", lambda m, b: setattr(_operation(b).outputs[0].type.tensorType, "dataType", 10)),
    ("data type 13 is not known", lambda m, b: setattr(_operation(b).outputs[0].type.tensorType, "dataType", 13)),
    ("a value has no type", lambda m, b: _operation(b).outputs[0].ClearField("type")),
    ("rank 3 has 2 dimensions", lambda m, b: setattr(_operation(b).outputs[0].type.tensorType, "rank", 3)),
    ("rank -1 has 2 dimensions", lambda m, b: setattr(_operation(b).outputs[0].type.tensorType, "rank", -1)),
    (
        "a dimension is not fixed",
        lambda m, b: _operation(b).outputs[0].type.tensorType.dimensions[0].ClearField("constant"),
    ),
    ("a dimension has size 0", lambda m, b: set_size(_operation(b), 0)),
    (f"a dimension has size {2**63}", lambda m, b: set_size(_operation(b), 2**63)),
    ("a dimension is not fixed", lambda m, b: set_type(_function(m).inputs[0].type.listType.type, "string", ())),
    ("it has parts other than", lambda m, b: _const(b).outputs.add(name="more")),
    ("it has parts other than", lambda m, b: _const(b).attributes.__delitem__(0)),
    ("it has parts other than", lambda m, b: _const(b).inputs.add(key="x")),
    ("its output is declared as", lambda m, b: setattr(_const(b).outputs[0].type.tensorType, "dataType", 23)),
    ("its output is declared as fp32.*list of 1 strings|list", _list_constant),
    ("has 2 elements", lambda m, b: immediate(b).floats.values.append(1)),
    ("has 0 elements", lambda m, b: immediate(b).floats.ClearField("values")),
    ("is given as ints", lambda m, b: immediate(b).ints.values.append(1)),
    ("is given as nothing", lambda m, b: immediate(b).ClearField("floats")),
    ("is a nothing", lambda m, b: _const(b).attributes[1].value.ClearField("immediateValue")),
    ("outside the package", lambda m, b: _const(b).attributes[1].value.blobFileValue.SetInParent()),
]


def immediate(block: Any) -> Any:
    return _const(block).attributes[1].value.immediateValue.tensor


def set_size(operation: Any, size: int) -> None:
    operation.outputs[0].type.tensorType.dimensions[0].constant.size = size


@pytest.mark.parametrize(("message", "edit"), REFUSED, ids=[f"{i}-{message}" for i, (message, _) in enumerate(REFUSED)])
def test_a_program_that_breaks_a_rule_is_refused(message: str, edit: Edit, tmp_path: Path) -> None:
    model, block = doubling()
    edit(model, block)
    path = write_package(tmp_path / "a.mlpackage", model)
    with pytest.raises(CheckFailed, match=message) as refused:
        mil.load(path)
    assert str(path) in refused.value.message


@pytest.mark.parametrize(("kind", "name", "dtype"), [("linear", "weight", "fp32"), ("reshape", "shape", "int32")])
def test_what_must_be_known_beforehand_may_not_come_with_the_input(
    kind: str, name: str, dtype: str, tmp_path: Path
) -> None:
    model, block = new_model()
    shape = (2, 2) if kind == "linear" else (2,)
    add_input(model, "x", "fp32", (2, 2))
    add_input(model, "given", dtype, shape)
    add_operation(block, kind, {"x": "x", name: "given"}, [("result", "fp32", (2, 2))])
    add_output(model, "result", "fp32", (2, 2))
    with pytest.raises(CheckFailed, match=f"{kind} 'result': input '{name}' is not constant"):
        mil.load(write_package(tmp_path / "a.mlpackage", model))


def _places(message: Any) -> list[Any]:
    found = [message]
    for descriptor, value in message.ListFields():
        if descriptor.type == descriptor.TYPE_MESSAGE:
            for item in value if hasattr(value, "add") else [value]:
                found += _places(item)
    return found


def test_a_field_that_is_not_known_is_refused_wherever_it_is(tmp_path: Path) -> None:
    model, _ = doubling()
    kinds = {}
    for number, _ in enumerate(_places(model)):
        changed, _ = doubling()
        place = _places(changed)[number]
        place.MergeFromString(bytes([0xF8, 0x3F, 1]))  # field 1023 is 1
        path = write_package(tmp_path / f"{number}.mlpackage", changed)
        with pytest.raises(CheckFailed, match=f"field 1023 of {place.DESCRIPTOR.name}, which is not supported"):
            mil.load(path)
        kinds[place.DESCRIPTOR.name] = True
    assert {"Model", "Function", "Block", "Operation", "TensorType", "ArrayFeatureType", "Value"} <= kinds.keys()


@pytest.mark.parametrize(
    ("message", "field", "content"),
    [
        ("field 10 of Model", "Model", bytes([10 << 3, 1])),  # isUpdatable
        ("field 500 of Model", "Model", bytes([0xA2, 0x1F, 0])),  # a neural network
        ("field 1000 of FeatureType", "FeatureType", bytes([0xC0, 0x3E, 1])),  # isOptional
        ("field 31 of ArrayFeatureType", "ArrayFeatureType", bytes([0xFA, 1, 0])),  # a range of shapes
        ("field 4 of Operation", "Operation", bytes([4 << 3 | 2, 0])),  # a block inside
        ("field 4 of Function", "Function", bytes([4 << 3 | 2, 0])),  # attributes
        ("field 2 of Dimension", "Dimension", bytes([2 << 3 | 2, 0])),  # an unknown size
    ],
)
def test_what_apple_may_put_there_and_we_do_not_understand_is_refused(
    message: str, field: str, content: bytes, tmp_path: Path
) -> None:
    model, _ = doubling()
    next(place for place in _places(model) if place.DESCRIPTOR.name == field).MergeFromString(content)
    with pytest.raises(CheckFailed, match=message):
        mil.load(write_package(tmp_path / "a.mlpackage", model))


@pytest.mark.parametrize("content", [b"", b"\xff", b"\x12\x05\x0a", b"\x0a" * 1000, bytes(range(256))])
def test_bytes_that_are_no_model_are_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="cannot be evaluated"):
        mil.load(write_package(tmp_path / "a.mlpackage", content))


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    content = doubling()[0].SerializeToString().replace(b"result", b"resul\xff")  # codespell:ignore
    with pytest.raises(CheckFailed, match="not a Core ML model"):
        mil.load(write_package(tmp_path / "a.mlpackage", content))


def test_nesting_without_end_is_refused(tmp_path: Path) -> None:
    nested = b""
    for _ in range(5000):  # a list of a list of ...
        length = len(nested)
        varint = b""
        while True:
            varint += bytes([length & 0x7F | (0x80 if length > 0x7F else 0)])
            length >>= 7
            if not length:
                break
        nested = bytes([2 << 3 | 2]) + varint + nested
    with pytest.raises(CheckFailed, match=r"not a Core ML model|not supported"):
        mil.load(write_package(tmp_path / "a.mlpackage", nested))


def enormous(kind: str) -> Any:
    """A model of a few hundred bytes that asks for more than any machine has, or more than anybody waits for."""
    model, block = new_model()
    if kind == "broadcast":
        add_input(model, "x", "fp32", (2**20, 1))
        add_input(model, "y", "fp32", (1, 2**20))
        add_operation(block, "add", {"x": "x", "y": "y"}, [("result", "fp32", (2**20, 2**20))])
        add_output(model, "result", "fp32", (2**20, 2**20))
    elif kind == "input":
        add_input(model, "x", "fp32", (2**40,))
        add_operation(block, "identity", {"x": "x"}, [("result", "fp32", (2**40,))])
        add_output(model, "result", "fp32", (2**40,))
    elif kind == "product":
        add_input(model, "x", "fp32", (2**15, 2**15))
        add_operation(block, "matmul", {"x": "x", "y": "x"}, [("result", "fp32", (2**15, 2**15))])
        add_output(model, "result", "fp32", (2**15, 2**15))
    elif kind == "windows":
        add_input(model, "x", "fp32", (1, 1, 2**12, 2**12))
        add_const(block, "weight", np.zeros((1, 1, 300, 300), np.float32))
        shape = (1, 1, 2**12 - 299, 2**12 - 299)
        add_operation(block, "conv", {"x": "x", "weight": "weight"}, [("result", "fp32", shape)])
        add_output(model, "result", "fp32", shape)
    elif kind == "padding":
        add_input(model, "x", "fp32", (1, 1, 1))
        add_const(block, "weight", np.zeros((1, 1, 1), np.float32))
        add_const(block, "pad", np.array([2**31 - 1, 2**31 - 1], np.int32))
        add_const(block, "strides", np.array([2**31 - 1], np.int32))
        add_const(block, "kind", "custom")
        given = {"x": "x", "weight": "weight", "pad": "pad", "strides": "strides", "pad_type": "kind"}
        add_operation(block, "conv", given, [("result", "fp32", (1, 1, 3))])
        add_output(model, "result", "fp32", (1, 1, 3))
    elif kind == "steps":
        add_input(model, "x", "fp32", (2**28,))
        last = "x"
        for index in range(2000):
            add_operation(block, "erf", {"x": last}, [(f"erf{index}", "fp32", (2**28,))])
            last = f"erf{index}"
        add_output(model, last, "fp32", (2**28,))
    return model


@pytest.mark.parametrize("kind", ["broadcast", "input", "product", "windows", "padding", "steps"])
def test_what_would_take_all_memory_or_time_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = write_package(tmp_path / "a.mlpackage", enormous(kind))
    began = time.process_time()
    with pytest.raises(CheckFailed, match=r"more memory|memory or time"):
        mil.load(path)
    assert time.process_time() - began < 10


def test_the_limits_can_be_set(tmp_path: Path) -> None:
    path = write_package(tmp_path / "a.mlpackage", doubling()[0])
    mil.load(path, mil.Limits(live_elements=12, operations=2, spec_bytes=(path / MODEL).stat().st_size))
    for limits in (
        mil.Limits(live_elements=11),
        mil.Limits(macs=6),
        mil.Limits(operations=1),
        mil.Limits(spec_bytes=(path / MODEL).stat().st_size - 1),
    ):
        with pytest.raises(CheckFailed, match=r"more memory|memory or time|2 operations|allowed: at most"):
            mil.load(path, limits)


def test_a_package_can_be_read_while_coremltools_own_messages_are_registered() -> None:
    """Ours live in a pool of their own, under a name of their own."""
    from google.protobuf import descriptor_pool  # type: ignore[import-untyped]

    from hydra_export.mil.proto import model_class

    assert model_class().DESCRIPTOR.file.pool is not descriptor_pool.Default()
    assert model_class().DESCRIPTOR.full_name == "hydra_export.mil.Model"


def test_what_was_read_is_what_was_written(tmp_path: Path) -> None:
    model, _ = doubling()
    assert read_model(write_package(tmp_path / "a.mlpackage", model)) == model
