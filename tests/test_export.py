"""The pipeline: what a bundle says, that it appears whole or not at all, and what is refused."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import random
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from hydra_export import bundle, checkpoint, checkpoint_file, network, parity, targets
from hydra_export.architecture import HydraConfig
from hydra_export.cli import main
from hydra_export.data import ImageSet, packaged_images
from hydra_export.errors import BadInput, CheckFailed, MissingExtra, OutputRefused, ParityFailed
from hydra_export.exporting import export, jobs
from hydra_export.exporting.plan import planned
from hydra_export.gate import Gate
from hydra_export.installation import install_command
from hydra_export.model import HydraViT
from hydra_export.preprocess import imagenet
from hydra_export.target import Artifact, ExportSpec
from hydra_export.targets.onnx import OnnxOptions, OnnxTarget
from hydra_export.verification import verify
from tests.conftest import available_targets, perturbed, snapshot

KILLS = 30
BOTH = ("separate", "shared")


def exported(path: Path, out: Path, graphs: Sequence[str] = BOTH, **choices: Any) -> bundle.Manifest:
    keywords = {name: choices.pop(name) for name in ("heads", "images", "progress") if name in choices}
    return export(checkpoint.load(path), out, jobs(["onnx"], graphs, ["fp32"], **choices), **keywords)


def test_the_manifest_says_what_was_exported(tiny_checkpoint: Path, tmp_path: Path) -> None:
    manifest = exported(tiny_checkpoint, tmp_path / "out", batch="dynamic", input="image")
    loaded = checkpoint.load(tiny_checkpoint)
    model = manifest.model
    assert (model.name, model.config, model.preprocessing) == ("tiny", loaded.info.config, loaded.info.preprocessing)
    assert model.labels == loaded.info.labels
    assert model.checkpoint_sha256 == hashlib.sha256(tiny_checkpoint.read_bytes()).hexdigest()
    assert (model.license, model.accuracy_data) == ("CC0-1.0", "a made-up set")
    assert [s.heads for s in model.subnetworks] == [2, 4]  # the checkpoint's own export list
    for subnetwork in model.subnetworks:
        dense = loaded.model.subnetwork(subnetwork.heads)
        assert subnetwork.params == sum(parameter.numel() for parameter in dense.parameters())
        assert subnetwork.width == dense.embed_dim
        assert subnetwork.gmacs == pytest.approx(network.macs(loaded.info.config, subnetwork.heads) / 1e9, abs=1e-6)
        assert subnetwork.accuracy == {2: 60.5, 4: 70.25}[subnetwork.heads]
        assert subnetwork.trained is True
    assert {
        "hydra-export",
        "python",
        "torch",
        "timm",
        "onnx",
        "onnx-ir",
        "onnxruntime",
        "numpy",
    } <= manifest.tool.keys()
    assert "Fashion-MNIST" in manifest.images


def test_the_manifest_says_of_each_artifact_what_it_is(tiny_checkpoint: Path, tmp_path: Path) -> None:
    manifest = exported(tiny_checkpoint, tmp_path / "out")
    assert [(a.path, a.graph, a.heads) for a in manifest.artifacts] == [
        ("onnx/tiny-k2.onnx", "separate", (2,)),
        ("onnx/tiny-k4.onnx", "separate", (4,)),
        ("onnx/tiny-shared-k2.onnx", "shared", (2,)),
        ("onnx/tiny-shared-k4.onnx", "shared", (4,)),
    ]
    assert manifest.artifacts[3].files == (
        "onnx/tiny-shared-k4.onnx",
        "onnx/tiny-shared-k2.bin",
        "onnx/tiny-shared-k4.bin",
    )
    for artifact in manifest.artifacts:
        assert (artifact.target, artifact.precision, artifact.input) == ("onnx", "fp32", "tensor")
        assert (artifact.inputs[0].name, artifact.inputs[0].shape) == ("image", (1, 3, 16, 16))
        assert (artifact.outputs[0].name, artifact.outputs[0].shape) == ("logits", (1, 7))
        (record,) = artifact.parity.values()
        assert record.bound is not None
        assert 0 < record.max_abs_error <= record.bound < 1e-3
        assert record.top1_agreement == 1
        assert record.cosine == pytest.approx(1)
        assert record.num_images == 12


def test_the_files_on_disk_are_those_of_the_manifest_returned(tiny_checkpoint: Path, tmp_path: Path) -> None:
    manifest = exported(tiny_checkpoint, tmp_path / "out")
    assert bundle.read(tmp_path / "out") == manifest
    assert verify(tmp_path / "out")


def test_golden_data_are_the_float64_logits_of_real_images(tiny_checkpoint: Path, tmp_path: Path) -> None:
    exported(tiny_checkpoint, tmp_path / "out", ["separate"])
    loaded = checkpoint.load(tiny_checkpoint)
    pixels = packaged_images(loaded.info.preprocessing, 4).pixels
    with np.load(tmp_path / "out/golden/golden.npz") as golden:
        np.testing.assert_array_equal(golden["pixels"], pixels)
        for k in (2, 4):
            expected = parity.reference(loaded.model, k, pixels, loaded.info.preprocessing)
            np.testing.assert_allclose(golden[f"logits_k{k}"], expected.exact, rtol=0, atol=1e-12)


def test_golden_images_are_ones_that_every_artifact_gets_right(tiny_checkpoint: Path, tmp_path: Path) -> None:
    loaded, int8 = checkpoint.load(tiny_checkpoint), jobs(precisions=["int8"])
    data, images = loaded.info.preprocessing, packaged_images(loaded.info.preprocessing)
    export(loaded, tmp_path / "out", int8, heads=(4,), gate=Gate(open=True))
    logits = targets.get("onnx").load(tmp_path / "out/onnx/tiny-k4-int8.onnx", 4).run(data.normalise(images.pixels))
    wrong = np.flatnonzero(~parity.agreement(logits, parity.reference(loaded.model, 4, images.pixels, data, "int8")))
    assert len(wrong) >= 2, "rounding changes no answer: choose another model"
    right = np.setdiff1d(np.arange(len(images)), wrong)
    wrong = wrong[:8]
    order = [*wrong, *right]
    assert images.labels is not None
    turned = replace(images, pixels=images.pixels[order], labels=images.labels[order])
    manifest = export(loaded, tmp_path / "out", int8, heads=(4,), images=turned, gate=Gate(open=True))
    np.testing.assert_array_equal(
        bundle.read_golden(tmp_path / "out", manifest).pixels, turned.pixels[len(wrong) : len(wrong) + 4]
    )
    assert verify(tmp_path / "out")


def test_as_many_images_are_read_as_the_plan_says(tiny_checkpoint: Path, tmp_path: Path) -> None:
    loaded, limits = checkpoint.load(tiny_checkpoint), []

    def read(limit: int) -> ImageSet:
        limits.append(limit)
        return packaged_images(loaded.info.preprocessing, limit)

    manifest = export(loaded, tmp_path / "out", jobs(precisions=["fp32", "int8"]), images=read, gate=Gate(open=True))
    assert limits == [1000]
    assert {(a.precision, r.num_images) for a in manifest.artifacts for r in a.parity.values()} == {
        ("fp32", 120),  # ten times as many of one's own
        ("int8", 1000),
    }


def test_images_are_as_many_as_the_head_counts_that_devices_run_can_afford() -> None:
    model = HydraViT(HydraConfig(heads=12), weight_init="skip", device="meta")
    info = checkpoint_file.CheckpointInfo(name="base", config=model.config, preprocessing=imagenet(224))
    source, small = checkpoint.Checkpoint(model.state_dict(), info, Path("base"), "0" * 64), _device(heads=3)
    whole, cut = (planned(source, jobs(), (3, 12), [*devices]) for devices in ((), (small,)))
    assert (whole.heads, whole.num_images) == ((3, 12), {"fp32": 4})
    assert (cut.heads, cut.num_images) == ((3,), {"fp32": 12})
    assert planned(source, jobs(), (3, 12), (), own_images=True).num_images == {"fp32": 26}
    assert [write.heads for write in cut.writes] == [(3,)]


def _device(heads: int) -> bundle.DeviceEntry:
    known: dict[str, Any] = dict.fromkeys(("ms", "low", "high", "budget_ms", "chance"), 1.0)
    known |= dict.fromkeys(("id", "name", "runtime", "unit", "why", "provenance"), "x") | {"fits": True, "sure": True}
    return bundle.DeviceEntry(target="onnx", heads=heads, **known)


def test_untrained_and_unknown_head_counts_are_told_apart(tiny_checkpoint: Path, tmp_path: Path) -> None:
    manifest = exported(tiny_checkpoint, tmp_path / "out", ["separate"], heads=(1, 3))
    assert [s.trained for s in manifest.model.subnetworks] == [True, False]
    assert [s.accuracy for s in manifest.model.subnetworks] == [50.0, None]
    loaded = checkpoint.load(tiny_checkpoint)
    info = msgspec.structs.replace(loaded.info, trained_heads=(), accuracy={})
    checkpoint_file.write(tiny_checkpoint, loaded.model.state_dict(), info)
    manifest = exported(tiny_checkpoint, tmp_path / "out", ["separate"])
    assert {s.trained for s in manifest.model.subnetworks} == {"unknown"}


def test_the_card_is_for_whoever_finds_the_folder(tiny_checkpoint: Path, tmp_path: Path) -> None:
    exported(tiny_checkpoint, tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    for said in ("# tiny", "60.50", "70.25", "CC0-1.0", "onnx/tiny-shared-k4.onnx", "sha256sum -c", "a made-up set"):
        assert said in card


@pytest.mark.parametrize("target", available_targets())
def test_the_code_in_the_card_runs(tiny_checkpoint: Path, tmp_path: Path, target: str) -> None:
    graphs = targets.get(target).graphs
    for number, (form, batch) in enumerate((("tensor", 1), ("image", 1), ("tensor", 3), ("tensor", "dynamic"))):
        try:
            listed = jobs([target], graphs, input=form, batch=batch)  # type: ignore[arg-type]
        except BadInput:
            assert target in ("coreai", "coreml")
            assert batch == "dynamic"
            continue
        out = tmp_path / str(number)
        export(checkpoint.load(tiny_checkpoint), out, listed)
        programs = (out / "README.md").read_text().split("```python\n")[1:]
        assert len(programs) == len(graphs)
        for code in (program.split("```")[0] for program in programs):
            run = subprocess.run([sys.executable, "-c", code], cwd=out, capture_output=True, text=True, check=True)
            found, expected = run.stdout.split()
            assert found == expected


def tree_of_new_process(path: Path, out: Path, umask: int) -> dict[str, tuple[int, str]]:
    program = f"import os, sys; os.umask({umask}); from hydra_export.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["--checkpoint", path, "--graph", "separate,shared", "--out", out]
    subprocess.run([sys.executable, "-c", program, *map(str, arguments)], check=True, capture_output=True)
    return snapshot(out)


def test_two_exports_into_other_folders_under_other_umasks_have_the_same_bytes(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    exported(tiny_checkpoint, tmp_path / "a")
    first = snapshot(tmp_path / "a")
    second = tree_of_new_process(tiny_checkpoint, tmp_path / "some where" / "else", 0o077)
    assert {name: content for name, (_mode, content) in first.items()} == {
        name: content for name, (_mode, content) in second.items()
    }


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002, 0o027])
def test_files_are_as_readable_as_the_umask_allows(tiny_checkpoint: Path, tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        exported(tiny_checkpoint, tmp_path / "out")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o777 & ~umask
    for name, (mode, content) in snapshot(tmp_path / "out").items():
        assert mode == (0o777 if content == "folder" else 0o666) & ~umask, name


def test_an_existing_bundle_is_replaced_as_a_whole(tiny_checkpoint: Path, tmp_path: Path) -> None:
    exported(tiny_checkpoint, tmp_path / "out", heads=(1, 2, 4))
    exported(tiny_checkpoint, tmp_path / "out", ["separate"], heads=(1,))
    assert {path.name for path in (tmp_path / "out" / "onnx").iterdir()} == {"tiny-k1.onnx"}
    assert verify(tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"out", tiny_checkpoint.name}


def test_parents_are_made_and_an_empty_folder_is_taken(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "a" / "b" / "out"):
        exported(tiny_checkpoint, out, ["separate"])
        assert verify(out)


def test_a_link_to_a_bundle_stays_and_the_bundle_is_replaced(tiny_checkpoint: Path, tmp_path: Path) -> None:
    exported(tiny_checkpoint, tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    exported(tiny_checkpoint, tmp_path / "link", ["separate"], heads=(1,))
    assert (tmp_path / "link").is_symlink()
    assert [a.heads for a in bundle.read(tmp_path / "real").artifacts] == [(1,)]


def _a_file(out: Path) -> None:
    out.write_text("mine")


def _a_link_to_a_file(out: Path) -> None:
    (out.parent / "mine").write_text("mine")
    out.symlink_to("mine")


def _a_loop_of_links(out: Path) -> None:
    out.symlink_to(out.name)


def _a_folder_with_a_file(out: Path) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("mine")


def _a_link_to_a_folder_with_a_file(out: Path) -> None:
    (out.parent / "mine").mkdir()
    (out.parent / "mine" / "thesis.tex").write_text("mine")
    out.symlink_to("mine")


def _below_a_file(out: Path) -> None:
    out.parent.rmdir()
    out.parent.write_text("mine")


@pytest.mark.parametrize(
    "there",
    [
        _a_file,
        _a_link_to_a_file,
        _a_loop_of_links,
        _a_folder_with_a_file,
        _a_link_to_a_folder_with_a_file,
        _below_a_file,
    ],
    ids=lambda there: there.__name__.strip("_"),
)
def test_what_is_not_ours_is_refused_and_left_alone(
    tiny_checkpoint: Path, tmp_path: Path, there: Callable[[Path], None]
) -> None:
    (tmp_path / "place").mkdir()
    there(tmp_path / "place" / "out")
    before = snapshot(tmp_path)
    with pytest.raises(OutputRefused):
        exported(tiny_checkpoint, tmp_path / "place" / "out", ["separate"])
    assert snapshot(tmp_path) == before


def test_a_file_added_to_a_bundle_keeps_it_from_being_replaced(tiny_checkpoint: Path, tmp_path: Path) -> None:
    exported(tiny_checkpoint, tmp_path / "out", ["separate"])
    (tmp_path / "out" / "notes.txt").write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(OutputRefused, match=r"contains notes\.txt, which hydra-export did not write and would be lost"):
        exported(tiny_checkpoint, tmp_path / "out", ["separate"])
    assert snapshot(tmp_path) == before


@pytest.fixture
def wrong_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ONNX target that writes a wrong bias for heads 4."""
    write = OnnxTarget.write

    def wrong(self: OnnxTarget, source: Any, heads: Sequence[int], spec: ExportSpec, out: Path) -> list[Artifact]:
        artifacts = write(self, source, heads, spec, out)
        for path in (out / artifact.path for artifact in artifacts if 4 in artifact.heads):
            spoil(path)
        return artifacts

    def spoil(path: Path) -> None:
        model = onnx.load(path)
        bias = next(tensor for tensor in model.graph.initializer if tensor.name == "head.bias")
        bias.raw_data = (np.frombuffer(bias.raw_data, "<f4") + np.float32(0.01)).tobytes()
        onnx.save(model, path)

    monkeypatch.setattr(OnnxTarget, "write", wrong)


