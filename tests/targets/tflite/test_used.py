"""What is told of a file's operators: versions, graphs, what is constant, and what computes in float among integers."""

from __future__ import annotations

import mmap
from typing import Any

from hydra_export import delegates, targets
from hydra_export.delegates.judging import judge, notice
from hydra_export.targets.tflite import used
from hydra_export.targets.tflite.operators import OPERATORS
from hydra_export.targets.tflite.reader import Extent, Graph, ModelFile, Node, Tensor
from tests.targets.tflite.conftest import MakeFile

TFLITE = targets.get("tflite")


def model(*operators: tuple[str, str, str], shape: tuple[int, ...] = (1, 4)) -> ModelFile:
    """One operator behind the other, each with the type that it is given and the one that it makes."""
    dtypes = [operators[0][1], *(made for _name, _given, made in operators)]
    tensors = tuple(Tensor(f"t{i}", dtype, shape, 0) for i, dtype in enumerate(dtypes))
    nodes = tuple(Node(i, (i,), (i + 1,), 0, {}) for i in range(len(operators)))
    known = {operator.name: (operator.code, operator.version) for operator in OPERATORS}
    codes = tuple(known[name] for name, _given, _made in operators)
    graph = Graph("main", tensors, (0,), (len(operators),), nodes)
    anything: Any = mmap.mmap(-1, 1)
    return ModelFile(codes, (graph,), (Extent(),), {}, (), 0, anything)


def test_an_operator_in_float_between_integers_is_an_island() -> None:
    operators = used.of(
        model(
            ("QUANTIZE", "float32", "int8"),
            ("RELU", "int8", "int8"),
            ("DEQUANTIZE", "int8", "float32"),
            ("SOFTMAX", "float32", "float32"),
            ("QUANTIZE", "float32", "int8"),
        )
    )
    (found,) = notice(tuple(operators))
    assert (found.what, found.places) == ("float islands: computed in float between integers", ("SOFTMAX (t4)",))


def test_a_file_of_floats_has_no_islands() -> None:
    assert not any(each.is_island for each in used.of(model(("SOFTMAX", "float32", "float32"))))


def test_five_axes_fall_back_from_the_gpu() -> None:
    operators = tuple(used.of(model(("SOFTMAX", "float32", "float32"), shape=(1, 2, 1, 2, 3))))
    judged = judge(delegates.get("tflite-gpu"), "tflite", operators)
    assert judged is not None
    assert [(each.operator, each.verdict) for each in judged] == [("SOFTMAX", "falls back")]
    assert [each.what for each in notice(operators)] == ["tensors of more than 4 axes"]


def test_what_is_made_of_constants_is_constant(written: MakeFile) -> None:
    operators = list(TFLITE.operators(written(2, precision="fp16")))
    for each in operators:
        if each.name == "DEQUANTIZE":
            assert each.outputs[0].constant
        if each.name == "CONV_2D":
            assert [tensor.constant for tensor in each.inputs] == [False, True, True]


def test_operators_have_the_versions_and_graphs_of_the_file(written: MakeFile) -> None:
    operators = list(TFLITE.operators(written((1, 2), graph="universal", precision="int8")))
    assert {each.version for each in operators if each.name == "FULLY_CONNECTED"} == {12}
    assert len({each.graph for each in operators}) == 8  # of each head count its own, its question's, ...
    assert "run: " in next(place for one in notice(operators) for place in one.places if "run" in place)
