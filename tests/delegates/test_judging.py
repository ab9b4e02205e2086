"""Artifacts of every kind against every table, and graphs that are bad on purpose."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hydra_export import checkpoint, delegates, targets
from hydra_export.delegates.judging import Judged, judge, notice
from hydra_export.errors import MissingExtra
from hydra_export.target import STATIC, ExportSpec, GraphKind, Precision, UsedOperator
from tests.targets.onnx.test_static import calibrated

HEADS = (1, 3)
INT64 = "64-bit integers that are computed"
ISLANDS = "float islands: computed in float between integers"
AXES = "tensors of more than 4 axes"
AT_RUN_TIME = "sizes that are chosen at run time"


@functools.cache
def packaged(precision: Precision) -> Any:
    loaded = checkpoint.load(None)
    return calibrated(loaded, precision, HEADS) if precision in STATIC else loaded


def written(
    folder: Path, target: str, graph: GraphKind, precision: Precision, **choices: Any
) -> tuple[UsedOperator, ...]:
    """The operators of the packaged model's largest artifact of a kind, or of the one for all."""
    of = targets.get(target)
    try:
        of.requires()
    except MissingExtra as error:
        pytest.skip(str(error))
    artifacts = of.write(packaged(precision), HEADS, ExportSpec(graph=graph, precision=precision, **choices), folder)
    path = folder / artifacts[0 if graph == "universal" else -1].path
    of.lint(path)
    return tuple(of.operators(path))


def not_taken(judged: tuple[Judged, ...] | None) -> str | None:
    """Such as "refused If, NonZero; unknown Erf"; "" where all is taken, None for another's artifacts."""
    if judged is None:
        return None
    found = {
        verdict: sorted({each.operator for each in judged if each.verdict == verdict})
        for verdict in ("refused", "falls back", "unknown")
    }
    return "; ".join(f"{verdict} {', '.join(names)}" for verdict, names in found.items() if names)


CHOICE = "refused Identity, If, NonZero, Reshape"
FLOAT_ONNX = {"openvino-npu": "", "qnn-htp": "unknown MatMul", "rknn": ""}
FLOAT_TFLITE = {"nnapi": "falls back GELU", "openvino-npu": "", "qnn-htp": "", "tflite-gpu": ""}
EXPECTED: dict[tuple[str, GraphKind, Precision], dict[str, str]] = {
    **{("onnx", graph, precision): FLOAT_ONNX for graph in ("separate", "shared") for precision in ("fp32", "fp16")},
    **{
        ("onnx", graph, "int8"): FLOAT_ONNX | {"rknn": "refused DynamicQuantizeLinear, MatMulInteger"}
        for graph in ("separate", "shared")
    },
    **{
        ("onnx", "universal", precision): {
            "openvino-npu": CHOICE,
            "qnn-htp": f"{CHOICE}; unknown If, MatMul",
            "rknn": "refused If, NonZero",
        }
        for precision in ("fp32", "fp16")
    },
    ("onnx", "universal", "int8"): {
        "openvino-npu": CHOICE,
        "qnn-htp": f"{CHOICE}; unknown If, MatMul",
        "rknn": "refused DynamicQuantizeLinear, If, MatMulInteger, NonZero",
    },
    ("onnx", "separate", "int8-static"): {"openvino-npu": "", "qnn-htp": "", "rknn": ""},
    ("onnx", "universal", "int8-static"): {
        "openvino-npu": CHOICE,
        "qnn-htp": f"{CHOICE}; unknown If",
        "rknn": "refused If, NonZero",
    },
    ("onnx", "separate", "w8a16"): {"qnn-htp": ""},
    ("tflite", "separate", "fp32"): FLOAT_TFLITE,
    ("tflite", "separate", "fp16"): FLOAT_TFLITE | {"nnapi": "falls back DEQUANTIZE, GELU"},
    ("tflite", "separate", "int8"): FLOAT_TFLITE
    | {"nnapi": "falls back FULLY_CONNECTED, GELU", "tflite-gpu": "falls back FULLY_CONNECTED"},
    ("tflite", "universal", "fp32"): {
        "nnapi": "falls back FULLY_CONNECTED, GELU, IF",
        "qnn-htp": "falls back IF",
        "tflite-gpu": "falls back EQUAL, IF, LESS",
    },
    ("tflite", "separate", "int8-static"): {
        "edgetpu": "falls back BATCH_MATMUL, DEQUANTIZE, GELU, QUANTIZE; unknown MEAN, RSQRT, SOFTMAX, TRANSPOSE",
        "ethos-u": "falls back DEQUANTIZE, QUANTIZE",
        "nnapi": "falls back GELU",
        "openvino-npu": "",
        "qnn-htp": "",
        "tflite-gpu": "",
    },
    ("tflite", "separate", "w8a16"): {"ethos-u": "falls back BATCH_MATMUL, DEQUANTIZE, QUANTIZE", "qnn-htp": ""},
    **{("coreml", graph, "fp32"): {"coreml-ane": "falls back"} for graph in ("separate", "universal")},
    **{
        ("coreml", graph, precision): {"coreml-ane": "unknown"}
        for graph in ("separate", "universal")
        for precision in ("fp16", "int8", "int8-static")
    },
}


