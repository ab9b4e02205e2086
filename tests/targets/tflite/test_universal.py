"""One file for several head counts: every listed one is right in both ways, every other an error, bytes are shared."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hydra_export import network
from hydra_export.checkpoint import Checkpoint
from hydra_export.errors import BadInput, CheckFailed
from hydra_export.exporting import jobs
from hydra_export.target import Precision
from hydra_export.targets.tflite import TFLiteOptions, reader
from hydra_export.targets.tflite.session import TFLiteSession
from tests.targets.conftest import Case, MakeCheckpoint, given
from tests.targets.tflite.conftest import TFLITE, MakeFile, changed, changed_universal
from tests.targets.tflite.test_session import EVERY_RUNTIME

UNIVERSAL = Case(TFLITE, "universal", "fp32")
LISTS = pytest.mark.parametrize(
    "heads",
    [(3, 6, 12), (1, 2, 4, 12), (5,), (11, 12), pytest.param(tuple(range(1, 13)), marks=pytest.mark.slow)],
    ids=str,
)
PRECISIONS = pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
OVERLAP = pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "no_overlap"])


def twelve_heads(make_checkpoint: MakeCheckpoint, **overrides: object) -> Checkpoint:
    return make_checkpoint(heads=12, head_dim=4, **overrides)


def written_file(
    make_checkpoint: MakeCheckpoint, folder: Path, heads: tuple[int, ...], precision: Precision = "fp32", **choices: Any
) -> Path:
    (artifact,) = Case(TFLITE, "universal", precision).write(
        twelve_heads(make_checkpoint), heads, folder / "out", **choices
    )
    return folder / "out" / artifact.path


def runners(path: Path) -> Callable[..., NDArray[np.float32]]:
    """All signatures of one interpreter, as an app has them."""
    from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-untyped]

    opened = Interpreter(str(path))
    found = {key: opened.get_signature_runner(key) for key in opened.get_signature_list()}
    return lambda key, **inputs: np.array(found[key](**inputs)["logits"])


@LISTS
@OVERLAP
def test_every_list_of_head_counts_computes_its_subnetworks(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, heads: tuple[int, ...], overlap: bool
) -> None:
    checkpoint, batch = twelve_heads(make_checkpoint), "dynamic" if overlap else 2
    (artifact,) = UNIVERSAL.write(checkpoint, heads, tmp_path / "out", overlap=overlap, batch=batch)
    path, image = tmp_path / "out" / artifact.path, given(checkpoint, artifact.spec)
    assert artifact.heads == heads
    assert [(info.name, info.dtype, info.shape[-1]) for info in artifact.inputs] == [
        ("image", "float32", 3),
        ("k", "int32", 1),
    ]
    TFLITE.lint(path)
    for k in heads:
        (alone,) = TFLITE.write(checkpoint, (k,), UNIVERSAL.spec(), tmp_path)
        expected = TFLITE.load(tmp_path / alone.path, k).run(image)
        np.testing.assert_allclose(TFLITE.load(path, k).run(image), expected, rtol=0, atol=2e-5)


def test_the_signatures_are_the_head_counts_and_run(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    opened = Interpreter(str(written_file(make_checkpoint, tmp_path, (3, 6, 12))))
    one = {"inputs": ["image"], "outputs": ["logits"]}
    both = {"inputs": ["image", "k"], "outputs": ["logits"]}
    assert opened.get_signature_list() == {"k3": one, "k6": one, "k12": one, "run": both}
    (k,) = [
        found
        for found in opened.get_signature_runner("run").get_input_details().values()
        if found["name"].endswith("/k")
    ]
    assert (k["dtype"], list(k["shape"])) == (np.int32, [1])


def test_who_names_no_signature_runs_the_largest(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    path = written_file(make_checkpoint, tmp_path, (3, 6, 12))
    image = np.ones((1, 16, 16, 3), np.float32)
    opened = Interpreter(str(path))
    opened.allocate_tensors()
    opened.set_tensor(opened.get_input_details()[0]["index"], image)
    opened.invoke()
    logits = opened.get_tensor(opened.get_output_details()[0]["index"])
    np.testing.assert_array_equal(logits, runners(path)("k12", image=image))


@OVERLAP
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_switching_in_random_order_equals_fresh_interpreters(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, overlap: bool, precision: Precision
) -> None:
    """By either signature, with other numbers of images each time, and after errors."""
    heads = (1, 3, 6, 12)
    path = written_file(make_checkpoint, tmp_path, heads, precision, overlap=overlap, batch="dynamic")
    images = np.random.default_rng(1).standard_normal((3, 16, 16, 3)).astype(np.float32)
    fresh = {(k, count): runners(path)(f"k{k}", image=images[:count]) for k in heads for count in range(1, 4)}
    run, chance = runners(path), np.random.default_rng(0)
    for _ in range(80):
        k, count, way = int(chance.choice(heads)), int(chance.integers(1, 4)), chance.integers(5)
        image = images[:count]
        if way == 0:
            with pytest.raises(RuntimeError, match="gather index out of bounds"):
                run("run", image=image, k=np.array([k + 1 if k != 12 else 0], np.int32))
        elif way < 3:
            np.testing.assert_array_equal(run(f"k{k}", image=image), fresh[k, count])
        else:
            np.testing.assert_array_equal(run("run", image=image, k=np.array([k], np.int32)), fresh[k, count])
    logits = [fresh[k, 3] for k in heads]
    assert not any(np.allclose(one, other, atol=1e-3) for one, other in itertools.combinations(logits, 2))


@EVERY_RUNTIME
def test_a_session_runs_every_head_count_in_random_order(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, runtime: str
) -> None:
    path, heads = written_file(make_checkpoint, tmp_path, (1, 3, 12)), (1, 3, 12)
    image = given(twelve_heads(make_checkpoint), UNIVERSAL.spec(), 1)
    fresh = {k: TFLITE.load(path, k, runtime=runtime).run(image) for k in heads}
    session = TFLiteSession(path, 0, runtime, 3)
    for k in np.random.default_rng(0).choice(heads, 12):
        np.testing.assert_array_equal(session.run_choosing(image, int(k)), fresh[int(k)])
        np.testing.assert_array_equal(session.run(image), fresh[3])


@EVERY_RUNTIME
@pytest.mark.parametrize("heads", [(3, 6, 12), (12,), tuple(range(2, 12))], ids=str)
@pytest.mark.parametrize("form", ["tensor", "image"])
def test_another_head_count_is_an_error_and_never_another_width(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, runtime: str, heads: tuple[int, ...], form: str
) -> None:
    path = written_file(make_checkpoint, tmp_path, heads, input=form)
    session = TFLiteSession(path, 1, runtime, heads[-1])
    image = given(twelve_heads(make_checkpoint), UNIVERSAL.spec(input=form), 1)
    for k in sorted({*range(-2, 15), 2**31 - 1, -(2**31)} - set(heads)):
        with pytest.raises(CheckFailed, match=rf"{runtime} cannot run .*universal\.tflite with k = \[{k}\]") as caught:
            session.run_choosing(image, k)
        assert caught.value.remedy == f"It has k = {', '.join(map(str, heads))}."
        if runtime != "litert-compiled":  # which says that it failed, and no more
            assert "gather index out of bounds" in caught.value.message
    np.testing.assert_array_equal(session.run_choosing(image, heads[0]), session_of(path, heads[0], runtime).run(image))


def session_of(path: Path, heads: int, runtime: str) -> TFLiteSession:
    return TFLiteSession(path, 1, runtime, heads)


@pytest.mark.parametrize(
    ("k", "error", "said"),
    [
        (np.array([3], np.int64), ValueError, "INT64 but expected type INT32"),
        (np.array([3.0], np.float32), ValueError, "FLOAT32 but expected type INT32"),
        (np.array([3, 3], np.int32), RuntimeError, "failed to (prepare|invoke)"),
        (np.array([], np.int32), (RuntimeError, ValueError), "."),
    ],
    ids=str,
)
def test_a_head_count_of_another_type_or_shape_is_an_error(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, k: NDArray[Any], error: Any, said: str
) -> None:
    path = written_file(make_checkpoint, tmp_path, (3, 6))
    with pytest.raises(error, match=said):
        runners(path)("run", image=np.ones((1, 16, 16, 3), np.float32), k=k)


def test_a_session_of_a_head_count_that_is_not_there_is_refused(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    path = written_file(make_checkpoint, tmp_path, (3, 6))
    with pytest.raises(CheckFailed, match=r"does not contain subnetwork 4: it has 3, 6"):
        TFLITE.load(path, 4)


def test_a_file_of_one_head_count_takes_none(written: MakeFile) -> None:
    with pytest.raises(CheckFailed, match="has no signature that takes the head count"):
        TFLiteSession(written(2), 1, "litert", 2).run_choosing(np.zeros((1, 3, 16, 16), np.float32), 2)


@EVERY_RUNTIME
def test_a_run_that_differs_from_the_signature_is_named(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    """The chain of questions leads to other subnetworks, which lint would see."""
    path = written_file(make_checkpoint, tmp_path, (3, 6), overlap=False)

    def exchange(model: Any) -> None:
        for graph in model.subgraphs:
            if graph.name in (b"is_3", b"is_6"):
                branch = graph.operators[1].builtinOptions
                branch.thenSubgraphIndex = {5: 6, 6: 5}[branch.thenSubgraphIndex]

    changed(path, exchange)
    with pytest.raises(CheckFailed, match="goes on to other graphs than"):
        TFLITE.load(path, 3)
    monkeypatch.setattr("hydra_export.targets.tflite.session.linted", reader.read)
    session = TFLiteSession(path, 1, runtime, 3)
    with pytest.raises(CheckFailed, match=r"signature 'run' with k = 3 has other logits than signature 'k3'"):
        session.run(given(twelve_heads(make_checkpoint), UNIVERSAL.spec()))


# bytes


@LISTS
@PRECISIONS
def test_weights_are_stored_once(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, heads: tuple[int, ...], precision: Precision
) -> None:
    model = reader.read(written_file(make_checkpoint, tmp_path, heads, precision))
    behind = sorted({(extent.start, extent.size) for extent in model.buffers if extent.behind})
    assert all(start % 64 == 0 for start, _size in behind)
    regions: dict[int, int] = {}
    for start, size in behind:
        regions[start] = max(size, regions.get(start, 0))
    for (start, size), following in itertools.pairwise(sorted(regions.items())):
        assert start + size <= following[0] < start + size + 64
    config = twelve_heads(make_checkpoint).info.config
    each = {"fp32": 4, "fp16": 2, "int8": 1}[precision]
    folded = network.num_params(config, heads[-1]) - config.width(heads[-1])  # the class token lies in the positions
    others = 4 * (sum(regions.values()) // 4) if precision == "int8" else each * folded
    assert sum(regions.values()) == others
    said = set(model.metadata.values())
    assert max(e.size for i, e in enumerate(model.buffers) if not e.behind and i not in said) < 100  # shapes


@PRECISIONS
@pytest.mark.parametrize(("heads", "most"), [((3, 6, 12), 1.01), (tuple(range(3, 13)), 1.02)], ids=str)
def test_a_file_of_all_is_hardly_larger_than_that_of_the_largest(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, precision: Precision, heads: tuple[int, ...], most: float
) -> None:
    """Of blocks of ViT-B's size: what each head count adds are operators, and int8's scales."""
    if precision == "int8" and len(heads) > 3:
        most = 1.06
    checkpoint = make_checkpoint(heads=12, head_dim=64, depth=2, image_size=32, patch_size=16)
    sizes = []
    for graph, listed in (("universal", heads), ("separate", heads[-1:])):
        (artifact,) = Case(TFLITE, graph, precision).write(checkpoint, listed, tmp_path / graph)  # type: ignore[arg-type]
        sizes.append((tmp_path / graph / artifact.path).stat().st_size)
    assert sizes[0] <= most * sizes[1]


def test_blocks_are_columns_of_the_checkpoint_and_smaller_ones_their_beginning(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    path = written_file(make_checkpoint, tmp_path, (3, 6, 12))
    state = twelve_heads(make_checkpoint).model.state_dict()
    model, content = reader.read(path), path.read_bytes()
    found: dict[tuple[str, int], reader.Extent] = {}
    for i, graph in enumerate(model.graphs):
        for tensor in graph.tensors:
            if tensor.buffer and model.buffers[tensor.buffer].behind:
                found[tensor.name.removeprefix(f"{i}/"), tensor.shape[0]] = model.buffers[tensor.buffer]
    whole = state["blocks.1.mlp.fc2.weight"].numpy()
    for k, (low, high) in itertools.product((3, 6, 12), [(0, 3), (3, 6), (6, 12)]):
        if high > k:
            continue
        extent = found[f"blocks.1.mlp.fc2.weight[{low}:{high}]", 4 * k]
        block = np.frombuffer(content[extent.start : extent.start + extent.size], "<f4").reshape(4 * k, -1)
        np.testing.assert_array_equal(block, whole[: 4 * k, 16 * low : 16 * high])
        assert extent.start == found[f"blocks.1.mlp.fc2.weight[{low}:{high}]", 48].start


def test_without_overlap_every_buffer_has_bytes_of_its_own(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    path = written_file(make_checkpoint, tmp_path, (3, 6, 12), overlap=False)
    model = reader.read(path)
    extents = sorted((extent.start, extent.size) for extent in model.buffers[1:])
    assert not any(extent.behind for extent in model.buffers)
    for (start, size), (following, _size) in itertools.pairwise(extents):
        assert start + size <= following
    assert model.content(model.metadata["min_runtime_version"]).startswith(b"2.9.0")
    larger, smaller = path.stat().st_size, written_file(make_checkpoint, tmp_path / "b", (3, 6, 12)).stat().st_size
    assert larger > 1.05 * smaller


@OVERLAP
def test_no_two_tensors_of_a_file_have_one_name(make_checkpoint: MakeCheckpoint, tmp_path: Path, overlap: bool) -> None:
    """ai-edge-quantizer knows tensors by their names alone, whatever their graph."""
    model = reader.read(written_file(make_checkpoint, tmp_path, (3, 6, 12), overlap=overlap))
    names = [tensor.name for graph in model.graphs for tensor in graph.tensors]
    assert len(set(names)) == len(names)


def test_files_that_share_bytes_need_a_runtime_that_reads_them(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    (artifact,) = UNIVERSAL.write(make_checkpoint(), (1, 4), tmp_path / "out")
    assert artifact.needs == {"tflite": "2.16.0"}


@PRECISIONS
@OVERLAP
def test_the_same_bytes_are_written_twice(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, precision: Precision, overlap: bool
) -> None:
    checkpoint = make_checkpoint(separate_classifiers=(1, 4))
    content = []
    for place in ("one", "other"):
        (artifact,) = Case(TFLITE, "universal", precision).write(
            checkpoint, (1, 4), tmp_path / place, input="image", overlap=overlap
        )
        content.append((tmp_path / place / artifact.path).read_bytes())
    assert content[0] == content[1]


NO_OVERLAP = TFLiteOptions(overlap=False)


def test_no_overlap_is_refused_where_nothing_reads_it() -> None:
    with pytest.raises(BadInput, match="`overlap` applies to target 'tflite'"):
        jobs(["onnx"], ["universal"], options=NO_OVERLAP)
    with pytest.raises(BadInput, match="`overlap` applies to graph kind 'universal'") as refused:
        jobs(["tflite"], ["separate"], options=NO_OVERLAP)
    assert refused.value.remedy == "Add it: `graphs=separate,universal`."
    (job,) = jobs(["tflite"], ["universal"], options=NO_OVERLAP)
    assert job.spec.options == NO_OVERLAP


def test_a_projection_has_run_as_its_length_is_fixed(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(num_classes=0, projection=5)
    (artifact,) = UNIVERSAL.write(checkpoint, (1, 4), tmp_path / "out")
    assert [info.name for info in artifact.inputs] == ["image", "k"]
    assert (artifact.outputs[0].name, artifact.outputs[0].shape) == ("features", (1, 5))
    UNIVERSAL.verify(checkpoint, [artifact], tmp_path / "out")


def test_a_backbone_has_signatures_and_no_run(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(num_classes=0)
    (artifact,) = UNIVERSAL.write(checkpoint, (1, 4), tmp_path / "out")
    path = tmp_path / "out" / artifact.path
    assert [info.name for info in artifact.inputs] == ["image"]
    assert artifact.outputs[0].shape == (1, "width")
    for k in (1, 4):
        assert TFLITE.load(path, k).run(given(checkpoint, artifact.spec)).shape == (5, 8 * k)
    UNIVERSAL.verify(checkpoint, [artifact], tmp_path / "out")


def test_a_head_count_without_a_classifier_is_refused_and_nothing_is_written(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="no classifier for heads 3"):
        UNIVERSAL.write(make_checkpoint(separate_classifiers=(2, 4)), (2, 3), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("overlap", [True, False])
def test_xnnpack_takes_every_subnetwork_in_one_piece(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, overlap: bool
) -> None:
    """Of the operators that are left to the interpreter, none is a subnetwork's."""
    from ai_edge_litert.interpreter import Interpreter

    path = written_file(make_checkpoint, tmp_path, (3, 6), overlap=overlap)
    opened = Interpreter(str(path))
    opened.allocate_tensors()
    names = {found["op_name"] for found in opened._get_ops_details()}  # of the first graph
    assert names == ({"IF"} if overlap else names)
    if not overlap:
        assert [op["op_name"] for op in opened._get_ops_details()].count("DELEGATE") == 1


