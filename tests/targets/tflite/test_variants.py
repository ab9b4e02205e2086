"""Every choice that a model has: what is written of it runs, and computes what PyTorch does."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from hydra_export import network, parity
from hydra_export.architecture import HydraConfig, Rotary
from hydra_export.checkpoint import Checkpoint
from hydra_export.parity import Reference
from hydra_export.target import STATIC, Artifact, ExportSpec, InputForm
from hydra_export.targets.tflite import reader
from hydra_export.targets.tflite.operators import OPERATORS
from tests.targets.conftest import Case, MakeCheckpoint, given, pixels
from tests.targets.tflite.conftest import TFLITE
from tests.targets.tflite.test_metadata import for_android
from tests.targets.tflite.test_mutants import in_a_process_of_its_own
from tests.variants import VARIANTS, checkpoint, turns

_SMALLEST_INT8_COSINE = 0.99  # random weights in so few channels: rounding is coarse
_MODELS = VARIANTS | {
    "distilled, own classifiers": msgspec.structs.replace(VARIANTS["distilled"], separate_classifiers=(1, 2, 4)),
}
_QUICK: list[tuple[Case, dict[str, Any]]] = [
    (Case(TFLITE, "separate", "fp32"), {"batch": "dynamic"}),
    (Case(TFLITE, "universal", "fp16"), {"batch": 3, "input": "image"}),
    (Case(TFLITE, "universal", "int8"), {"batch": "dynamic"}),
]
_EVERY_OPERATOR = {  # that models choose
    "rotary": Rotary(),
    "positions": "none",
    "register_tokens": 3,
    "pooling": "avgmax",
    "qk_norm": True,
    "activation": "quick_gelu",
    "mlp_ratio": 85 / 32,
}


def _every() -> Iterator[tuple[Case, dict[str, Any]]]:
    forms = itertools.product(get_args(InputForm), (1, 3, "dynamic"))
    floats = [precision for precision in TFLITE.precisions if precision not in STATIC]  # of others: test_static
    for graph, precision, (form, batch) in itertools.product(TFLITE.graphs, floats, forms):
        for overlap in (True, False) if graph == "universal" else (True,):
            yield Case(TFLITE, graph, precision), {"input": form, "batch": batch, "overlap": overlap}


def _prove(config: HydraConfig, out: Path, cases: list[tuple[Case, dict[str, Any]]]) -> None:
    model = checkpoint(config)
    for number, (case, choices) in enumerate(cases):
        for artifact in case.write(model, (1, 2, 4), out / str(number), **choices):
            path = out / str(number) / artifact.path
            work = TFLITE.lint(path)
            batch = artifact.spec.batch if isinstance(artifact.spec.batch, int) else 1
            assert len(artifact.heads) > 1 or 0 < work.macs <= batch * network.macs(config, *artifact.heads)
            assert TFLITE.signature(path) == (artifact.inputs, artifact.outputs)
            for k in artifact.heads:
                _check(model, artifact, path, k)


def _check(model: Checkpoint, artifact: Artifact, path: Path, k: int) -> None:
    """In every runtime, against float64 PyTorch."""
    config, precision = model.info.config, artifact.spec.precision
    wanted = parity.reference(model.model, k, pixels(config), model.info.preprocessing, precision)
    wanted = Reference(_vectors(config, wanted.exact), _vectors(config, wanted.torch_fp32))
    for runtime in parity.verifying(TFLITE, precision):
        found = TFLITE.load(path, k, runtime=runtime.name).run(given(model, artifact.spec))
        assert found.shape[1:] == config.output_shape(k)
        record = parity.compare(_vectors(config, found), wanted)
        if precision == "int8":
            assert record.cosine > _SMALLEST_INT8_COSINE
        else:
            parity.check(artifact.path, k, record, runtime.name)


def _vectors(config: HydraConfig, outputs: NDArray[Any]) -> NDArray[Any]:
    """One for each image; timm gives the tokens before those of the patches too."""
    return outputs[:, -config.num_patches :].reshape(len(outputs), -1) if config.pooling == "none" else outputs


@pytest.mark.parametrize("name", _MODELS)
def test_files_compute_every_choice(name: str, tmp_path: Path) -> None:
    _prove(_MODELS[name], tmp_path, _QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("name", _MODELS)
def test_so_does_every_file(name: str, tmp_path: Path) -> None:
    _prove(_MODELS[name], tmp_path, turns(_every(), list(_MODELS).index(name), 3))


@pytest.mark.parametrize("name", _MODELS)
def test_shapes_are_those_that_the_reference_kernels_compute(name: str, tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType  # type: ignore[import-untyped]

    model, plain = checkpoint(_MODELS[name]), OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    (artifact,) = TFLITE.write(model, (4,), ExportSpec(batch="dynamic"), tmp_path)
    path, image = tmp_path / artifact.path, given(model, artifact.spec).transpose(0, 2, 3, 1)
    opened = Interpreter(str(path), experimental_op_resolver_type=plain, experimental_preserve_all_tensors=True)
    opened.resize_tensor_input(0, image.shape, strict=True)
    opened.allocate_tensors()
    opened.set_tensor(0, np.ascontiguousarray(image))
    opened.invoke()
    (graph,) = reader.read(path).graphs
    said = [[len(image) if size == -1 else size for size in tensor.shape] for tensor in graph.tensors]
    computed = opened.get_tensor_details()[: len(said)]  # behind them are the kernels' own
    assert [list(found["shape"]) for found in computed] == said
    assert {tensor.shape[0] for tensor in graph.tensors if not tensor.buffer} == {-1}  # as GPU delegates want it
    (output,) = opened.get_output_details()
    assert output["name"] == artifact.outputs[0].name
    expected = TFLITE.load(path, 4).run(given(model, artifact.spec))
    np.testing.assert_allclose(opened.get_tensor(output["index"]), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", _MODELS)
def test_xnnpack_takes_the_whole_graph_in_one_piece(name: str, tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    (artifact,) = TFLITE.write(checkpoint(_MODELS[name]), (4,), ExportSpec(batch="dynamic"), tmp_path)
    opened = Interpreter(str(tmp_path / artifact.path))
    opened.resize_tensor_input(0, [5, *opened.get_input_details()[0]["shape"][1:]], strict=True)
    opened.allocate_tensors()
    (delegate,) = [op for op in opened._get_ops_details() if op["op_name"] == "DELEGATE"]
    constants = {i for i, tensor in enumerate(reader.read(tmp_path / artifact.path).graphs[0].tensors) if tensor.buffer}
    assert set(delegate["inputs"]) - constants == {opened.get_input_details()[0]["index"]}
    assert list(delegate["outputs"]) == [opened.get_output_details()[0]["index"]]


def test_damaged_files_of_every_operator_are_refused_or_run(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    (artifact,) = TFLITE.write(make_checkpoint(**_EVERY_OPERATOR), (2,), ExportSpec(), tmp_path)
    names = {(operator.code, operator.version): operator.name for operator in OPERATORS}
    used = {names[code] for code in reader.read(tmp_path / artifact.path).opcodes}
    assert used >= {"CONCATENATION", "LOGISTIC", "REDUCE_MAX"}
    found = in_a_process_of_its_own(tmp_path / artifact.path, 100, 40_000, most_runs=10)
    assert found["refused"] > 70
    assert found["runs"] > 0


def test_as_many_registers_as_a_model_may_have_pass(tmp_path: Path) -> None:
    """And a single patch."""
    config = msgspec.structs.replace(VARIANTS["average and maximum"], register_tokens=256, patch_size=16)
    (artifact,) = TFLITE.write(checkpoint(config), (1,), ExportSpec(), tmp_path)
    TFLITE.lint(tmp_path / artifact.path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("plain", "one score per class, before softmax"),
        ("distilled features", "the features"),
        ("rotary", "the class token"),
        ("projection", "the features"),
        ("patch tokens", "a vector for each patch"),
    ],
)
def test_android_is_told_what_comes_out(name: str, said: str, tmp_path: Path) -> None:
    (artifact,) = TFLITE.write(checkpoint(VARIANTS[name]), (4,), ExportSpec(), tmp_path)
    (output,) = for_android(tmp_path / artifact.path).tables(3)[0].tables(3)
    assert output.text(1) == said