@pytest.mark.parametrize("kind", EXPECTED, ids=" ".join)
def test_the_packaged_model_is_judged_by_every_table(kind: tuple[str, GraphKind, Precision], tmp_path: Path) -> None:
    target = kind[0]
    operators = written(tmp_path, *kind)
    found = {name: not_taken(judge(delegates.get(name), target, operators)) for name in delegates.names()}
    assert {name for name, said in found.items() if said is not None} == {
        name for name in delegates.names() if target in delegates.get(name).takes
    }
    for name, said in EXPECTED[kind].items():
        assert (said if name != "coreml-ane" else said.split()[0]) in (found[name] or "")
        assert name == "coreml-ane" or found[name] == said, name
    for name, places in found.items():
        judged = judge(delegates.get(name), target, operators)
        assert judged is None or sum(len(each.places) for each in judged) == len(operators), places


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_edge_tpu_refuses_float_and_ethos_leaves_it_to_the_cpu(precision: Precision, tmp_path: Path) -> None:
    operators = written(tmp_path, "tflite", "separate", precision)
    computing = [used.name for used in operators if used.name != "DEQUANTIZE"]
    for name, verdict in (("edgetpu", "refused"), ("ethos-u", "falls back")):
        judged = judge(delegates.get(name), "tflite", operators)
        assert judged is not None
        assert {each.verdict for each in judged if each.operator in computing} == {verdict}


def test_any_batch_is_refused_where_shapes_are_fixed(tmp_path: Path) -> None:
    operators = written(tmp_path, "onnx", "separate", "fp32", batch="dynamic")
    for name in ("qnn-htp", "openvino-npu"):
        judged = judge(delegates.get(name), "onnx", operators)
        assert judged is not None
        assert {each.verdict for each in judged if each.operator == "Conv"} == {"refused"}
    assert AT_RUN_TIME in [each.what for each in notice(operators)]


@pytest.mark.parametrize(("opset", "verdict"), [(13, "taken"), (23, "unknown")])
def test_a_table_of_older_operators_says_nothing_of_newer_ones(opset: int, verdict: str, tmp_path: Path) -> None:
    options = targets.get("onnx").options(opset=opset)
    judged = judge(delegates.get("rknn"), "onnx", written(tmp_path, "onnx", "separate", "fp32", options=options))
    assert judged is not None
    assert {each.verdict for each in judged} == {verdict}


def test_weights_behind_the_flatbuffer_are_refused_by_whom_they_are_not_read(tmp_path: Path) -> None:
    for overlap, verdict in ((True, "refused"), (False, "taken")):
        (folder := tmp_path / str(overlap)).mkdir()
        options = targets.get("tflite").options(overlap=overlap)
        operators = written(folder, "tflite", "universal", "fp32", options=options)
        judged = judge(delegates.get("openvino-npu"), "tflite", operators)
        assert judged is not None
        assert {each.verdict for each in judged if each.operator == "CONV_2D"} == {verdict}
        what = "weights after the structure of the file"
        assert (what in [each.what for each in notice(operators)]) == overlap