# lint


def _graph(model: Any, name: bytes) -> Any:
    (found,) = [graph for graph in model.subgraphs if graph.name == name]
    return found


def _branch(model: Any, name: bytes) -> Any:
    return _graph(model, name).operators[-1].builtinOptions


def _other_number(model: Any) -> None:
    graph = _graph(model, b"is_2")
    other = next(t for t in _graph(model, b"is_4").tensors if t.name.endswith(b"k/number"))
    next(t for t in graph.tensors if t.name.endswith(b"k/number")).buffer = other.buffer


def _swap(model: Any) -> None:
    one, other = _branch(model, b"is_1"), _branch(model, b"is_2")
    one.thenSubgraphIndex, other.thenSubgraphIndex = other.thenSubgraphIndex, one.thenSubgraphIndex


def _falls_through(model: Any) -> None:
    _branch(model, b"is_4").elseSubgraphIndex = _branch(model, b"is_4").thenSubgraphIndex


def _loop(model: Any) -> None:
    _branch(model, b"run").elseSubgraphIndex = [graph.name for graph in model.subgraphs].index(b"run")


def _far_branch(model: Any) -> None:
    _branch(model, b"run").elseSubgraphIndex = 99


def _never(model: Any) -> None:
    graph = _graph(model, b"k1")
    condition = next(t for t in graph.tensors if t.name.endswith(b"/always"))
    buffer = type(model.buffers[0])()
    buffer.data = np.zeros(1, np.uint8)
    model.buffers.append(buffer)
    condition.buffer = len(model.buffers) - 1