@pytest.mark.usefixtures("wrong_target")
def test_a_failed_parity_leaves_nothing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    with pytest.raises(ParityFailed, match=r"onnx/tiny-k4\.onnx does not compute subnetwork 4"):
        exported(tiny_checkpoint, tmp_path / "out", ["separate"])
    assert snapshot(tmp_path) == before


def test_a_failed_parity_leaves_the_old_bundle(
    tiny_checkpoint: Path, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    exported(tiny_checkpoint, tmp_path / "out", ["separate"])
    before = snapshot(tmp_path)
    request.getfixturevalue("wrong_target")
    assert main(["--checkpoint", str(tiny_checkpoint), "--out", str(tmp_path / "out")]) == 1
    out, err = capsys.readouterr()
    assert "does not compute subnetwork 4" in err
    assert not out
    assert snapshot(tmp_path) == before
    assert verify(tmp_path / "out")


def test_an_artifact_that_breaks_a_promise_of_its_target_leaves_nothing(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise CheckFailed(f"{path.name} is not portable.")

    before = snapshot(tmp_path)
    monkeypatch.setattr(targets.get("onnx"), "lint", refuse)
    with pytest.raises(CheckFailed, match=r"tiny-k2\.onnx is not portable"):
        exported(tiny_checkpoint, tmp_path / "out", ["separate"])
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/evil",
        "a/b",
        "",
        ".",
        "..",
        ".hidden",
        "a\nb",
        "a b",
        "x" * 300,
        "a\\b",
        "CON",
        "nul.x",
        "lpt1",
        "a.",
    ],
)
def test_a_model_whose_name_cannot_name_files_is_refused(tiny_checkpoint: Path, tmp_path: Path, name: str) -> None:
    loaded = checkpoint.load(tiny_checkpoint)
    before = snapshot(tmp_path)
    renamed = checkpoint.Checkpoint(
        loaded.state, msgspec.structs.replace(loaded.info, name=name), loaded.path, loaded.sha256
    )
    with pytest.raises(BadInput, match="cannot be used in file names"):
        export(renamed, tmp_path / "out", jobs(["onnx"], ["separate"], ["fp32"]))
    assert snapshot(tmp_path) == before


