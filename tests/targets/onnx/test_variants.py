"""Every choice that a configuration has, in every form that ONNX graphs have."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from hydra_export import network, parity, targets
from hydra_export.checkpoint import Checkpoint
from hydra_export.parity import Reference
from hydra_export.target import Artifact, ExportSpec, Precision
from hydra_export.targets.onnx import OnnxOptions, universal
from tests import variants
from tests.targets.onnx.test_graph import op_counts, simplified

ONNX = targets.get("onnx")
HEADS = (1, 2, 4)
# Graph kind, or which of the two run-time forms; precision; input; batch; opset: each of these once, and most pairs.
_QUICK = (
    ("separate", "fp32", "tensor", 1, 17),
    ("shared", "int8", "image", 3, 20),
    ("branches", "fp16", "tensor", "dynamic", 23),
    ("slices", "fp32", "image", "dynamic", 13),
    ("slices", "int8", "tensor", 1, 23),
)
_ALL = tuple(
    product(
        ("separate", "shared", "branches", "slices"),
        ("fp32", "fp16", "int8"),
        ("tensor", "image"),
        (1, 3, "dynamic"),
        (13, 17, 18, 20, 23),
    )
)
# Of random weights no accuracy says anything, so the direction of the outputs has to hold.
_SMALLEST_INT8_COSINE = 0.99
NAMES = pytest.mark.parametrize("name", variants.VARIANTS)


@lru_cache(maxsize=1)
def checkpoint(name: str) -> Checkpoint:
    return variants.checkpoint(variants.VARIANTS[name])


@lru_cache(maxsize=1)
def expectation(name: str) -> Callable[[int, Precision], Reference]:
    """What PyTorch computes, by head count and precision, a row for each image; int8 is compared with fp32."""
    of, config = checkpoint(name), checkpoint(name).info.config

    def rows(outputs: NDArray[Any]) -> NDArray[Any]:
        of_patches = outputs[:, -config.num_patches :] if config.pooling == "none" else outputs
        return of_patches.reshape(len(outputs), -1)

    @lru_cache
    def expected(heads: int, precision: Precision) -> Reference:
        if precision == "int8":
            return expected(heads, "fp32")
        found = parity.reference(of.model, heads, pixels(of), of.info.preprocessing, precision)
        return Reference(rows(found.exact), rows(found.torch_fp32))

    return expected


def pixels(of: Checkpoint) -> NDArray[np.uint8]:
    """Noise; four images are no multiple of the batch of three."""
    config = of.info.config
    return np.random.default_rng(0).integers(0, 256, (4, *config.image_shape, config.channels), np.uint8)


def write(name: str, form: str, out: Path, **choices: Any) -> list[Artifact]:
    out.mkdir(exist_ok=True)
    graph = "universal" if form in ("branches", "slices") else form
    options = OnnxOptions(opset=choices.pop("opset"))
    with pytest.MonkeyPatch.context() as patch:
        if form == "slices":  # which of the two a model gets depends on its size
            patch.setattr(universal, "_MOST_COPIES", 0.0)
            patch.setattr(universal, "_MOST_BYTES", 0)
        spec = ExportSpec(graph=graph, options=options, **choices)  # type: ignore[arg-type]
        return ONNX.write(checkpoint(name), HEADS, spec, out)


def check(name: str, case: tuple[Any, ...], out: Path) -> None:
    form, precision, image, batch, opset = case
    of = checkpoint(name)
    given = pixels(of) if image == "image" else of.info.preprocessing.normalise(pixels(of))
    for artifact in write(name, form, out, precision=precision, input=image, batch=batch, opset=opset):
        path = out / artifact.path
        work, config = ONNX.lint(path), of.info.config
        num_images = batch if batch == 3 else 1
        assert work.macs <= num_images * sum(network.macs(config, k) for k in artifact.heads)
        assert ONNX.signature(path) == (artifact.inputs, artifact.outputs)
        for k in artifact.heads:
            expected = expectation(name)(k, precision)
            outputs = ONNX.load(path, k).run(given)
            assert outputs.shape[1:] == config.output_shape(k)
            record = parity.compare(outputs.reshape(len(given), -1), expected)
            if precision == "int8":
                assert record.cosine > _SMALLEST_INT8_COSINE, (name, case, k)
            else:
                parity.check(f"{name}: {case}", k, record)


@NAMES
def test_it_computes_what_the_model_does(name: str, tmp_path: Path) -> None:
    for i, case in enumerate(_QUICK):
        check(name, case, tmp_path / str(i))


@pytest.mark.slow
@NAMES
def test_it_computes_what_the_model_does_in_other_forms(name: str, tmp_path: Path) -> None:
    for i, case in enumerate(variants.turns(_ALL, list(variants.VARIANTS).index(name), 9)):
        check(name, case, tmp_path / str(i))


@NAMES
def test_onnxsim_finds_nothing_to_simplify(name: str, tmp_path: Path) -> None:
    """But that a learned query is the same for all images, and what keeps OpenVINO from making one kernel of an MLP."""
    known = {"attention pooling": {"Gemm": 1, "Reshape": 2}, "attention pooling of all": {"Gemm": 1, "Reshape": 2}}
    for opset, batch in ((17, 1), (23, "dynamic")):
        known["gated"] = {"Reshape": 3} if batch == 1 else {}
        artifact = write(name, "separate", tmp_path / str(opset), opset=opset, batch=batch)[1]
        model = onnx.load(tmp_path / str(opset) / artifact.path)
        assert dict(op_counts(model) - op_counts(simplified(model))) == known.get(name, {})
        assert not op_counts(simplified(model)) - op_counts(model)


@pytest.mark.parametrize("form", ["shared", "branches"])
@NAMES
def test_weight_files_hold_nothing_that_no_graph_uses(name: str, form: str, tmp_path: Path) -> None:
    used: set[tuple[str, int]] = set()
    sizes: dict[str, int] = {}
    for artifact in write(name, form, tmp_path, opset=17, batch=1):
        model = onnx.load(tmp_path / artifact.path, load_external_data=False)
        for tensor in model.graph.initializer:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            if entries:
                first, location = int(entries["offset"]), entries["location"]
                used |= {(location, at) for at in range(first, first + int(entries["length"]))}
                sizes[location] = (tmp_path / location).stat().st_size
    for location, size in sizes.items():
        content = (tmp_path / location).read_bytes()
        assert not any(content[at] for at in range(size) if (location, at) not in used)  # zeros align


def test_the_last_bias_is_added_before_the_last_product_of_one_row(tmp_path: Path) -> None:
    """OpenVINO crashes on a product, a bias and a sum there."""
    for name, place in (("attention pooling", "attn_pool/mlp"), ("gated", "blocks.1/mlp"), ("distilled", "head_dist")):
        for artifact in write(name, "separate", tmp_path / name, opset=17, batch=1):
            graph = onnx.load(tmp_path / name / artifact.path).graph
            by_output = {node.output[0]: node for node in graph.node}
            last = next(node for node in graph.node if node.name == f"{place}/residual/Add")
            assert [by_output[value].op_type for value in last.input] == ["Add", "MatMul"]


@pytest.mark.parametrize(("name", "output"), [("plain", "logits"), ("projection", "features")])
def test_the_last_product_is_called_as_its_result_is(name: str, output: str, tmp_path: Path) -> None:
    for artifact in write(name, "separate", tmp_path, opset=17, batch=1):
        graph = onnx.load(tmp_path / artifact.path).graph
        assert (graph.node[-1].name, graph.output[0].name) == (output, output)