def _other_call(model: Any) -> None:
    branch, other = _branch(model, b"k1"), _branch(model, b"k2")
    branch.thenSubgraphIndex = branch.elseSubgraphIndex = other.thenSubgraphIndex


def _no_run(model: Any) -> None:
    model.signatureDefs = [s for s in model.signatureDefs if s.signatureKey != b"run"]


def _renamed(model: Any) -> None:
    model.signatureDefs[0].signatureKey = b"k3"


def _signatures_swapped(model: Any) -> None:
    one, other, *_rest = model.signatureDefs
    one.subgraphIndex, other.subgraphIndex = other.subgraphIndex, one.subgraphIndex


def _weights_swapped(model: Any) -> None:
    """Two blocks of one size in one graph alone."""
    graph = next(graph for graph in model.subgraphs if graph.name == b"tiny-k2")
    q, k = (
        next(t for t in graph.tensors if t.name.endswith(b"/blocks.0.attn.%s.weight[0:1]" % part))
        for part in (b"q", b"k")
    )
    q.buffer, k.buffer = k.buffer, q.buffer


def _within(model: Any) -> None:
    largest = max(model.buffers, key=lambda buffer: buffer.size)
    smaller = next(b for b in model.buffers if 0 < b.size <= largest.size - 64 and b.offset > largest.offset)
    smaller.offset = largest.offset + 64


