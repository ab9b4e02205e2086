"""The tables of delegates: each row is sourced, spelled right, and says when it speaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from hydra_export import delegates, targets
from hydra_export.delegates import Delegate, Rule
from hydra_export.errors import BadInput, UnknownName
from hydra_export.mil import operation
from hydra_export.target import UsedOperator, UsedTensor
from hydra_export.targets.tflite.operators import OPERATORS

LISTED = (*("coreml-ane", "edgetpu", "ethos-u", "hailo", "nnapi", "openvino-npu", "qnn-htp", "rknn", "tflite-gpu"),)
NAMES = {
    "onnx": {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain},
    "tflite": {operator.name for operator in OPERATORS} | {"TANH"},
    "coreml": set(operation.names()),
}
DTYPES = {"bool", "float16", "float32", "int8", "int16", "int32", "int64", "uint8", "uint16"}
TABLE = """
schema_version = 1
title = "A delegate"
[sources.table]
text = "The table"
version = "1"
url = "https://example.org"
[[takes.onnx]]
operators = ["Add"]
verdict = "taken"
source = "table"
[[takes.onnx]]
verdict = "refused"
source = "table"
"""


def used(*dtypes: str, name: str = "Add", **tensor: Any) -> UsedOperator:
    given = tuple(UsedTensor(dtype=dtype, **tensor) for dtype in dtypes)
    return UsedOperator(name=name, place="there", version=3, inputs=given, outputs=(UsedTensor(dtype=dtypes[0]),))


def rule(**conditions: Any) -> Rule:
    return Rule(verdict="refused", source="table", **conditions)


def test_every_delegate_is_found_by_its_file() -> None:
    assert delegates.names() == LISTED


@pytest.mark.parametrize("name", LISTED)
def test_every_row_of_every_table_has_a_source_that_can_be_looked_up(name: str) -> None:
    delegate = delegates.get(name)
    used_sources = {rule.source for rules in delegate.takes.values() for rule in rules}
    assert used_sources == set(delegate.sources), "a source that no row names"
    for source in delegate.sources.values():
        assert source.text
        assert source.version
        assert source.url.startswith("https://")


@pytest.mark.parametrize("name", LISTED)
def test_rows_name_operators_and_types_that_exist(name: str) -> None:
    for target, rules in delegates.get(name).takes.items():
        assert target in targets.names()
        for each in rules:
            assert set(each.operators) <= NAMES[target], each
            assert {*each.outside, *each.touching, *each.weights, *each.inputs} <= DTYPES, each
            assert each.why or each.verdict == "taken", "what is not taken has a reason"


@pytest.mark.parametrize("name", LISTED)
def test_no_row_stands_behind_one_that_speaks_of_all_it_could_speak_of(name: str) -> None:
    for rules in delegates.get(name).takes.values():
        spoken_for: set[str] = set()
        for each in rules[:-1]:
            assert not set(each.operators) & spoken_for, f"{each} never counts"
            unconditional = Rule(verdict=each.verdict, source=each.source, why=each.why, operators=each.operators)
            spoken_for |= set(each.operators) if each == unconditional else set()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('source = "table"', "", "source"),
        ('source = "table"', 'source = "hearsay"', "'hearsay' is not a source"),
        ('verdict = "taken"', 'verdict = "maybe"', "maybe"),
        ('operators = ["Add"]', 'operator = ["Add"]', "operator"),
        (
            '[[takes.onnx]]\nverdict = "refused"',
            '[[takes.onnx]]\noperators = ["Sub"]\nverdict = "refused"',
            "takes.onnx",
        ),
        ('url = "https://example.org"', "", "url"),
    ],
)
def test_a_table_with_an_unsourced_or_unknown_row_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    good = tmp_path / "good.toml"
    good.write_text(TABLE)
    assert delegates.read(good).title == "A delegate"
    bad = tmp_path / "bad.toml"
    bad.write_text(TABLE.replace(old, new, 1))
    with pytest.raises(BadInput, match=said):
        delegates.read(bad)


def test_a_delegate_that_is_not_known_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'qnn-htp'"):
        delegates.get("qnn-http")


@pytest.mark.parametrize(
    ("conditions", "speaks_of", "not_of"),
    [
        ({}, used("float32"), None),
        ({"operators": ("Add",)}, used("float32"), used("float32", name="Sub")),
        ({"outside": ("int8",)}, used("float32"), used("int8")),
        ({"touching": ("float32",)}, used("int8", "float32"), used("int8")),
        ({"inputs": ("int8", "uint8")}, used("int8", "uint8"), used("uint8", "int8")),
        ({"above_rank": 4}, used("int8", shape=(1,) * 5), used("int8", shape=(1,) * 4)),
        ({"inner": 3}, used("int8", shape=(2, 1, 1, 1)), used("int8", shape=(1, 2, 2, 2))),
        ({"dynamic": True}, used("int8", shape=(-1, 3)), used("int8", shape=(1, 3))),
        ({"behind": True}, used("int8", behind=True), used("int8")),
        ({"above_version": 2}, used("int8"), None),
        ({"above_version": 2, "operators": ("Sub",)}, used("int8", name="Sub"), used("int8")),
    ],
)
def test_a_rule_speaks_where_all_its_conditions_hold(
    conditions: dict[str, Any], speaks_of: UsedOperator, not_of: UsedOperator | None
) -> None:
    assert rule(**conditions).holds(speaks_of)
    assert not_of is None or not rule(**conditions).holds(not_of)


def test_types_of_constants_are_not_those_of_what_is_computed() -> None:
    weight, image = UsedTensor(dtype="int8", constant=True), UsedTensor(dtype="float32")
    hybrid = UsedOperator(name="Gemm", place="there", inputs=(image, weight), outputs=(image,))
    assert not rule(touching=("int8",)).holds(hybrid)
    assert rule(weights=("int8",)).holds(hybrid)
    assert not rule(weights=("float32",)).holds(hybrid)
    indices = UsedTensor(dtype="int32", constant=True)
    folded = UsedOperator(name="Gather", place="there", inputs=(weight, indices), outputs=(weight,))
    assert rule(touching=("int8",)).holds(folded), "of what is constant as a whole, the result counts"
    assert not rule(touching=("int32",)).holds(folded)


def test_nothing_is_said_of_the_targets_that_a_table_does_not_name() -> None:
    assert isinstance(delegates.get("nnapi"), Delegate)
    assert set(delegates.get("nnapi").takes) == {"tflite"}