def test_a_backbone_without_a_classifier_gives_features(tiny_checkpoint: Path, tmp_path: Path) -> None:
    loaded = checkpoint.load(tiny_checkpoint)
    config = msgspec.structs.replace(loaded.info.config, num_classes=0)
    info = msgspec.structs.replace(loaded.info, config=config, labels=())
    checkpoint_file.write(tmp_path / "backbone.safetensors", perturbed(config).state_dict(), info)
    manifest = exported(tmp_path / "backbone.safetensors", tmp_path / "out", ["separate", "shared"])
    for artifact in manifest.artifacts:
        (output,) = artifact.outputs
        assert (output.name, output.shape) == ("features", (1, 8 * artifact.heads[0]))
    assert len(verify(tmp_path / "out")) == 4


def test_a_model_whose_logits_are_all_zero_is_exported(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A classifier is zero before its training."""
    loaded = checkpoint.load(tiny_checkpoint)
    state = {
        name: tensor * 0 if name.startswith("head.") else tensor for name, tensor in loaded.model.state_dict().items()
    }
    checkpoint_file.write(tmp_path / "zero.safetensors", state, loaded.info)
    exported(tmp_path / "zero.safetensors", tmp_path / "out")
    assert verify(tmp_path / "out")


def test_a_head_count_without_a_classifier_is_refused(
    scaled_model: HydraViT, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    loaded = checkpoint.load(tiny_checkpoint)
    data = msgspec.structs.replace(loaded.info.preprocessing, mean=(0.5,), std=(0.5,))
    info = msgspec.structs.replace(loaded.info, config=scaled_model.config, preprocessing=data)
    checkpoint_file.write(tmp_path / "scaled.safetensors", scaled_model.state_dict(), info)
    with pytest.raises(BadInput, match="no classifier for heads 1"):
        exported(tmp_path / "scaled.safetensors", tmp_path / "out", ["separate"], heads=(1, 2))
    assert not (tmp_path / "out").exists()
    exported(tmp_path / "scaled.safetensors", tmp_path / "out", heads=(2, 4))
    assert verify(tmp_path / "out")


@pytest.mark.parametrize("heads", [(0,), (5,), (-1, 2), (2, 2)])
def test_impossible_head_counts_are_refused(tiny_checkpoint: Path, tmp_path: Path, heads: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match="`heads`"):
        exported(tiny_checkpoint, tmp_path / "out", ["separate"], heads=heads)
    assert not (tmp_path / "out").exists()


def test_jobs_are_the_cross_product_of_what_was_asked_for() -> None:
    options = OnnxOptions(opset=20)
    listed = jobs(["onnx"], ["separate", "shared"], ["fp32"], input="image", batch="dynamic", options=options)
    assert [job.spec for job in listed] == [
        ExportSpec(graph=graph, input="image", batch="dynamic", options=options) for graph in ("separate", "shared")
    ]
    assert {job.target.name for job in listed} == {"onnx"}


def test_a_target_whose_packages_are_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires() -> None:
        raise MissingExtra("Target 'onnx'", "something", "onnx")

    monkeypatch.setattr(targets.get("onnx"), "requires", requires)
    with pytest.raises(MissingExtra, match=re.escape(install_command("onnx"))):
        jobs(["onnx"], ["separate"], ["fp32"])


def test_progress_is_told_from_start_to_end(tiny_checkpoint: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    exported(tiny_checkpoint, tmp_path / "out", progress=lambda *step: told.append(step))
    assert [done for _what, done, _total in told] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert {total for _what, _done, total in told} == {7}  # two separate graphs, both shared ones, and four proofs
    assert told[0][0] == "writing onnx separate fp32, k = 2"
    assert told[2][0] == "writing onnx shared fp32, k = 2, 4"
    assert told[-1][0] == "sealing"


def test_an_artifact_with_other_classes_fails(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = OnnxTarget.write

    def fewer(self: OnnxTarget, source: Any, heads: Sequence[int], spec: ExportSpec, out: Path) -> list[Artifact]:
        config = msgspec.structs.replace(source.info.config, num_classes=source.info.config.num_classes - 1)
        state = {name: tensor[:-1] if name.startswith("head") else tensor for name, tensor in source.state.items()}
        info = msgspec.structs.replace(source.info, config=config, labels=())
        return write(self, replace(source, state=state, info=info), heads, spec, out)

    monkeypatch.setattr(OnnxTarget, "write", fewer)
    with pytest.raises(ParityFailed, match="shape"):
        exported(tiny_checkpoint, tmp_path / "out", ["separate"])
    assert not (tmp_path / "out").exists()


# A disk that is full, or that nothing can be written to.

_LIBC = ctypes.CDLL(None, use_errno=True)
_MS_RDONLY, _MS_REMOUNT = 1, 32


def _mount(place: Path, flags: int, options: str) -> None:
    if sys.platform != "linux":
        pytest.skip("tmpfs is of Linux")
    if _LIBC.mount(b"tmpfs", os.fsencode(place), b"tmpfs", flags, options.encode()):
        pytest.skip(f"cannot mount a tmpfs: {os.strerror(ctypes.get_errno())}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """300 kB, less than a bundle of the tiny model needs."""
    place = tmp_path / "disk"
    place.mkdir()
    _mount(place, 0, "size=300k")
    yield place
    _LIBC.umount2(os.fsencode(place), 2)


def test_a_full_disk_is_a_clear_refusal_and_leaves_nothing(
    tiny_checkpoint: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--checkpoint", str(tiny_checkpoint), "--graph", "separate,shared", "--heads", "1,2,4"]
    assert main([*arguments, "--out", str(small_disk / "out")]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert f"Cannot write {small_disk / 'out'}: No space left on device. Free some space" in err
    assert not list(small_disk.iterdir())


@pytest.mark.parametrize("free", range(0, 120, 8))
def test_a_disk_that_fills_up_at_any_point_leaves_the_old_bundle(
    tiny_checkpoint: Path, small_disk: Path, free: int
) -> None:
    out = small_disk / "out"
    exported(tiny_checkpoint, out, ["separate"], heads=(1,))
    before = snapshot(out)
    space = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(bytes(max(space.f_bavail * space.f_bsize - free * 1024, 0)))
    with pytest.raises(OutputRefused, match="No space left on device"):
        exported(tiny_checkpoint, out)
    assert snapshot(out) == before
    assert {path.name for path in small_disk.iterdir()} == {"out", "filler"}


def test_a_disk_that_is_read_only_is_a_clear_refusal(
    tiny_checkpoint: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _mount(small_disk, _MS_REMOUNT | _MS_RDONLY, "")
    assert main(["--checkpoint", str(tiny_checkpoint), "--out", str(small_disk / "out")]) == 2
    assert "Read-only file system. Choose a place that is not read-only" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/sys/kernel").exists(), reason="no /sys, where nobody can make a folder")
def test_a_place_where_nobody_can_make_a_folder_is_a_clear_refusal(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--checkpoint", str(tiny_checkpoint), "--out", "/sys/hydra/out", "--json"]) == 2
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["error"]["code"] == "output_refused"
    assert "/sys/hydra/out" in document["error"]["message"]


def test_a_name_that_is_too_long_is_a_clear_refusal(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--checkpoint", str(tiny_checkpoint), "--out", str(tmp_path / ("x" * 300))]) == 2
    assert "File name too long. Choose a shorter path." in capsys.readouterr().err


# Kills. Imports are done once; each export runs in a fork, so that kills fall into the writing.

_DRIVER = """
import os, sys, tempfile
from pathlib import Path
import torch
from hydra_export import checkpoint, checkpoint_file
from hydra_export.exporting import export, jobs
from hydra_export.gate import Gate

torch.set_num_threads(1)
source, out = Path(sys.argv[1]), Path(sys.argv[2])
with tempfile.TemporaryDirectory() as folder:  # what only the first export has to do
    export(checkpoint.load(source), Path(folder) / "out", jobs(["onnx"], ["separate", "shared"], ["fp32"]))
for line in sys.stdin:
    heads = tuple(map(int, line.split(",")))
    child = os.fork()
    if not child:
        status = 1
        try:
            export(checkpoint.load(source), out, jobs(["onnx"], ["separate", "shared"], ["fp32"]), heads=heads)
            status = 0
        finally:
            os._exit(status)
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print(status, flush=True)
"""


class Exporter:
    """Exports in forks of one process."""

    def __init__(self, source: Path, out: Path) -> None:
        arguments = [sys.executable, "-c", _DRIVER, str(source), str(out)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def start(self, heads: str) -> int:
        """Begins an export; the process id of the fork."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{heads}\n")
        self.process.stdin.flush()
        return self._number()

    def time(self, heads: str) -> float:
        """The seconds that a whole export takes."""
        began = time.perf_counter()
        self.start(heads)
        assert self.wait() == 0
        return time.perf_counter() - began

    def wait(self) -> int:
        """The status of the export, as of os.waitpid."""
        return self._number()

    def close(self) -> None:
        self.process.communicate()

    def _number(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())


