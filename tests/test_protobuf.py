"""Protobuf messages from somewhere else are counted before they are read."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from hydra_export import protobuf
from hydra_export.mil.proto import model_class

MODEL = onnx.ModelProto.DESCRIPTOR


def _varint(number: int) -> bytes:
    encoded = b""
    while number > 127:
        encoded, number = encoded + bytes([number & 127 | 128]), number >> 7
    return encoded + bytes([number])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _nested(depth: int) -> bytes:
    content = b""
    for _ in range(depth):
        content = _field(1, _field(5, _field(6, content)))  # node, attribute, graph
    return _field(7, content)


_GRAPH = 7
_NASTY = {
    "empty nodes": (_field(_GRAPH, b"\x0a\x00" * 200_000), "contains more fields"),
    "empty tensors": (_field(_GRAPH, b"\x2a\x00" * 200_000), "contains more fields"),
    "numbers side by side": (_field(_GRAPH, _field(5, _field(7, b"\x01" * 2_000_000))), "contains more fields"),
    "dimensions one by one": (_field(_GRAPH, _field(5, b"\x08\x01" * 200_000)), "contains more fields"),
    "graphs in graphs": (_nested(50), "nests messages"),
    "a text that is none": (_field(2, b"\xff\xfe"), "is not UTF-8"),
    "a field beyond the end": (b"\x3a\x7f", "beyond its message"),
    "an endless number": (b"\xff" * 11, "more than 10 bytes"),
    "half a number": (b"\x08\xff", "ends within a number"),
    "half a float": (b"\x0d\x00", "beyond its message"),
    "a group": (b"\x0b", "unknown kind 3"),
}


@pytest.mark.parametrize("what", _NASTY)
def test_a_message_that_says_more_than_it_may_is_refused(what: str) -> None:
    content, reason = _NASTY[what]
    with pytest.raises(ValueError, match=reason):
        protobuf.check_size(content, MODEL)


def test_a_model_passes_whatever_its_weights_are() -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [500_000], bytes(2_000_000), raw=True)
    node = helper.make_node("Add", ["x", "w"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [500_000]) for name in "xy"]
    model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:], [weight]))
    protobuf.check_size(model.SerializeToString(), MODEL)


def test_the_messages_of_other_formats_are_counted_too() -> None:
    model = model_class()()
    protobuf.check_size(model.SerializeToString(), model.DESCRIPTOR)
    program = model.DESCRIPTOR.fields_by_name["mlProgram"].number
    with pytest.raises(ValueError, match="contains more fields"):
        protobuf.check_size(_field(program, b"\x12\x00" * 200_000), model.DESCRIPTOR)


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (b"\x98\x06\x01", 99),  # no such field
        (b"\x0a\x01\x00", 1),  # the specification's version as a text
        (_field(2, b"\x0d\x00\x00\x00\x00"), 1),  # a float where the inputs are
        (_field(2, _field(1, _field(3, _field(5, b"\x09" + bytes(8))))), 1),  # a double where a shape's numbers are
    ],
)
def test_what_is_none_of_a_messages_fields_can_be_refused(content: bytes, field: int) -> None:
    descriptor = model_class().DESCRIPTOR
    protobuf.check_size(content, descriptor)
    with pytest.raises(ValueError, match=rf"uses field {field} of \w+, which is not supported"):
        protobuf.check_size(content, descriptor, known_only=True)


def test_numbers_side_by_side_or_one_by_one_are_known() -> None:
    descriptor = model_class().DESCRIPTOR
    for numbers in (b"\x0a\x02\x01\x02", b"\x08\x01\x08\x02"):  # a shape, packed and not
        protobuf.check_size(_field(2, _field(1, _field(3, _field(5, numbers)))), descriptor, known_only=True)
