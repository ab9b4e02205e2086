"""The emitted graphs: opsets, portability, names, metadata, and that nothing in them could be left out."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import onnx
import onnxruntime
import onnxsim
import pytest

from hydra_export import targets
from hydra_export.checkpoint import Checkpoint
from hydra_export.errors import BadInput
from hydra_export.preprocess import Preprocessing
from hydra_export.target import ExportSpec, GraphKind, InputForm, Precision
from hydra_export.targets.onnx import OnnxOptions
from tests.targets.conftest import Case, MakeCheckpoint

ONNX = targets.get("onnx")
KINDS = pytest.mark.parametrize("kind", ONNX.graphs)
FORMS = pytest.mark.parametrize("form", ["tensor", "image"])
BATCHES = pytest.mark.parametrize("batch", [1, 3, "dynamic"])
# Each form of LayerNorm, Gelu and attention comes with the opsets 13, 17, 20 and 23.
OPSETS = pytest.mark.parametrize(
    "opset", [13, 17, 20, 23, *(pytest.param(opset, marks=pytest.mark.slow) for opset in (14, 15, 16, 18, 19, 21, 22))]
)


def written(checkpoint: Checkpoint, heads: Sequence[int], out: Path, **choices: Any) -> list[onnx.ModelProto]:
    """Writes and reads back, weights included."""
    out.mkdir()
    options = OnnxOptions(**{name: choices.pop(name) for name in ("opset",) if name in choices})
    artifacts = ONNX.write(checkpoint, heads, ExportSpec(options=options, **choices), out)
    return [onnx.load(out / artifact.path) for artifact in artifacts]


def op_counts(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def with_branches(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    """The graph, and what is inside of its Ifs."""
    inside = [attribute.g for node in graph.node for attribute in node.attribute if attribute.name.endswith("_branch")]
    return [graph, *(found for branch in inside for found in with_branches(branch))]


def simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    """What onnxsim makes of it with all that it can do."""
    result: onnx.ModelProto = onnxsim.simplify(model)[0]
    return result


@OPSETS
@KINDS
@FORMS
def test_every_opset_computes_the_subnetwork(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, kind: GraphKind, form: InputForm, opset: int
) -> None:
    checkpoint, out = make_checkpoint(), tmp_path / "out"
    case = Case(ONNX, kind, "fp32")
    for batch in (1, "dynamic"):
        artifacts = case.write(checkpoint, (1, 4), out / str(batch), opset=opset, input=form, batch=batch)
        case.verify(checkpoint, artifacts, out / str(batch))


@OPSETS
def test_the_file_has_the_opset_that_was_asked_for_and_the_lowest_ir_version_of_it(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, opset: int
) -> None:
    (model,) = written(make_checkpoint(), (2,), tmp_path / "out", opset=opset)
    assert [(imported.domain, imported.version) for imported in model.opset_import] == [("", opset)]
    assert model.ir_version == onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])


@KINDS
@pytest.mark.parametrize("opset", [-1, 0, 12, 24, 99])
def test_other_opsets_are_refused_and_nothing_is_written(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, kind: GraphKind, opset: int
) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(BadInput, match=f"`opset` {opset} is not supported. Use 13 to 23."):
        ONNX.write(make_checkpoint(), (2,), ExportSpec(graph=kind, options=OnnxOptions(opset=opset)), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_the_default_opset_is_one_that_onnxruntime_web_takes(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    (model,) = written(make_checkpoint(), (2,), tmp_path / "out")
    assert model.opset_import[0].version == 17
    assert model.ir_version == 8


def test_attention_is_one_operator_from_opset_23_on(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    (before,) = written(checkpoint, (2,), tmp_path / "22", opset=22)
    (after,) = written(checkpoint, (2,), tmp_path / "23", opset=23)
    assert op_counts(before)["Softmax"] == checkpoint.info.config.depth
    assert op_counts(before)["Attention"] == 0
    assert op_counts(after)["Attention"] == checkpoint.info.config.depth
    assert op_counts(after)["Softmax"] == 0


def test_layer_norm_is_made_of_small_operators_below_opset_17(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    num_norms = 2 * checkpoint.info.config.depth + 1
    (before,) = written(checkpoint, (2,), tmp_path / "16", opset=16)
    (after,) = written(checkpoint, (2,), tmp_path / "17", opset=17)
    steps = {"ReduceMean": 2, "Sub": 1, "Pow": 1, "Sqrt": 1, "Div": 1, "Mul": 1, "Add": 2}
    assert op_counts(before) - op_counts(after) == {step: num_norms * count for step, count in steps.items()}
    assert op_counts(after) - op_counts(before) == {"LayerNormalization": num_norms}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("kind", ["separate", "shared"])
def test_onnxruntime_makes_the_same_operators_of_every_opset_below_20(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, kind: GraphKind, precision: Precision
) -> None:
    checkpoint = make_checkpoint()
    fused = []
    for opset in (13, 16, 17):
        out = tmp_path / str(opset)
        out.mkdir()
        spec = ExportSpec(graph=kind, precision=precision, options=OnnxOptions(opset=opset))
        (artifact,) = ONNX.write(checkpoint, (2,), spec, out)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # that what it writes is for this machine alone
        options.optimized_model_filepath = str(out / "optimised.onnx")
        onnxruntime.InferenceSession(out / artifact.path, options)
        fused.append(op_counts(onnx.load(out / "optimised.onnx")))
    assert fused[0] == fused[1] == fused[2]
    assert fused[0]["LayerNormalization"] + fused[0]["SkipLayerNormalization"] == 2 * checkpoint.info.config.depth + 1


@OPSETS
@KINDS
@BATCHES
def test_it_is_valid_and_every_tensor_is_named_and_of_rank_4_at_most(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, kind: GraphKind, batch: int | str, opset: int
) -> None:
    for model in written(make_checkpoint(), (1, 2), tmp_path / "out", graph=kind, batch=batch, opset=opset):
        onnx.checker.check_model(model, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        ranks: dict[str, int] = {}
        for graph in with_branches(inferred.graph):
            values = [*graph.value_info, *graph.input, *graph.output]
            assert all(value.type.tensor_type.HasField("shape") for value in values)
            ranks |= {value.name: len(value.type.tensor_type.shape.dim) for value in values}
            ranks |= {tensor.name: len(tensor.dims) for tensor in graph.initializer}
            assert {name for node in graph.node for name in (*node.input, *node.output)} <= ranks.keys()
        assert max(ranks.values()) <= 4


@KINDS
@FORMS
def test_only_standard_operators_are_used_and_no_gather(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, kind: GraphKind, form: InputForm
) -> None:
    for model in written(make_checkpoint(), (1, 4), tmp_path / "out", graph=kind, input=form):
        nodes = [node for graph in with_branches(model.graph) for node in graph.node]
        assert {node.domain for node in nodes} == {""}
        takes_heads = len(model.graph.input) == 2
        assert op_counts(model)["If"] == (2 if takes_heads else 0)
        assert not {node.op_type for node in nodes if node.op_type.startswith(("Gather", "Scatter", "Loop", "Scan"))}
        assert not model.functions


@KINDS
@pytest.mark.parametrize("separate_classifiers", [(), (1, 4)])
def test_every_initializer_is_used(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, kind: GraphKind, separate_classifiers: tuple[int, ...]
) -> None:
    checkpoint = make_checkpoint(separate_classifiers=separate_classifiers)
    for model in written(checkpoint, (1, 4), tmp_path / "out", graph=kind):
        graphs = with_branches(model.graph)
        used = {name for graph in graphs for node in graph.node for name in node.input}
        assert {tensor.name for graph in graphs for tensor in graph.initializer} <= used


@KINDS
def test_names_are_unique_and_readable(make_checkpoint: MakeCheckpoint, tmp_path: Path, kind: GraphKind) -> None:
    checkpoint = make_checkpoint()
    for model in written(checkpoint, (1, 4), tmp_path / "out", graph=kind):
        graphs = with_branches(model.graph)
        nodes = [node.name for graph in graphs for node in graph.node]
        tensors = [tensor.name for graph in graphs for tensor in graph.initializer]
        values = [*tensors, *(name for graph in graphs for node in graph.node for name in node.output)]
        assert len(set(nodes)) == len(nodes)
        assert len(set(values)) == len(values)
        assert all(nodes)
        for name in values:  # where it is in the model: block, part, operator
            assert re.match(
                r"(k[14]/)?(image|patch_embed|tokens|rows|blocks\.[01]|cls|norm|head|logits|attn|gelu|shell|k)\b", name
            ) or re.fullmatch(r"k[14]/(Equal|If|passed)", name), name
        assert any(re.match(r"(k4/)?blocks\.1\.mlp\.fc2\.weight", name) for name in tensors)
        assert model.graph.name.startswith("tiny-")


@KINDS
def test_the_metadata_says_what_the_file_is(make_checkpoint: MakeCheckpoint, tmp_path: Path, kind: GraphKind) -> None:
    checkpoint = make_checkpoint()
    models = written(checkpoint, (1, 4), tmp_path / "out", graph=kind)
    listed = ("1,4", "1", "4") if kind == "universal" else ("1", "4")
    for heads, model in zip(listed, models, strict=True):
        said = {entry.key.removeprefix("hydra_export."): entry.value for entry in model.metadata_props}
        assert said["model"] == "tiny"
        assert said["heads"] == heads
        assert said["precision"] == "fp32"
        assert json.loads(said["labels"]) == [f"class {i}" for i in range(7)]
        assert msgspec.json.decode(said["preprocessing"], type=Preprocessing) == checkpoint.info.preprocessing
        assert said["checkpoint_sha256"] == checkpoint.sha256
        assert said["license"] == "CC0-1.0"
        assert model.producer_name == "hydra-export"


@OPSETS
@FORMS
@BATCHES
def test_onnxsim_finds_nothing_to_simplify(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, form: InputForm, batch: int | str, opset: int
) -> None:
    (model,) = written(make_checkpoint(), (2,), tmp_path / "out", input=form, batch=batch, opset=opset)
    assert op_counts(simplified(model)) == op_counts(model)


@pytest.mark.parametrize("opset", [13, 17, 20, 23])
@BATCHES
def test_folding_the_shared_graph_gives_the_separate_one(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, batch: int | str, opset: int
) -> None:
    checkpoint, choices = make_checkpoint(), {"batch": batch, "opset": opset}
    shared = written(checkpoint, (1, 2, 4), tmp_path / "shared", graph="shared", **choices)
    separate = written(checkpoint, (1, 2, 4), tmp_path / "separate", graph="separate", **choices)
    assert op_counts(shared[-1])["Concat"] > 0
    for joined, whole in zip(shared, separate, strict=True):
        assert op_counts(simplified(joined)) == op_counts(whole)


def test_the_last_block_is_computed_for_the_class_token_alone(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    (model,) = written(make_checkpoint(), (2,), tmp_path / "out")
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in inferred.graph.value_info
    }
    num_rows = {i: shapes[f"blocks.{i}/mlp/fc1/Gemm"][0] for i in (0, 1)}
    assert num_rows == {0: 17, 1: 1}


def test_the_last_bias_is_added_before_the_last_product(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    """OpenVINO crashes on a product, a bias and a sum there, ncnn takes no sum as a bias: both are slow tests."""
    checkpoint = make_checkpoint()
    last = f"blocks.{checkpoint.info.config.depth - 1}/mlp"
    for model in written(checkpoint, (1, 4), tmp_path / "out", opset=17):
        by_output = {node.output[0]: node for node in model.graph.node}
        sum_of = by_output[f"{last}/residual/Add"].input
        assert [by_output[name].op_type for name in sum_of] == ["Add", "MatMul"]
        assert by_output[sum_of[0]].input[1] == f"blocks.{checkpoint.info.config.depth - 1}.mlp.fc2.bias"


def test_the_prefix_is_padded_only_where_the_batch_is_chosen_later(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    """ncnn's converter drops Pad."""
    for batch, joined in ((1, "Concat"), (3, "Concat"), ("dynamic", "Pad")):
        (model,) = written(make_checkpoint(), (2,), tmp_path / str(batch), batch=batch)
        assert {"Concat", "Pad"} & {node.op_type for node in model.graph.node} == {joined}