@pytest.mark.slow
def test_killed_at_any_moment_the_old_bundle_or_the_new_one_is_there(tiny_checkpoint: Path, tmp_path: Path) -> None:
    out, rng = tmp_path / "place" / "out", random.Random(0)
    exporter = Exporter(tiny_checkpoint, out)
    assert exporter.start("1,2")
    assert exporter.wait() == 0
    latest = exporter.time("1,2,4")
    kills, seen, left_behind = 0, set(), 0
    while kills < KILLS:
        heads = rng.choice(["1,2", "1,2,4", "2,4"])
        child = exporter.start(heads)
        time.sleep(rng.uniform(0, latest))
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        killed = os.WIFSIGNALED(exporter.wait())
        kills += killed
        latest *= 1.1 if killed else 0.7  # about one of five ends, however busy the machine becomes
        verify(out)  # whole, whichever it is
        seen.add(tuple(s.heads for s in bundle.read(out).model.subnetworks))
        left_behind = max(left_behind, len(list(out.parent.iterdir())) - 1)
    assert left_behind == 1  # kills hit the writing, and no export leaves more than one folder
    assert len(seen) > 1
    exporter.start("1,2")
    assert exporter.wait() == 0
    exporter.close()
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    verify(out)


@pytest.mark.slow
def test_killed_before_the_first_bundle_there_is_none_or_a_whole_one(tiny_checkpoint: Path, tmp_path: Path) -> None:
    out, rng = tmp_path / "place" / "out", random.Random(1)
    exporter = Exporter(tiny_checkpoint, out)
    latest, rounds, none = exporter.time("1,2,4"), 0, 0
    while rounds < 10 or not none:
        assert rounds < 100
        if out.exists():
            out.rename(tmp_path / f"{time.monotonic_ns()}")
        child = exporter.start("1,2,4")
        time.sleep(rng.uniform(0, latest))
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        exporter.wait()
        rounds += 1
        if out.exists():
            verify(out)
        else:
            none += 1
    exporter.close()