def _both(model: Any) -> None:
    buffer = next(b for b in model.buffers if b.offset)
    buffer.data = np.zeros(buffer.size, np.uint8)


def _in_the_flatbuffer(model: Any) -> None:
    next(b for b in model.buffers if b.offset).offset = 64


def _not_aligned(model: Any) -> None:
    next(b for b in model.buffers if b.offset).offset += 16


def _wraps(model: Any) -> None:
    buffer = next(b for b in model.buffers if b.offset)
    buffer.offset = 2**64 - 64


def _nothing(model: Any) -> None:
    next(b for b in model.buffers if b.offset).size = 0


def _beyond(model: Any) -> None:
    last = max((b for b in model.buffers if b.offset), key=lambda b: b.offset)
    last.offset += 64 * 1024


def _old_runtime(model: Any) -> None:
    (entry,) = [entry for entry in model.metadata if entry.name == b"min_runtime_version"]
    model.buffers[entry.buffer].data = np.frombuffer(b"2.9.0".ljust(16, b"\0"), np.uint8)


BROKEN: dict[str, tuple[Callable[[Any], None], str]] = {
    "another number": (_other_number, "does not test whether k is EQUAL 2"),
    "subnetworks exchanged": (_swap, "goes on to other graphs than"),
    "what is none is the largest": (_falls_through, "goes on to other graphs than"),
    "a loop": (_loop, "graph run goes on to graph 3 of 12"),
    "a branch outside": (_far_branch, "graph run goes on to graph 99 of 12"),
    "a signature that may run nothing": (_never, "signature k1 does not always run its graph"),
    "a signature of another subnetwork": (_other_call, "signature k1 runs another graph"),
    "no run": (_no_run, "it has other graphs and signatures"),
    "a signature by another name": (_renamed, "it has other graphs and signatures"),
    "signatures exchanged": (_signatures_swapped, "it has other graphs and signatures"),
    "weights exchanged": (_weights_swapped, "is at byte"),
    "one region in another": (_within, "begins within"),
    "content in two places": (_both, "has content and an offset,"),
    "content in the flatbuffer": (_in_the_flatbuffer, "is not after the flatbuffer"),
    "content that is not aligned": (_not_aligned, "is not aligned"),
    "content that wraps": (_wraps, "is not after the flatbuffer"),
    "content of nothing": (_nothing, "is not after the flatbuffer|has 0 bytes of content"),
    "content beyond the end": (_beyond, "is not after the flatbuffer"),
    "an older runtime": (_old_runtime, "its min_runtime_version is not that of its operators"),
}


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_promise_is_named(written: MakeFile, change: Callable[[Any], None], message: str) -> None:
    path = written((1, 2, 4), graph="universal")
    changed_universal(path, lambda model: None)
    TFLITE.lint(path)
    path = written((1, 2, 4), graph="universal")
    changed_universal(path, change)
    with pytest.raises(CheckFailed, match=rf"tiny-universal\.tflite .*({message})"):
        TFLITE.lint(path)
    with pytest.raises(CheckFailed, match=message):
        TFLITE.load(path, 2)
