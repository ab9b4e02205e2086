"""The head count as an input: every listed one is right, every other an error, and weights are stored once."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from hydra_export import targets
from hydra_export.architecture import HydraConfig
from hydra_export.checkpoint import Checkpoint
from hydra_export.errors import BadInput, CheckFailed
from hydra_export.target import Artifact, InputForm, Precision
from hydra_export.targets.onnx import universal
from hydra_export.targets.onnx.session import OnnxSession
from tests.targets.conftest import Case, MakeCheckpoint, given
from tests.targets.onnx.test_graph import op_counts, with_branches

ONNX = targets.get("onnx")
UNIVERSAL = Case(ONNX, "universal", "fp32")
LISTS = pytest.mark.parametrize(
    "heads",
    [
        (3, 6, 12),
        (1, 2, 4, 12),
        (5,),
        (11, 12),
        (2, 3, 5, 7, 11),
        pytest.param(tuple(range(1, 13)), marks=pytest.mark.slow),
    ],
    ids=str,
)
# Each form of Gelu and of attention comes with the opsets 17, 20 and 23.
OPSETS = pytest.mark.parametrize(
    "opset", [17, 20, 23, *(pytest.param(opset, marks=pytest.mark.slow) for opset in (18, 19, 21, 22))]
)
PRECISIONS = pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])


@pytest.fixture(params=["branches", "slices"], autouse=True)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The two forms of the run-time graph; which of them a model gets depends on its size."""
    if request.param == "slices":
        monkeypatch.setattr(universal, "_MOST_COPIES", 0.0)
        monkeypatch.setattr(universal, "_MOST_BYTES", 0)
    chosen: str = request.param
    return chosen


def twelve_heads(make_checkpoint: MakeCheckpoint, **overrides: object) -> Checkpoint:
    return make_checkpoint(heads=12, head_dim=4, **overrides)


def verify_all(checkpoint: Checkpoint, artifacts: list[Artifact], out: Path) -> None:
    for artifact in artifacts:
        ONNX.lint(out / artifact.path)
    UNIVERSAL.verify(checkpoint, artifacts, out)


def graph_of(path: Path) -> onnx.ModelProto:
    return onnx.load(path, load_external_data=False)


def extents(model: onnx.ModelProto) -> list[tuple[str, int, int]]:
    """Location, first byte and length of all that is outside of the graph."""
    found = []
    for graph in with_branches(model.graph):
        for tensor in graph.initializer:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            if entries:
                found.append((entries["location"], int(entries["offset"]), int(entries["length"])))
    return found


@LISTS
@pytest.mark.parametrize("image_form", ["tensor", "image"])
def test_every_list_of_head_counts_computes_its_subnetworks(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, heads: tuple[int, ...], image_form: InputForm
) -> None:
    checkpoint = twelve_heads(make_checkpoint)
    artifacts = UNIVERSAL.write(checkpoint, heads, tmp_path / "out", input=image_form)
    assert artifacts[0].heads == heads
    assert [artifact.heads for artifact in artifacts[1:]] == ([(k,) for k in heads] if len(heads) > 1 else [])
    verify_all(checkpoint, artifacts, tmp_path / "out")


@OPSETS
@pytest.mark.parametrize("batch", [1, 3, "dynamic"])
def test_every_opset_and_batch_computes_the_subnetworks(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, opset: int, batch: int | str
) -> None:
    checkpoint = make_checkpoint()
    artifacts = UNIVERSAL.write(checkpoint, (1, 2, 4), tmp_path / "out", opset=opset, batch=batch)
    verify_all(checkpoint, artifacts, tmp_path / "out")


