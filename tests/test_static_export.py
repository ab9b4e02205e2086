"""Exports with integer activations: what calibrates them, what they have to keep, and which tensors get 16 bits."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hydra_export
from hydra_export import runtime, targets
from hydra_export.cache import Cache
from hydra_export.checkpoint import Checkpoint
from hydra_export.cli import main
from hydra_export.data import ImageSet, packaged_images
from hydra_export.errors import BadInput, ParityFailed
from hydra_export.exporting import Quantizing
from tests.conftest import available_targets
from tests.variants import VARIANTS, checkpoint

QUICK: dict[str, Any] = {"heads": 1, "calibration_images": 16, "calibration_method": "min-max"}


def random_images(source: Checkpoint, count: int = 60) -> ImageSet:
    shape = (count, *source.info.config.image_shape, source.info.config.channels)
    return ImageSet(np.random.default_rng(0).integers(0, 256, shape, np.uint8), None, (), f"{count} random images")


def with_large_channels(size: float) -> Checkpoint:
    """A backbone of whose residual stream two channels are *size* for all tokens, which no norm can even out."""
    source = checkpoint(VARIANTS["distilled features"])
    state = {name: tensor.clone() for name, tensor in source.state.items()}
    state["pos_embed"][..., 5] += size
    state["pos_embed"][..., 6] -= size
    state["norm.weight"][5:7] = 0.0
    state["norm.bias"][:] = 0.0
    return dataclasses.replace(source, state=state)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> hydra_export.Bundle:
    out = tmp_path_factory.mktemp("static") / "out"
    return hydra_export.export(None, out, precisions="int8-static", **QUICK)


def test_the_packaged_model_is_calibrated_by_packaged_images_that_do_not_judge_it(bundle: hydra_export.Bundle) -> None:
    (entry,) = bundle.manifest.artifacts
    assert entry.quantization is not None
    assert entry.quantization.images.startswith("16 of 1,000 test images of Fashion-MNIST")
    assert entry.quantization.methods["min-max"] > 100
    assert entry.quantization.wide == {}
    assert entry.path == "onnx/hydravit-fashion-mnist-k1-int8-static.onnx"


def test_the_worst_class_is_told(bundle: hydra_export.Bundle) -> None:
    record = bundle.manifest.artifacts[0].parity[1]
    assert record.bound is None
    assert record.judged_by.startswith("top-1")
    assert record.worst_class is not None
    assert record.class_drop is not None
    assert record.class_drop >= 0


def test_such_a_bundle_verifies_and_runs(bundle: hydra_export.Bundle) -> None:
    assert [run.record.bound for run in bundle.verify()] == [None]
    images = packaged_images(bundle.manifest.model.preprocessing, 8)
    model = runtime.load(bundle.folder)
    session = bundle.artifacts[0].session()
    expected = session.run(bundle.manifest.model.preprocessing.normalise(images.pixels))
    answers = np.stack([model.answer(pixels, 1).outputs for pixels in images.pixels])
    assert np.allclose(answers.reshape(8, -1), expected, atol=1e-5)


def test_integers_outside_go_through_the_library_too(tmp_path: Path) -> None:
    bundle = hydra_export.export(None, tmp_path / "out", precisions="int8-static", io="integer", **QUICK)
    (entry,) = bundle.manifest.artifacts
    assert (entry.inputs[0].dtype, entry.outputs[0].dtype) == ("uint8", "uint8")
    bundle.verify()
    images = packaged_images(bundle.manifest.model.preprocessing, 8)
    outputs = [runtime.load(bundle.folder).answer(pixels, 1).outputs for pixels in images.pixels[:1]]
    scale = entry.outputs[0].scale
    assert scale is not None
    steps = np.asarray(outputs) / scale
    assert np.allclose(steps, np.rint(steps), atol=1e-3)


def test_a_class_that_loses_too_much_stops_the_export_and_names_tensors(tmp_path: Path) -> None:
    with pytest.raises(ParityFailed) as failed:
        hydra_export.export(None, tmp_path / "out", precisions="int8-static", max_drop=100, max_class_drop=0.0, **QUICK)
    assert "points of class" in str(failed.value)
    assert "8 bits of these tensors change most: " in str(failed.value)
    assert "`mixed`" in failed.value.remedy
    assert not (tmp_path / "out").exists()


def test_a_model_of_ones_own_needs_images_to_calibrate_by(tmp_path: Path) -> None:
    source = checkpoint(VARIANTS["plain"])
    with pytest.raises(BadInput, match="int8-static needs images to calibrate activations") as refused:
        hydra_export.export(source, tmp_path / "out", precisions="int8-static", check_images=random_images(source))
    assert "`calibrate`" in refused.value.remedy
    with pytest.raises(BadInput, match="3 images are too few to calibrate activations"):
        Quantizing(random_images(source, 3))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_other_precisions_have_no_integers_outside(precision: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="`io` integer is for precisions int8-static and w8a16"):
        hydra_export.export(None, tmp_path / "out", precisions=precision, io="integer")


def test_16_bits_go_to_the_tensors_that_need_them(tmp_path: Path) -> None:
    source = with_large_channels(400.0)
    images = random_images(source)
    choices: dict[str, Any] = {"heads": 4, "precisions": "int8-static", "check_images": images, "calibrate": images}
    with pytest.raises(ParityFailed, match=r"8 bits of these tensors change most: .*residual"):
        hydra_export.export(source, tmp_path / "narrow", **choices)
    bundle = hydra_export.export(source, tmp_path / "mixed", mixed=True, **choices)
    (entry,) = bundle.manifest.artifacts
    assert entry.quantization is not None
    wide = entry.quantization.wide[4]
    assert any(name.endswith("residual") for name in wide)
    assert len(wide) < 40
    assert entry.needs["opset"] == "21"
    assert entry.parity[4].top1_agreement >= 0.97


def test_w8a16_passes_without(tmp_path: Path) -> None:
    source = with_large_channels(400.0)
    images = random_images(source)
    bundle = hydra_export.export(
        source, tmp_path / "out", heads=4, precisions="w8a16", check_images=images, calibrate=images
    )
    assert bundle.manifest.artifacts[0].parity[4].cosine > 0.99


def test_calibrated_otherwise_nothing_comes_out_of_the_cache(tmp_path: Path) -> None:
    source = checkpoint(VARIANTS["plain"])
    cache, images = Cache(tmp_path / "cache"), random_images(source)
    choices: dict[str, Any] = {"heads": 4, "precisions": "int8-static", "accept_unchecked": True, "cache": cache}
    reused = []
    for count in (60, 60, 20):
        cache.reused.clear()
        hydra_export.export(source, tmp_path / "out", calibrate=images, calibration_images=count, **choices)
        reused.append(len(cache.reused))
    assert reused == [0, 1, 0]


def test_the_same_images_give_the_same_bytes(tmp_path: Path) -> None:
    source = checkpoint(VARIANTS["plain"])
    images = random_images(source)
    for name in ("one", "two"):
        torch.manual_seed(len(name))
        hydra_export.export(
            source, tmp_path / name, heads="2,4", precisions="int8-static", accept_unchecked=True, calibrate=images
        )
    one, two = ((tmp_path / name / "SHA256SUMS").read_text() for name in ("one", "two"))
    assert one == two


@pytest.mark.slow
def test_bench_gives_graphs_the_integers_that_they_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    names = [name for name in available_targets() if "w8a16" in targets.get(name).precisions]  # which take integers
    hydra_export.export(None, out, targets=names, precisions="int8-static", io="integer", **QUICK)
    assert main(["bench", str(out), "--runs", "2", "--json"]) == 0
    timings = json.loads(capsys.readouterr().out)["timings"]
    assert {timing["precision"] for timing in timings} == {"int8-static"}
    assert all(timing["max_abs_error"] < 3 for timing in timings)
