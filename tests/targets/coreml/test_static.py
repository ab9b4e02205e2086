"""Packages of integer activations: products take and give integers, and what they compute is what rounding gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hydra_export.checkpoint import Checkpoint
from hydra_export.errors import BadInput, CheckFailed
from hydra_export.quantized.grid import Grid, Range
from hydra_export.quantized.taps import Tapped
from hydra_export.target import ExportSpec, GraphKind
from hydra_export.targets.coreml import TARGET, CoreMLOptions, package
from hydra_export.targets.coreml.quantized import grid_of
from hydra_export.targets.coreml.weights import Quantized, Weights, _quantized
from tests.quantized.test_taps import images
from tests.targets.coreml.conftest import Opened, Write
from tests.targets.coreml.test_lint import sealed
from tests.targets.onnx.test_static import HEADS, calibrated, off
from tests.variants import VARIANTS, checkpoint


class Used(dict[str, Range]):
    """Ranges, and which of them were asked for."""

    def __init__(self, ranges: Any) -> None:
        super().__init__(ranges)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Range:
        self.names.add(name)
        return super().__getitem__(name)


def prepared(name: str) -> tuple[Checkpoint, dict[int, Used]]:
    source = calibrated(checkpoint(VARIANTS[name]), "int8-static")
    assert source.activations is not None
    used = {k: Used(of_k) for k, of_k in source.activations["int8-static"].items()}
    return dataclasses.replace(source, activations={"int8-static": used}), used


def dequantized(block: Any) -> Any:
    assert isinstance(block, Quantized)
    return block.data.astype(np.float32) * block.scale.astype(np.float32).reshape(-1, *[1] * (block.data.ndim - 1))


def simulated(
    source: Checkpoint, heads: int, used: Used, image_BCHW: torch.Tensor, rounded: bool, dtype: Any = np.float16
) -> Any:
    """With the tensors that the package rounds, and its weights; or as the model computes it."""

    def tap(name: str, x: torch.Tensor) -> torch.Tensor:
        return grids[name].rounded(x) if rounded and name in grids else x

    def matrix(_name: str, weight: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(dequantized(_quantized(weight.numpy()))) if rounded else weight

    ranges = {name: dict.__getitem__(used, name) for name in used.names}
    scales = {name: grid_of(each, dtype) for name, each in ranges.items()}
    grids = {name: Grid(float(each["scale"]), int(each["zero_point"])) for name, each in scales.items()}
    config, weights = source.info.config, source.model.normalised_weights()
    with torch.inference_mode():
        return Tapped(config, weights, heads, tap, matrix, composed=True).run(image_BCHW).numpy()


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("graph", ["separate", "universal"])
def test_a_package_computes_what_rounded_tensors_give(name: str, graph: GraphKind, tmp_path: Path) -> None:
    """Constants rounded to float16 move numbers over the edge between two steps, so that other errors come out."""
    source, used = prepared(name)
    image_BCHW = images(source.info.config, 5)
    for artifact in TARGET.write(source, HEADS, ExportSpec(precision="int8-static", graph=graph), tmp_path):
        TARGET.lint(tmp_path / artifact.path)
        for k in artifact.heads:
            exact, expected = (simulated(source, k, used[k], image_BCHW, rounded) for rounded in (False, True))
            for runtime in ("mil", "mil-fp16"):
                outputs = TARGET.load(tmp_path / artifact.path, k, runtime=runtime).run(image_BCHW.numpy())
                assert off(outputs, exact) <= 2.2 * off(expected, exact), (k, runtime)


@pytest.mark.parametrize("name", VARIANTS)
def test_with_constants_in_float32_it_computes_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Exact(Weights):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            self.dtype = np.float32

        def matrix(self, *given: Any) -> Any:
            return dequantized(super().matrix(*given))

    monkeypatch.setattr(package, "Weights", Exact)
    source, used = prepared(name)
    image_BCHW = images(source.info.config, 5)
    for artifact in TARGET.write(source, HEADS, ExportSpec(precision="int8-static"), tmp_path):
        (k,) = artifact.heads
        exact, expected = (simulated(source, k, used[k], image_BCHW, rounded, np.float32) for rounded in (False, True))
        outputs = TARGET.load(tmp_path / artifact.path, k).run(image_BCHW.numpy())
        assert off(outputs, expected) <= 0.6 * off(expected, exact)


def test_every_product_but_the_classifier_takes_and_gives_integers(write: Write) -> None:
    _, _, path = write(precision="int8-static", ios=17)
    opened = Opened(path)
    given = {each.outputs[0].name: each for each in opened.block.operations}
    takers = {
        binding.name
        for each in opened.block.operations
        for entry in each.inputs
        for binding in entry.value.arguments
        if each.type == "quantize"
    }
    products = [each for each in opened.block.operations if each.type in ("linear", "conv")]
    assert len(products) == 1 + 2 * 6 + 1
    for each in products[:-1]:
        (x,) = (entry.value.arguments[0].name for entry in each.inputs if entry.key == "x")
        sources = [given[x].type] if given[x].type != "slice_by_index" else ["dequantize"]  # one token of all
        assert sources == ["dequantize"], each.outputs[0].name
        assert each.outputs[0].name in takers


def test_tensors_of_16_bits_stay_floats(make_checkpoint: Any, tmp_path: Path) -> None:
    source = calibrated(checkpoint(VARIANTS["plain"]), "int8-static", wide=["blocks.0/mlp/act", "blocks.0/norm1"])
    narrow = calibrated(checkpoint(VARIANTS["plain"]), "int8-static")
    counts = []
    for number, each in enumerate((narrow, source)):
        out = tmp_path / str(number)
        (artifact,) = TARGET.write(each, HEADS[:1], ExportSpec(precision="int8-static"), out)
        TARGET.lint(out / artifact.path)
        counts.append(Opened(out / artifact.path).kinds().count("quantize"))
    assert counts[0] - counts[1] == 2


def _other_scale(opened: Opened) -> None:
    opened.constant("blocks_0_norm1_dequantized_scale_0").immediateValue.tensor.bytes.values = np.float16(3).tobytes()


def _other_zero_point(opened: Opened) -> None:
    constant = opened.constant("blocks_0_norm1_dequantized_zero_point_0")
    constant.immediateValue.tensor.bytes.values = np.int8(77).tobytes()


def _floats_alone(opened: Opened) -> None:
    for each in opened.block.operations:
        for entry in each.inputs:
            for binding in entry.value.arguments:
                if each.type in ("linear", "conv") and binding.name.endswith("_dequantized"):
                    binding.name = binding.name.removesuffix("_dequantized")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_other_scale, "'blocks_0_norm1_dequantized' has another scale than quantize 'blocks_0_norm1_quantized'"),
        (_other_zero_point, "has another zero_point than"),
        (_floats_alone, "none of its products takes integers"),
    ],
)
def test_integers_that_come_back_otherwise_are_named(
    write: Write, change: Callable[[Opened], None], message: str
) -> None:
    _, _, path = write(precision="int8-static", ios=17)
    opened = Opened(path)
    change(opened)
    sealed(opened)
    with pytest.raises(CheckFailed, match=message):
        TARGET.lint(path)


@pytest.mark.parametrize(
    ("spec", "message", "remedy"),
    [
        (
            ExportSpec(precision="int8-static", options=CoreMLOptions(ios=16)),
            "`precision=int8-static` needs iOS 17 or newer: `ios` 16 has no quantized activations",
            "Pass `ios=17` or newer, or `precision=fp16`.",
        ),
        (
            ExportSpec(precision="int8-static", io="integer"),
            "Core ML packages have float inputs and outputs",
            "Pass `io=float`, or leave coreml out.",
        ),
    ],
)
def test_what_a_package_cannot_be_is_refused(spec: ExportSpec, message: str, remedy: str) -> None:
    with pytest.raises(BadInput, match=message) as refused:
        TARGET.check(spec)
    assert refused.value.remedy == remedy