@pytest.mark.parametrize(
    "architecture",
    [
        {"separate_classifiers": (2, 3, 4), "layer_scale": 0.5, "channels": 1, "mlp_ratio": 3.0},
        {"num_classes": 0},
        {"num_classes": 1, "depth": 1},
        {"head_dim": 1, "mlp_ratio": 1.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("batch", [1, "dynamic"])
def test_every_architecture_computes_its_subnetworks(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, architecture: dict[str, object], batch: int | str
) -> None:
    checkpoint = make_checkpoint(**architecture)
    artifacts = UNIVERSAL.write(checkpoint, (2, 4), tmp_path / "out", batch=batch, input="image")
    verify_all(checkpoint, artifacts, tmp_path / "out")


def test_the_features_of_a_backbone_are_as_wide_as_the_chosen_subnetwork(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(num_classes=0)
    artifact, *_fixed = UNIVERSAL.write(checkpoint, (1, 4), tmp_path / "out")
    (features,) = artifact.outputs
    assert (features.name, features.shape) == ("features", (1, "width"))
    for k in (1, 4):
        assert ONNX.load(tmp_path / "out" / artifact.path, k).run(given(checkpoint, artifact.spec)).shape == (5, 8 * k)


@PRECISIONS
def test_switching_in_random_order_equals_fresh_sessions(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, precision: Precision
) -> None:
    checkpoint, heads = twelve_heads(make_checkpoint), (1, 3, 6, 11, 12)
    artifact, *_fixed = Case(ONNX, "universal", precision).write(checkpoint, heads, tmp_path / "out")
    path, image = tmp_path / "out" / artifact.path, given(checkpoint, artifact.spec)
    expected = {k: OnnxSession(path, 1, k).run(image) for k in heads}
    switched = OnnxSession(path, 1, heads[0])
    for k in np.random.default_rng(0).choice(heads, 40):
        switched.heads = int(k)
        np.testing.assert_array_equal(switched.run(image), expected[int(k)])
    logits = list(expected.values())
    assert not any(np.allclose(one, other, atol=1e-3) for one, other in itertools.combinations(logits, 2))


@PRECISIONS
@pytest.mark.parametrize("heads", [(3, 6, 12), (12,), tuple(range(2, 13))], ids=str)
@pytest.mark.parametrize("batch", [1, "dynamic"])
def test_another_head_count_is_an_error_and_never_another_width(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, precision: Precision, heads: tuple[int, ...], batch: int | str
) -> None:
    checkpoint = twelve_heads(make_checkpoint)
    artifact, *_fixed = Case(ONNX, "universal", precision).write(checkpoint, heads, tmp_path / "out", batch=batch)
    session = OnnxSession(tmp_path / "out" / artifact.path, 1, heads[0])
    image, listed = given(checkpoint, artifact.spec), ", ".join(map(str, heads))
    others = {*range(-13, 30), 2**31 + heads[0], 2**32 + heads[0], 2**63 - 1, -(2**63)} - set(heads)
    for k in sorted(others):
        session.heads = k
        with pytest.raises(CheckFailed, match=f"k/must be (one of )?{listed}'"):
            session.run(image)
    session.heads = heads[0]
    assert session.run(image).shape == (5, 7)  # and the session is as good as before


@pytest.mark.parametrize(
    ("k", "said"),
    [
        (np.array(3, np.int32), "Unexpected input data type"),
        (np.array(3.0, np.float32), "Unexpected input data type"),
        (np.array([3, 3]), "k/Reshape"),
        (np.array([], np.int64), "k/Reshape"),
    ],
    ids=str,
)
def test_a_head_count_of_another_type_or_shape_is_an_error(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, k: NDArray[Any], said: str
) -> None:
    checkpoint = twelve_heads(make_checkpoint)
    artifact, *_fixed = UNIVERSAL.write(checkpoint, (3, 6), tmp_path / "out")
    runtime = OnnxSession(tmp_path / "out" / artifact.path, 1, 3).runtime
    with pytest.raises(Exception, match=said):  # onnxruntime's errors share no base
        runtime.run(None, {"image": given(checkpoint, artifact.spec, 1), "k": k})


def test_a_head_count_in_a_vector_of_one_is_taken_for_what_it_says(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    checkpoint = twelve_heads(make_checkpoint)
    artifact, *_fixed = UNIVERSAL.write(checkpoint, (3, 6), tmp_path / "out")
    session = OnnxSession(tmp_path / "out" / artifact.path, 1, 6)
    image = given(checkpoint, artifact.spec, 1)
    (logits,) = session.runtime.run(None, {"image": image, "k": np.array([6])})
    np.testing.assert_array_equal(logits, session.run(image))


def test_a_graph_that_takes_the_head_count_needs_one(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    artifact, *_fixed = UNIVERSAL.write(make_checkpoint(), (1, 2), tmp_path / "out")
    with pytest.raises(CheckFailed, match="takes the head count as an input"):
        OnnxSession(tmp_path / "out" / artifact.path)


def test_the_artifacts_say_which_takes_the_head_count(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    artifact, *fixed = UNIVERSAL.write(make_checkpoint(), (1, 2), tmp_path / "out")
    assert [(info.name, info.dtype, info.shape) for info in artifact.inputs] == [
        ("image", "float32", (1, 3, 16, 16)),
        ("k", "int64", ()),
    ]
    assert [[info.name for info in other.inputs] for other in fixed] == [["image"], ["image"]]


@LISTS
@PRECISIONS
def test_weights_are_stored_once_and_all_are_used(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, heads: tuple[int, ...], precision: Precision
) -> None:
    checkpoint = twelve_heads(make_checkpoint)
    case, suffix = Case(ONNX, "universal", precision), "" if precision == "fp32" else f"-{precision}"
    artifacts = case.write(checkpoint, heads, tmp_path / "out")
    weights = tmp_path / "out" / f"tiny-universal{suffix}.bin"
    assert {path.suffix for path in weights.parent.iterdir()} == {".onnx", ".bin"}
    content, models = weights.read_bytes(), [graph_of(weights.parent / artifact.path) for artifact in artifacts]
    for artifact, model in zip(artifacts, models, strict=True):
        assert artifact.files == (artifact.path, weights.name)
        assert {location for location, _offset, _length in extents(model)} == {weights.name}
        for graph in with_branches(model.graph):
            for tensor in graph.initializer:
                assert tensor.external_data or len(tensor.raw_data) <= 8 * len(heads) + 64  # shapes and scalars
    for model in (models[0], models[-1]):  # the one that takes the head count, and that of the largest
        used, end = sorted({(offset, length) for _location, offset, length in extents(model)}), 0
        for offset, length in used:
            assert not any(content[end:offset])
            assert offset - end < 64
            end = max(end, offset + length)
        assert end == len(content)


@PRECISIONS
def test_a_graph_that_fixes_the_head_count_gives_the_same_logits(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, precision: Precision
) -> None:
    checkpoint = twelve_heads(make_checkpoint)
    artifact, *fixed = Case(ONNX, "universal", precision).write(checkpoint, (3, 6, 12), tmp_path / "out")
    image = given(checkpoint, artifact.spec)
    for other in fixed:
        (k,) = other.heads
        chosen = ONNX.load(tmp_path / "out" / artifact.path, k).run(image)
        # Of int8, float32's noise can move a value to the next of 255 steps.
        atol = 0.05 if precision == "int8" else 1e-5
        np.testing.assert_allclose(ONNX.load(tmp_path / "out" / other.path, k).run(image), chosen, atol=atol)


@PRECISIONS
def test_the_same_bytes_are_written_twice(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, precision: Precision
) -> None:
    checkpoint, case = make_checkpoint(separate_classifiers=(1, 4)), Case(ONNX, "universal", precision)
    for place in ("one", "other"):
        case.write(checkpoint, (1, 4), tmp_path / place, input="image")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()


def test_a_head_count_without_a_classifier_is_refused_and_nothing_is_written(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="no classifier for heads 3"):
        UNIVERSAL.write(make_checkpoint(separate_classifiers=(2, 4)), (2, 3), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_ifs_follow_one_another_or_there_are_none(form: str, make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    artifact, *_fixed = UNIVERSAL.write(make_checkpoint(), (1, 2, 4), tmp_path / "out")
    model = graph_of(tmp_path / "out" / artifact.path)
    assert op_counts(model)["If"] == (3 if form == "branches" else 0)
    assert op_counts(model)["Gather"] == (0 if form == "branches" else 1)
    inside = with_branches(model.graph)[1:]
    assert not any(node.op_type == "If" for graph in inside for node in graph.node)
    assert not any(tensor.external_data for graph in inside for tensor in graph.initializer)


def test_weights_are_cut_in_front_of_all_else(form: str, make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    artifact, *_fixed = UNIVERSAL.write(make_checkpoint(), (1, 4), tmp_path / "out")
    nodes = list(graph_of(tmp_path / "out" / artifact.path).graph.node)
    cuts = [i for i, node in enumerate(nodes) if node.op_type == "Slice" and node.input[0].startswith("blocks.")]
    first_use = next((i for i, node in enumerate(nodes) if node.op_type == "Conv"), len(nodes))
    assert not cuts if form == "branches" else max(i for i in cuts if "cls" not in nodes[i].name) < first_use


@pytest.mark.parametrize(
    ("config", "heads", "expected"),
    [
        (HydraConfig(heads=12), (3, 6, 12), "branches"),
        (HydraConfig(heads=12), (3, 6, 9, 12), "branches"),
        (HydraConfig(heads=12), tuple(range(3, 13)), "slices"),
        (HydraConfig(heads=12), (12,), "branches"),
        (HydraConfig(heads=12, head_dim=16, depth=6), tuple(range(1, 13)), "branches"),  # small: memory is no matter
    ],
)
def test_the_form_depends_on_the_memory_that_branches_would_take(
    form: str, config: HydraConfig, heads: tuple[int, ...], expected: str
) -> None:
    if form == "branches":  # the limits are as they are
        assert universal._few(config, heads) == (expected == "branches")


def _largest(model: onnx.ModelProto) -> None:
    """Of a head count that is not listed, the place of the nearest."""
    (node,) = [node for node in model.graph.node if node.op_type == "NonZero"]
    cast = onnx.helper.make_node("Cast", [node.input[0]], ["k/cast"], to=onnx.TensorProto.INT64)
    best = onnx.helper.make_node("ArgMax", ["k/cast"], [node.output[0]], axis=0, keepdims=1)
    index = list(model.graph.node).index(node)
    model.graph.node.remove(node)
    model.graph.node.insert(index, cast)
    model.graph.node.insert(index + 1, best)


def _another_list(model: onnx.ModelProto) -> None:
    (listed,) = [tensor for tensor in model.graph.initializer if tensor.name == "k/listed"]
    listed.CopyFrom(onnx.numpy_helper.from_array(np.array([1, 2, 5], np.int64), listed.name))


def _past_the_guard(model: onnx.ModelProto) -> None:
    """The number goes on beside the guard."""
    model.graph.node.append(onnx.helper.make_node("Identity", ["k"], ["k/beside"], name="beside"))


def _unused(model: onnx.ModelProto) -> None:
    """The list is no longer asked."""
    (node,) = [node for node in model.graph.node if node.name == "k/Reshape"]
    node.input[0] = "k/listed"


@pytest.mark.parametrize("change", [_largest, _another_list, _past_the_guard, _unused])
def test_a_graph_whose_guard_was_changed_is_refused(
    form: str, make_checkpoint: MakeCheckpoint, tmp_path: Path, change: Callable[[onnx.ModelProto], None]
) -> None:
    artifact, *_fixed = UNIVERSAL.write(make_checkpoint(), (1, 2, 4), tmp_path / "out")
    path = tmp_path / "out" / artifact.path
    ONNX.lint(path)
    model = graph_of(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CheckFailed, match=r"its head count is not guarded|it uses operators \['ArgMax'\]"):
        ONNX.lint(path)


def test_sessions_of_one_file_share_what_onnxruntime_made_of_it_and_no_answers(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint()
    artifacts = Case(targets.get("onnx"), "universal", "fp32").write(checkpoint, (1, 4), tmp_path / "out")
    path, image = tmp_path / "out" / artifacts[0].path, given(checkpoint, artifacts[0].spec)
    small, large = (OnnxSession(path, heads=k) for k in (1, 4))
    assert small.runtime is large.runtime
    once = small.run(image), large.run(image)
    np.testing.assert_array_equal(small.run(image), once[0])
    assert not np.allclose(*once)
    assert OnnxSession(path, 1, 1).runtime is not small.runtime
    os.utime(path, (1, 1))
    assert OnnxSession(path, heads=1).runtime is not small.runtime