@pytest.mark.parametrize("late", ["file", "folder"])
def test_what_comes_to_the_output_during_an_export_is_not_lost(
    tiny_checkpoint: Path, tmp_path: Path, late: str
) -> None:
    out = tmp_path / "out"
    precious = out if late == "file" else out / "precious.txt"

    def meanwhile(what: str, _done: int, _total: int) -> None:
        if what.startswith("verifying"):
            precious.parent.mkdir(exist_ok=True)
            precious.write_text("mine")

    with pytest.raises(OutputRefused):
        export(checkpoint.load(tiny_checkpoint), out, jobs(), heads=(1,), progress=meanwhile)
    assert precious.read_text() == "mine"


def test_a_failed_export_leaves_no_new_parents(tiny_checkpoint: Path, tmp_path: Path) -> None:
    def stop(what: str, _done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(checkpoint.load(tiny_checkpoint), tmp_path / "a/b/out", jobs(), heads=(1,), progress=stop)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "wrong", [{"batch": 0}, {"batch": -1}, {"batch": "dynamik"}, {"input": "img"}, {"options": OnnxOptions(opset=12)}]
)
def test_jobs_refuse_what_cannot_be_exported(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        jobs(**wrong)


def test_one_weight_file_is_for_shared_weights() -> None:
    with pytest.raises(BadInput, match="`graphs=separate,shared`"):
        jobs(options=OnnxOptions(weight_files="one"))


# What is judged by what


def of_classes(folder: Path, names: Sequence[str], num_images: int) -> Path:
    """Packaged images in folders of *names*, by their class and in turns."""
    images = packaged_images(checkpoint.load().info.preprocessing, num_images)
    assert images.labels is not None
    for index, (pixels, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
        place = folder / names[int(label) % len(names)]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[..., 0]).save(place / f"{index}.png")
    return folder


def judged(tmp_path: Path, names: Sequence[str], num_images: int = 100) -> parity.ParityRecord:
    photos = of_classes(tmp_path / "photos", names, num_images)
    asked = ["--heads", "3", "--precision", "int8", "--check-images", str(photos), "--out", str(tmp_path / "out")]
    assert main(asked) == 0
    return bundle.read(tmp_path / "out").artifacts[0].parity[3]


def test_labels_that_are_the_models_own_judge_int8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [label.replace("/", "_") for label in checkpoint.load().info.labels]
    record = judged(tmp_path, names)
    assert record.judged_by == "top-1 and agreement"
    assert record.accuracy_fp32 is not None
    assert record.accuracy_fp32 > 80
    assert "100 labelled images are too few to tell a small drop" in " ".join(capsys.readouterr().out.split())
    assert "100 images of the folder photos, 10 classes by name" in bundle.read(tmp_path / "out").images


def test_folders_that_are_not_the_models_classes_leave_int8_to_agreement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = judged(tmp_path, ["cat", "dog", "zebra"])
    assert (record.judged_by, record.accuracy, record.accuracy_fp32) == ("agreement", None, None)
    out, err = capsys.readouterr()
    assert "(cat, dog, zebra) are not the model's 10 classes" in " ".join(err.split())
    assert "judged by agreement on 100 images, without labels" in " ".join(out.split())
    assert main(["report", str(tmp_path / "out"), "--format", "md"]) == 0
    assert "without labels" in capsys.readouterr().out
    readme = " ".join((tmp_path / "out/README.md").read_text(encoding="utf-8").split())
    assert "by agreement on 100 images, without labels" in readme


def test_labels_that_the_model_does_not_meet_tell_nothing_of_int8(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = [str((label + 1) % 10) for label in range(10)]  # every one is off by one
    record = judged(tmp_path, numbers)
    assert (record.judged_by, record.accuracy) == ("agreement", None)
    assert record.accuracy_fp32 is not None
    assert record.accuracy_fp32 < 15
    assert "the labels are not informative: fp32 is correct on" in " ".join(capsys.readouterr().out.split())


def test_a_few_images_judge_no_int8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = of_classes(tmp_path / "photos", ["any"], 49)
    asked = ["--heads", "3", "--precision", "int8", "--check-images", str(photos), "--out", str(tmp_path / "out")]
    assert main(asked) == 2
    assert "49 images are too few to judge int8" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
    assert main([*asked, "--accept-unchecked"]) == 0
    assert bundle.read(tmp_path / "out").artifacts[0].parity[3].judged_by == "nothing"


def test_labels_of_others_do_not_count_in_the_library_either(tiny_checkpoint: Path, tmp_path: Path) -> None:
    loaded = checkpoint.load(tiny_checkpoint)
    images = packaged_images(loaded.info.preprocessing, 64)  # of ten classes, the model has seven
    manifest = export(loaded, tmp_path / "out", images=images)
    assert "unlabelled: their classes are not the model's" in manifest.images


def test_a_plain_vit_is_exported_whole_and_its_slices_with_a_warning_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = VisionTransformer(img_size=16, patch_size=4, embed_dim=32, depth=1, num_heads=4, num_classes=5)
    torch.save(plain.state_dict(), tmp_path / "deit.pth")
    out = tmp_path / "out"
    asked = ["--checkpoint", str(tmp_path / "deit.pth"), "--head-dim", "8", "--out", str(out)]
    assert main(asked) == 0
    manifest = bundle.read(out)
    assert [artifact.path for artifact in manifest.artifacts] == ["onnx/deit-k4.onnx"]
    assert [(s.trained, manifest.artifacts[0].warnings) for s in manifest.model.subnetworks] == [(True, ())]
    assert "warning" not in capsys.readouterr().err

    assert main([*asked, "--heads", "2,4"]) == 0
    manifest = bundle.read(out)
    sliced, whole = manifest.artifacts
    shown, err = capsys.readouterr()
    assert "2 (not trained)" in shown
    assert "warning: deit is a plain ViT" in err
    assert "k = 2 is an untrained slice" in sliced.warnings[0]
    assert whole.warnings == ()
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "A plain Vision Transformer" in card
    assert "**Warning:**" in card
    assert "`onnx/deit-k2.onnx`" in card.partition("**Warning:**")[2].partition("\n\n")[0]
    assert "HydraViT" not in card
    assert "- hydravit" not in card
    for form in ("md", "html"):
        assert main(["report", str(out), "--format", form, "--out", str(tmp_path / form)]) == 0
        page = (tmp_path / form).read_text(encoding="utf-8")
        assert "untrained slice" in page
        assert "HydraViT" not in page