def test_a_file_of_ours_has_nothing_unusual(tmp_path: Path) -> None:
    for target in ("onnx", "tflite"):
        for precision in ("fp32", "int8", "int8-static"):
            (folder := tmp_path / target / precision).mkdir(parents=True)
            assert notice(written(folder, target, "separate", precision)) == ()


# Bad on purpose


def saved(tmp_path: Path, nodes: list[Any], image: Any, result: Any, **constants: Any) -> tuple[UsedOperator, ...]:
    tensors = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "bad", [image], [result], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    onnx.checker.check_model(model)
    path = tmp_path / "bad.onnx"
    path.write_bytes(model.SerializeToString())
    return tuple(targets.get("onnx").operators(path))


def quantized(name: str, given: str) -> list[Any]:
    """QuantizeLinear and DequantizeLinear behind *given*; the latter gives *name*."""
    return [
        helper.make_node("QuantizeLinear", [given, "scale", "zero"], [f"{name}/counted"], f"{name}/Q"),
        helper.make_node("DequantizeLinear", [f"{name}/counted", "scale", "zero"], [name], f"{name}/DQ"),
    ]


def floats(name: str, *shape: int) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def test_a_float_island_in_a_graph_of_integers_is_named(tmp_path: Path) -> None:
    nodes = [
        *quantized("a", "image"),
        helper.make_node("Sigmoid", ["a"], ["b"], "block/Sigmoid"),  # counted in integers
        *quantized("c", "b"),
        helper.make_node("Softmax", ["c"], ["d"], "block/Softmax"),  # gives float to the next
        helper.make_node("Sqrt", ["d"], ["e"], "block/Sqrt"),
        *quantized("f", "e"),
    ]
    operators = saved(
        tmp_path, nodes, floats("image", 1, 4), floats("f", 1, 4), scale=np.float32(0.1), zero=np.uint8(3)
    )
    by_place = {used.place: used for used in operators}
    (sigmoid,) = by_place["block/Sigmoid"].inputs
    assert (sigmoid.dtype, by_place["block/Sigmoid"].outputs[0].dtype) == ("uint8", "uint8")
    assert not by_place["block/Sigmoid"].is_island
    assert {each.what: each.places for each in notice(operators)} == {
        ISLANDS: ("Softmax (block/Softmax)", "Sqrt (block/Sqrt)")
    }


def test_a_tensor_of_rank_5_is_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Reshape", ["image", "to"], ["deep"], "block/deep"),
        helper.make_node("Reshape", ["deep", "back"], ["flat"], "block/flat"),
    ]
    shapes = {"to": np.array([1, 2, 1, 2, 1]), "back": np.array([1, 4])}
    operators = saved(tmp_path, nodes, floats("image", 1, 4), floats("flat", 1, 4), **shapes)
    assert {each.what: each.places for each in notice(operators)} == {
        AXES: ("Reshape (block/deep)", "Reshape (block/flat)")
    }


def test_a_long_integer_that_computes_is_named_and_a_shape_is_not(tmp_path: Path) -> None:
    number = helper.make_tensor_value_info("k", TensorProto.INT64, (1,))
    result = helper.make_tensor_value_info("sum", TensorProto.INT64, (1,))
    nodes = [helper.make_node("Add", ["k", "one"], ["sum"], "block/Add")]
    operators = saved(tmp_path, nodes, number, result, one=np.array([1]))
    assert {each.what: each.places for each in notice(operators)} == {INT64: ("Add (block/Add)",)}
    reshape = [helper.make_node("Reshape", ["image", "to"], ["flat"], "block/flat")]
    assert notice(saved(tmp_path, reshape, floats("image", 1, 4), floats("flat", 4), to=np.array([4]))) == ()
