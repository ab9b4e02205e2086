"""TFLite graphs of integer activations compute what the network with rounded tensors does, in every variant."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

import hydra_export
from hydra_export import runtime, targets
from hydra_export.arrays import Array
from hydra_export.bundle import GOLDEN
from hydra_export.checkpoint import Checkpoint
from hydra_export.errors import CheckFailed
from hydra_export.quantized.grid import Range
from hydra_export.quantized.taps import Tapped
from hydra_export.target import STATIC, ExportSpec, Precision
from hydra_export.targets.tflite import reader
from hydra_export.targets.tflite.operators import BY_CODE
from hydra_export.targets.tflite.weights import stored
from tests.quantized.test_taps import images
from tests.targets.onnx.test_static import HEADS, in_steps, off
from tests.targets.onnx.test_static import calibrated as counted
from tests.targets.tflite.conftest import changed, changed_universal, operator, tensor
from tests.targets.tflite.test_mutants import in_a_process_of_its_own
from tests.variants import VARIANTS, checkpoint

TFLITE = targets.get("tflite")
PRECISIONS = pytest.mark.parametrize("precision", STATIC)
# LiteRT's int8 kernels round between two steps, and XNNPACK's to others than the reference's; int16 is near to exact.
ALLOWED = {"int8-static": 1.5, "w8a16": 0.3}
SPAN = 1e-3  # of float32 and of 16 bits


@functools.cache
def calibrated(name: str, precision: Precision, wide: tuple[str, ...] = ()) -> Checkpoint:
    """Variant *name*; all head counts give integers of one scale, as exports have it."""
    source = counted(checkpoint(VARIANTS[name]), precision, wide=wide)
    assert source.activations is not None
    by_heads, output = source.activations[precision], source.info.config.output
    shared = functools.reduce(Range.union, [each[output] for each in by_heads.values()])
    names = [name for name in (output, _last(source)) if name]
    kept = {k: {**each, **dict.fromkeys(names, shared)} for k, each in by_heads.items()}
    return replace(source, activations={precision: kept})


def _last(source: Checkpoint) -> str:
    """The last tap, of a model without classes."""
    seen: list[str] = []

    def look(name: str, x: Tensor) -> Tensor:
        seen.append(name)
        return x

    config = source.info.config
    with torch.inference_mode():
        Tapped(config, source.model.normalised_weights(), 1, look).run(images(config, 1))
    return seen[-1]


def simulated(
    source: Checkpoint, precision: Precision, heads: int, image_BCHW: Tensor, largest: int, cuts: tuple[int, ...] = ()
) -> Array:
    """With tensors and weights rounded as in a file that goes up to *largest*."""
    assert source.activations is not None
    config, weights = source.info.config, source.model.normalised_weights()
    grids = {name: each.grid() for name, each in source.activations[precision][heads].items()}
    kept = stored(weights, precision, largest)

    def tap(name: str, x: Tensor) -> Tensor:
        return grids[name].rounded(x)

    def matrix(name: str, weight: Tensor) -> Tensor:
        return in_steps(kept[name], weight)

    with torch.inference_mode():
        outputs: Array = Tapped(config, weights, heads, tap, matrix, cuts=cuts).run(image_BCHW).numpy()
    return outputs


def exact(source: Checkpoint, heads: int, image_BCHW: Tensor) -> Array:
    with torch.inference_mode():
        outputs: Array = source.model(image_BCHW, heads).numpy()
    return outputs


def written(source: Checkpoint, tmp_path: Path, *heads: int, **choices: object) -> Path:
    spec = msgspec.convert({"precision": next(iter(source.activations or {})), **choices}, ExportSpec)
    (artifact,) = TFLITE.write(source, heads or (4,), spec, tmp_path)
    TFLITE.lint(tmp_path / artifact.path)
    assert TFLITE.signature(tmp_path / artifact.path) == (artifact.inputs, artifact.outputs)
    return tmp_path / artifact.path


def kinds(path: Path) -> list[tuple[str, str]]:
    """The operators of the first graph, and the types of what they make."""
    model = reader.read(path)
    graph = model.graphs[0]
    return [(BY_CODE[model.opcodes[op.opcode]].name, graph.tensors[op.outputs[0]].dtype) for op in graph.operations]


@PRECISIONS
@pytest.mark.parametrize("name", VARIANTS)
def test_a_file_computes_what_rounded_tensors_give(name: str, precision: Precision, tmp_path: Path) -> None:
    source = calibrated(name, precision)
    image_BCHW = images(source.info.config, 5)
    path, universal = written(source, tmp_path, 2), written(source, tmp_path, *HEADS, graph="universal")
    for file, heads, largest, cuts in ((path, 2, 2, ()), (universal, 2, 4, (2,)), (universal, 4, 4, HEADS)):
        expected = simulated(source, precision, heads, image_BCHW, largest, cuts)
        cost = off(expected, exact(source, heads, image_BCHW))
        outputs = TFLITE.load(file, heads, 1).run(image_BCHW.numpy())
        assert outputs.dtype == np.float32
        assert off(outputs, expected) <= max(ALLOWED[precision] * cost, SPAN), (file.name, heads)


@PRECISIONS
@pytest.mark.parametrize("graph", TFLITE.graphs)
def test_nothing_between_input_and_output_is_float(graph: str, precision: Precision, tmp_path: Path) -> None:
    path = written(calibrated("plain", precision), tmp_path, 4, graph=graph, io="integer")
    model = reader.read(path)
    subnetworks = model.graphs if len(model.graphs) == 1 else model.graphs[:-1]  # the last one fails
    types = {each.dtype for one in subnetworks for each in one.tensors}
    activation = {"int8-static": "int8", "w8a16": "int16"}[precision]
    assert types <= {"int8", activation, "int32", "bool"}
    (image,), (output,) = (each[:1] for each in TFLITE.signature(path))
    assert image.dtype == output.dtype == activation
    assert image.scale is not None
    assert output.scale is not None


@PRECISIONS
@pytest.mark.parametrize("graph", TFLITE.graphs)
@pytest.mark.parametrize("runtime", [each.name for each in TFLITE.runtimes("int8-static")])
def test_integers_outside_are_those_inside(graph: str, precision: Precision, runtime: str, tmp_path: Path) -> None:
    source = calibrated("plain", precision)
    image_BCHW = images(source.info.config, 3).numpy()
    heads = HEADS if graph == "universal" else (4,)
    floats = TFLITE.load(written(source, tmp_path, *heads, graph=graph), 4, 1, runtime).run(image_BCHW)
    path = written(source, tmp_path, *heads, graph=graph, io="integer")
    (image, *_), (output,) = TFLITE.signature(path)
    assert image.dtype == output.dtype == {"int8-static": "int8", "w8a16": "int16"}[precision]
    assert output.scale is not None
    steps = {"int8-static": 0, "w8a16": 4}[precision]  # QUANTIZE takes other sides of a half than numpy
    difference = np.abs(TFLITE.load(path, 4, 1, runtime).run(image_BCHW) - floats).max()
    assert difference <= steps * output.scale + 1e-6


@PRECISIONS
@pytest.mark.parametrize("io", ["float", "integer"])
@pytest.mark.parametrize("graph", TFLITE.graphs)
def test_pixels_are_their_own_integers(graph: str, io: str, precision: Precision, tmp_path: Path) -> None:
    source = calibrated("plain", precision)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    image_BCHW = torch.from_numpy(source.info.preprocessing.normalise(pixels))
    cost = off(simulated(source, precision, 4, image_BCHW, 4), exact(source, 4, image_BCHW))
    heads = HEADS if graph == "universal" else (4,)
    path = written(source, tmp_path, *heads, graph=graph, input="image", io=io)
    assert off(TFLITE.load(path, 4, 1).run(pixels), exact(source, 4, image_BCHW)) < 2 * cost


@pytest.mark.parametrize("batch", [3, "dynamic"])
def test_any_batch_gives_the_same(batch: int | str, tmp_path: Path) -> None:
    source = calibrated("registers", "int8-static")
    image_BCHW = images(source.info.config, 5).numpy()
    by_one = TFLITE.load(written(source, tmp_path), 4, 1).run(image_BCHW)
    assert np.array_equal(TFLITE.load(written(source, tmp_path, batch=batch), 4, 1).run(image_BCHW), by_one)


def test_wide_tensors_have_16_bits_and_the_others_8(tmp_path: Path) -> None:
    attention = ("blocks.0/attn/residual", "blocks.0/attn/shares")
    wide = (*attention, "blocks.1/mlp/act", "tokens", "logits", "blocks.0/norm2/rsqrt")
    source = calibrated("plain", "int8-static", wide)
    image_BCHW = images(source.info.config, 5)
    path, universal = written(source, tmp_path), written(source, tmp_path, *HEADS, graph="universal")
    for file, cuts in ((path, ()), (universal, HEADS)):
        expected = simulated(source, "int8-static", 4, image_BCHW, 4, cuts)
        cost = off(expected, exact(source, 4, image_BCHW))
        assert off(TFLITE.load(file, 4, 1).run(image_BCHW.numpy()), expected) <= 1.5 * cost
    types = {each.name: each.dtype for each in reader.read(path).graphs[0].tensors}
    assert {types[f"{name}"] for name in ("blocks.0/attn/residual/ADD", "blocks.1/mlp/act/MUL", "logits/int16")} == {
        "int16"
    }
    assert types["blocks.0/norm2/MUL"] == types["blocks.1/mlp/fc1/FULLY_CONNECTED"] == "int8"


def test_no_operator_is_of_a_version_that_old_runtimes_do_not_tell(tmp_path: Path) -> None:
    """QUANTIZE of int8 to int16 and GELU of int16 are in newer kernels under the numbers of older ones."""
    source = calibrated("plain", "int8-static", ("blocks.0/attn/residual", "blocks.1/mlp/fc1"))
    model = reader.read(written(source, tmp_path))
    for operation in model.graphs[0].operations:
        given, made = model.graphs[0].tensors[operation.inputs[0]], model.graphs[0].tensors[operation.outputs[0]]
        name = BY_CODE[model.opcodes[operation.opcode]].name
        assert (name, given.dtype, made.dtype) != ("QUANTIZE", "int8", "int16")
        assert name != "GELU" or made.dtype == "int8"


def test_rsqrt_of_16_bits_is_exact_for_small_variances(tmp_path: Path) -> None:
    """The kernel alone is off by a third where a variance is a thousandth of the largest."""
    config = VARIANTS["plain"]
    source = checkpoint(config)
    state = {name: each.clone() for name, each in source.state.items()}
    state["pos_embed"][:, 0] *= 30  # one token is far larger than the others
    source = counted(replace(source, state=state), "w8a16")
    image_BCHW = images(config, 5)
    expected = simulated(source, "w8a16", 4, image_BCHW, 4)
    outputs = TFLITE.load(written(source, tmp_path), 4, 1).run(image_BCHW.numpy())
    assert off(outputs, expected) < 0.01


def test_epsilon_is_added_where_it_is_half_a_step_of_the_variance(tmp_path: Path) -> None:
    names = {each.name for each in reader.read(written(calibrated("plain", "int8-static"), tmp_path)).graphs[0].tensors}
    assert "blocks.0/norm1/variance/ADD" not in names  # 1e-6 is nothing in 8 bits
    config = msgspec.structs.replace(VARIANTS["plain"], layer_norm_eps=1e-3)
    source = checkpoint(config)
    small = ("pos_embed", "cls_token", "patch_embed.proj.weight", "patch_embed.proj.bias")
    state = {name: each * (0.05 if name in small else 1.0) for name, each in source.state.items()}
    source = counted(replace(source, state=state), "int8-static")
    image_BCHW = images(config, 5)
    path = written(source, tmp_path)
    assert "blocks.0/norm1/variance/ADD" in {each.name for each in reader.read(path).graphs[0].tensors}
    expected = simulated(source, "int8-static", 4, image_BCHW, 4)
    cost = off(expected, exact(source, 4, image_BCHW))
    assert off(TFLITE.load(path, 4, 1).run(image_BCHW.numpy()), expected) <= 1.5 * cost


def test_every_weight_lies_in_a_universal_file_once(tmp_path: Path) -> None:
    source = calibrated("plain", "int8-static")
    whole = written(source, tmp_path, 4).stat().st_size
    counts = sum(each.full.numel() for each in source.model.normalised_weights().values() if each.is_matrix)
    path = written(source, tmp_path, *HEADS, graph="universal")
    behind: dict[int, int] = {}
    for each in reader.read(path).buffers:
        if each.behind:
            behind[each.start] = max(each.size, behind.get(each.start, 0))
    patches = source.model.normalised_weights()["patch_embed.weight"].full.numel()
    assert sum(behind.values()) == counts + patches
    assert whole > counts


def test_a_bias_beyond_32_bits_is_refused(tmp_path: Path) -> None:
    source = calibrated("plain", "w8a16")
    state = {name: each.clone() for name, each in source.state.items()}
    state["blocks.0.mlp.fc1.weight"][3] = 1e-12
    state["blocks.0.mlp.fc1.bias"][3] = 5.0
    with pytest.raises(CheckFailed, match=r"blocks\.0\.mlp\.fc1\.bias is too large for integers"):
        written(replace(source, state=state), tmp_path)


def _quantization(model: Any, name: str) -> Any:
    return tensor(model, name).quantization


def _without_scale(model: Any) -> None:
    tensor(model, "blocks.0/attn/q/FULLY_CONNECTED").quantization = None


def _fewer_scales(model: Any) -> None:
    found = _quantization(model, "blocks.0.attn.q.weight")
    found.scale, found.zeroPoint = found.scale[:1], found.zeroPoint[:1]


def _other_bias(model: Any) -> None:
    found = _quantization(model, "blocks.0.attn.q.bias")
    found.scale = found.scale * np.float32(1.001)


def _bias_without_scale(model: Any) -> None:
    tensor(model, "blocks.0.attn.q.bias").quantization = None


def _moved(model: Any) -> None:
    found = _quantization(model, "blocks.0/attn/q/RESHAPE")
    found.scale = found.scale * np.float32(2)


def _shares(model: Any) -> None:
    found = _quantization(model, "blocks.0/attn/shares/SOFTMAX")
    found.scale = found.scale * np.float32(2)


def _zero_point(model: Any) -> None:
    _quantization(model, "blocks.0/attn/scores/BATCH_MATMUL").zeroPoint = np.array([3], np.int64)


def _tiny_sum(model: Any) -> None:
    _quantization(model, "blocks.0/attn/residual/ADD").scale = np.array([1e-9], np.float32)


def _scales_of_powers(model: Any) -> None:
    operator(model, "blocks.0/attn/residual/ADD").builtinOptions.potScaleInt16 = True


def _wide_bias(model: Any) -> None:
    operator(model, "blocks.0/attn/q/FULLY_CONNECTED").builtinOptions.quantizedBiasType = 4


def _float_between(model: Any) -> None:
    """A RESHAPE of floats, between DEQUANTIZE and QUANTIZE."""
    graph, reshape = model.subgraphs[0], operator(model, "blocks.0/attn/q/RESHAPE")
    place = graph.operators.index(reshape)
    dequantize, quantize = copy.deepcopy(operator(model, "logits")), copy.deepcopy(operator(model, "image/int8"))
    for name, like in (("before", reshape.inputs[0]), ("behind", reshape.outputs[0])):
        graph.tensors.append(copy.deepcopy(graph.tensors[like]))
        graph.tensors[-1].name, graph.tensors[-1].type, graph.tensors[-1].quantization = name.encode(), 0, None
    before, behind = len(graph.tensors) - 2, len(graph.tensors) - 1
    dequantize.inputs, dequantize.outputs = reshape.inputs[:1], np.array([before], np.int32)
    quantize.inputs, quantize.outputs = np.array([behind], np.int32), reshape.outputs
    reshape.inputs, reshape.outputs = np.array([before, reshape.inputs[1]], np.int32), np.array([behind], np.int32)
    graph.operators[place : place + 1] = [dequantize, reshape, quantize]


def _wider_image(model: Any) -> None:
    tensor(model, "image/int8").quantization.zeroPoint = np.array([128], np.int64)


def _says(precision: bytes) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        entry = next(each for each in model.metadata if each.name == b"hydra_export.precision")
        model.buffers[entry.buffer].data = np.frombuffer(precision, np.uint8)

    return change


@pytest.mark.parametrize(
    ("precision", "change", "told"),
    [
        ("int8-static", _without_scale, "blocks.0/attn/q/FULLY_CONNECTED is int8 with or without a scale"),
        ("int8-static", _fewer_scales, "FULLY_CONNECTED has 1 scales for 32 rows"),
        ("int8-static", _other_bias, "the scale of blocks.0.attn.q.bias is not that of"),
        ("int8-static", _bias_without_scale, "blocks.0.attn.q.bias is int32 with or without a scale"),
        ("int8-static", _moved, "RESHAPE is given 2 scales"),
        ("int8-static", _shares, "SOFTMAX makes other units than 0 to 1"),
        ("int8-static", _tiny_sum, "ADD adds units of"),
        ("int8-static", _float_between, "before is float32 between integers"),
        ("int8-static", _wider_image, "has an invalid zero point"),
        ("int8-static", _says(b"w8a16"), "is a product of int8"),
        ("int8-static", _says(b"int8"), "is int8 with or without a scale"),
        ("int8-static", _says(b"fp32"), "is int8 with or without a scale"),
        ("w8a16", _zero_point, "of int16 has an invalid zero point"),
        ("w8a16", _scales_of_powers, "ADD of int16 states other scales"),
        ("w8a16", _wide_bias, "FULLY_CONNECTED states that its bias has type 4"),
        ("w8a16", _tiny_sum, "ADD adds units of"),
    ],
    ids=lambda value: value.__name__ if callable(value) else value,
)
def test_a_file_that_is_not_what_it_says_is_refused(
    precision: Precision, change: Callable[[Any], None], told: str, tmp_path: Path
) -> None:
    path = written(calibrated("plain", precision), tmp_path)
    changed(path, lambda model: None)
    TFLITE.lint(path)
    changed(path, change)
    with pytest.raises(CheckFailed, match=told):
        TFLITE.lint(path)


def test_branches_of_other_units_than_their_choice_are_refused(tmp_path: Path) -> None:
    path = written(calibrated("plain", "int8-static"), tmp_path, *HEADS, graph="universal", io="integer")

    def change(model: Any) -> None:
        image = model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]]
        image.quantization.scale = image.quantization.scale * np.float32(2)

    changed_universal(path, change)
    with pytest.raises(CheckFailed, match="which has other inputs or outputs"):
        TFLITE.lint(path)


def test_tools_for_android_are_told_how_integers_count(tmp_path: Path) -> None:
    path = written(calibrated("plain", "int8-static"), tmp_path, io="integer")
    (image,), (output,) = TFLITE.signature(path)
    model = reader.read(path)
    told = model.content(model.metadata["TFLITE_METADATA"])
    for info in (image, output):
        assert f"each int8 q stands for {info.scale:.9g} (q - {info.zero_point})".encode() in told


@PRECISIONS
def test_damaged_files_are_refused_or_run(precision: Precision, tmp_path: Path) -> None:
    found = in_a_process_of_its_own(written(calibrated("plain", precision), tmp_path), 100, 40_000, most_runs=10)
    assert found["refused"] > 60
    assert found["runs"] > 0


@pytest.mark.slow
def test_the_run_time_library_counts_integers(tmp_path: Path) -> None:
    choices: dict[str, Any] = {"heads": "2,3", "targets": "tflite", "graphs": TFLITE.graphs}
    quick: dict[str, Any] = {"calibration_images": 16, "calibration_method": "min-max", "smooth": False}
    bundle = hydra_export.export(None, tmp_path / "out", io="integer", precisions=STATIC, **choices, **quick)
    golden = np.load(bundle.folder / GOLDEN)
    for artifact in bundle.artifacts:
        model = runtime.load(bundle.folder, artifact=artifact.entry.path)
        for heads in artifact.heads:
            logits = artifact.session(heads).run(golden["image"][:1])
            answered = model.answer(golden["pixels"][0], heads).outputs
            assert off(answered, logits[0]) < 1e-2, artifact.entry.path  # rounding of the image at halves


@pytest.mark.parametrize(
    ("name", "given", "made", "factor"),
    [
        ("average and maximum", "pool/both/ADD", "pool/half/MUL", 0.5),
        ("pre-norm", "blocks.0/mlp/fc1/FULLY_CONNECTED", "blocks.0/mlp/factor/MUL", 1.702),
    ],
)
def test_what_is_multiplied_by_one_number_keeps_its_integers(
    name: str, given: str, made: str, factor: float, tmp_path: Path
) -> None:
    path = written(calibrated(name, "int8-static"), tmp_path)
    grids = {each.name: each.grid for each in reader.read(path).graphs[0].tensors}
    assert grids[made][1][0] == pytest.approx(grids[given][1][0] * factor, 1e-6)
    assert grids[made][2] == grids[given][2]
