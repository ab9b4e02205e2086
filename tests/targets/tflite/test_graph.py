"""The emitted graphs: portability, names, and that the runtimes take all of them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydra_export.target import ExportSpec
from hydra_export.targets.tflite import reader
from hydra_export.targets.tflite.operators import OPERATORS, oldest_runtime, operator
from tests.targets.conftest import Case, MakeCheckpoint
from tests.targets.tflite.conftest import TFLITE, MakeFile, loaded

FORMS = pytest.mark.parametrize("form", ["tensor", "image"])
BATCHES = pytest.mark.parametrize("batch", [1, 3, "dynamic"])


def interpreter(path: Path, batch: int | None = None) -> Any:
    from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-untyped]

    opened = Interpreter(str(path))
    if batch is not None:
        (image,) = opened.get_input_details()
        opened.resize_tensor_input(image["index"], [batch, *image["shape"][1:]], strict=True)
    opened.allocate_tensors()
    return opened


@FORMS
@BATCHES
def test_shapes_and_types_are_those_that_the_interpreter_computes(
    written: MakeFile, form: str, batch: int | str
) -> None:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    path, given = written(4, input=form, batch=batch), 5 if batch == "dynamic" else batch
    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    opened = Interpreter(str(path), experimental_op_resolver_type=plain, experimental_preserve_all_tensors=True)
    (image,) = opened.get_input_details()
    opened.resize_tensor_input(image["index"], [given, *image["shape"][1:]], strict=True)
    opened.allocate_tensors()
    opened.invoke()
    (graph,) = reader.read(path).graphs
    said = [
        (tensor.name, tensor.dtype, [given if size == -1 else size for size in tensor.shape])
        for tensor in graph.tensors
    ]
    computed = opened.get_tensor_details()[: len(said)]  # behind them are the kernels' own
    assert [(found["name"], found["dtype"].__name__, list(found["shape"])) for found in computed] == said


@FORMS
@BATCHES
def test_every_activation_has_the_batch_first_and_rank_4_at_most(
    written: MakeFile, form: str, batch: int | str
) -> None:
    (graph,) = reader.read(written(input=form, batch=batch)).graphs
    assert max(len(tensor.shape) for tensor in graph.tensors) == 4
    first = {tensor.shape[0] for tensor in graph.tensors if not tensor.buffer}
    assert first == {-1 if batch == "dynamic" else batch}


@pytest.mark.parametrize(("batch", "resized"), [(1, None), (3, None), ("dynamic", None), ("dynamic", 5)])
def test_xnnpack_takes_the_whole_graph_in_one_piece(written: MakeFile, batch: int | str, resized: int | None) -> None:
    opened = interpreter(written(batch=batch), resized)
    delegates = [op for op in opened._get_ops_details() if op["op_name"] == "DELEGATE"]
    assert len(delegates) == 1
    (output,) = opened.get_output_details()
    assert list(delegates[0]["outputs"]) == [output["index"]]


@FORMS
def test_only_operators_that_every_delegate_knows_are_used(written: MakeFile, form: str) -> None:
    model = loaded(written(input=form))
    codes = [code.builtinCode for code in model.operatorCodes]
    by_code = {operator.code: operator for operator in OPERATORS}
    others = {"DEQUANTIZE", "EQUAL", "GATHER", "IF", "LESS", "QUANTIZE"}  # of other precisions and graph kinds
    others |= {"CONCATENATION", "LOGISTIC", "REDUCE_MAX", "RELU"}  # of other models
    names = {operator.name for operator in OPERATORS} - others
    assert {by_code[code].name for code in codes} == names - ({"CAST"} if form == "tensor" else set())
    assert len(set(codes)) == len(codes)
    assert not any(code.customCode for code in model.operatorCodes)
    for code in model.operatorCodes:
        keeps_rank = by_code[code.builtinCode].name == "FULLY_CONNECTED"
        assert code.version == (5 if keeps_rank else 1)  # GPU delegates take few later ones
        assert code.deprecatedBuiltinCode == min(code.builtinCode, 127)
    assert model.version == 3


def test_operators_have_the_codes_and_options_of_the_schema() -> None:
    from ai_edge_litert import schema_py_generated as schema  # type: ignore[import-untyped]

    for each in OPERATORS:
        assert getattr(schema.BuiltinOperator, each.name) == each.code
        if each.options:
            number = getattr(schema.BuiltinOptions, each.options)
            assert reader.OPTIONS_TABLES[number] == each.options


@BATCHES
def test_there_are_as_few_operators_as_there_can_be(written: MakeFile, batch: int | str) -> None:
    (graph,) = reader.read(written(batch=batch)).graphs
    layer_norm, embedding, last = 8, 4, 1  # and its constant's ADD
    attention = 4 + 2 * 3 + 3 + 2
    block = 2 * (layer_norm + 1) + attention + 1 + 3 + 1
    assert len(graph.operations) == 2 * block + 2 + embedding + (layer_norm + 1) + 1 + last


def test_the_last_block_is_computed_for_the_class_token_alone(written: MakeFile) -> None:
    (graph,) = reader.read(written()).graphs
    shapes = {tensor.name: tensor.shape for tensor in graph.tensors}
    assert {i: shapes[f"blocks.{i}/mlp/fc1/FULLY_CONNECTED"][1] for i in (0, 1)} == {0: 17, 1: 1}
    assert shapes["blocks.1/attn/q/FULLY_CONNECTED"] == (1, 1, 16)
    assert shapes["blocks.1/attn/k/FULLY_CONNECTED"] == (1, 17, 16)


@FORMS
def test_names_are_unique_and_say_where_in_the_model_they_are(written: MakeFile, form: str) -> None:
    model = loaded(written(input=form))
    names = [tensor.name.decode() for tensor in model.subgraphs[0].tensors]
    assert len(set(names)) == len(names)
    for name in names:
        assert re.match(r"(image|patch_embed|embed|tokens|blocks\.[01]|cls|norm|head|logits|attn)\b", name), name
    assert "blocks.1.mlp.fc2.weight" in names
    assert model.subgraphs[0].name == model.description == b"tiny-k2"


def test_the_signature_is_what_callers_of_tensorflow_lite_expect(written: MakeFile) -> None:
    opened = interpreter(written())
    assert opened.get_signature_list() == {"serving_default": {"inputs": ["image"], "outputs": ["logits"]}}
    (image,), (logits,) = opened.get_input_details(), opened.get_output_details()
    assert (image["name"], image["dtype"], list(image["shape"])) == ("image", np.float32, [1, 16, 16, 3])
    assert (logits["name"], logits["dtype"], list(logits["shape"])) == ("logits", np.float32, [1, 7])


def test_a_backbone_returns_its_features(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint, case = make_checkpoint(num_classes=0), Case(TFLITE, "separate", "fp32")
    artifacts = case.write(checkpoint, (1, 3), tmp_path / "out")
    assert [[(info.name, info.shape) for info in artifact.outputs] for artifact in artifacts] == [
        [("features", (1, 8))],
        [("features", (1, 24))],
    ]
    for artifact in artifacts:
        TFLITE.lint(tmp_path / "out" / artifact.path)
    case.verify(checkpoint, artifacts, tmp_path / "out")


def test_the_oldest_release_is_that_of_the_newest_operator(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    assert (
        oldest_runtime([operator("PAD", ("float32", "int32")), operator("RSQRT", ("float32",))]) == "1.10.0"
    )  # 10 is more than 5
    assert oldest_runtime(OPERATORS) == "2.17.0"
    assert oldest_runtime([operator("GELU", ("float32",))], behind=True) == "2.16.0"
    (artifact,) = TFLITE.write(make_checkpoint(), (2,), ExportSpec(), tmp_path)
    assert artifact.needs == {"tflite": "2.9.0"}


def test_operators_are_counted_once_each(written: MakeFile) -> None:
    model = reader.read(written())
    used = Counter(operation.opcode for operation in model.graphs[0].operations)
    assert sorted(used) == list(range(len(model.opcodes)))
