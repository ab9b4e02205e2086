"""What is written: operations, weights, inputs and outputs, metadata, and the same bytes everywhere."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from hydra_export import mil
from hydra_export.checkpoint import load
from hydra_export.errors import BadInput
from hydra_export.preprocess import Preprocessing
from hydra_export.target import ExportSpec, GraphKind, Precision
from hydra_export.targets.coreml import TARGET
from hydra_export.version import VERSION
from hydra_export.worker import Worker
from tests.targets.conftest import Case, MakeCheckpoint, given
from tests.targets.coreml.conftest import Opened, Proof, Write

_BLOCK = ["layer_norm", *["linear", "reshape", "transpose"] * 3]
_WHOLE, _APART = ["scaled_dot_product_attention"], ["matmul", "softmax", "matmul"]
_REST = ["transpose", "reshape", "linear", "add", "layer_norm", "linear", "gelu", "linear", "add"]


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("ios", [15, 16, 17, 18])
def test_every_ios_version_gets_its_own_operations_and_no_others(write: Write, ios: int, precision: Precision) -> None:
    checkpoint, artifact, path = write(ios=ios, precision=precision)
    attention = _WHOLE if ios == 18 else _APART
    last = [*_BLOCK]
    last[1:1] = ["slice_by_index", "slice_by_index"]  # the class token alone asks
    expected = ["conv", "reshape", "transpose", "add", "concat"]
    expected += [*_BLOCK, *attention, *_REST, *last, *attention, *_REST, "layer_norm", "squeeze", "linear"]
    if precision == "fp16":
        expected = ["cast", *expected, "cast"]
    assert Opened(path).kinds() == expected
    assert mil.load(path).ios == ios
    assert artifact.needs == {"ios": str(ios), "macos": str(ios - 3)}
    Proof(checkpoint, artifact).of(path)


@pytest.mark.parametrize(
    ("head_dim", "whole"),
    [(1, True), (4, True), (16, True), (2, False), (8, False), (9, False), (12, False)],
)
def test_attention_is_one_operation_where_its_scale_can_be_undone_exactly(
    write: Write, head_dim: int, whole: bool
) -> None:
    checkpoint, artifact, path = write({"head_dim": head_dim})
    assert ("scaled_dot_product_attention" in Opened(path).kinds()) == whole
    Proof(checkpoint, artifact).of(path)


def test_the_weights_are_the_normalised_form_rounded_once(write: Write) -> None:
    checkpoint, _, path = write(heads=3)
    weights = checkpoint.model.weights(3)
    package = Opened(path)
    for name, factor in (("blocks.1.mlp.fc1.weight", 1), ("blocks.0.attn.k.bias", 1), ("blocks.0.attn.q.weight", 4)):
        saved = package.array(f"{name.replace('.', '_')}_0")
        assert saved.dtype == np.float16
        np.testing.assert_array_equal(saved, weights[name].detach().numpy().astype(np.float16) * np.float16(factor))


@pytest.mark.parametrize("architecture", [{"layer_scale": 0.5}, {"channels": 1}, {"separate_classifiers": (2, 4)}])
@pytest.mark.parametrize("form", ["tensor", "image"])
def test_images_are_normalised_inside_and_the_patch_weights_stay(
    write: Write, architecture: dict[str, Any], form: str
) -> None:
    checkpoint, artifact, path = write(architecture, input=form)
    (image,) = mil.load(path).signatures["main"].inputs
    channels = checkpoint.info.config.channels
    if form == "image":
        assert (image.kind, image.color) == ("image", "rgb" if channels == 3 else "grey")
        assert Opened(path).kinds()[:4] == ["mul", "add", "cast", "conv"]
    else:
        assert (image.kind, image.dtype) == ("tensor", "fp32")
    assert (image.name, image.shape) == ("image", (1, channels, 16, 16))
    patches = checkpoint.model.weights(2)["patch_embed.weight"].detach().numpy().astype(np.float16)
    np.testing.assert_array_equal(Opened(path).array("patch_embed_weight_0"), patches)
    Proof(checkpoint, artifact).of(path)


def test_a_batch_of_three_is_one(write: Write) -> None:
    checkpoint, artifact, path = write(batch=3)
    (image,), (logits,) = artifact.inputs, artifact.outputs
    assert (image.shape, logits.shape) == ((3, 3, 16, 16), (3, 11))
    assert mil.load(path).functions["main"].inputs["image"].shape == (3, 3, 16, 16)
    Proof(checkpoint, artifact).of(path)  # five images: the last batch is filled up


def test_a_backbone_gives_features(write: Write) -> None:
    checkpoint, artifact, path = write({"num_classes": 0})
    (features,) = artifact.outputs
    assert (features.name, features.dtype, features.shape) == ("features", "float32", (1, 32))
    (described,) = mil.load(path).signatures["main"].outputs
    assert (described.name, described.description) == ("features", "The class token after the last LayerNorm.")
    Proof(checkpoint, artifact).of(path)


def test_a_projection_gives_features_of_its_length(write: Write) -> None:
    checkpoint, artifact, path = write({"num_classes": 0, "projection": 7})
    (features,) = artifact.outputs
    assert (features.name, features.shape) == ("features", (1, 7))
    (described,) = mil.load(path).signatures["main"].outputs
    assert (described.name, described.description) == ("features", "A number per channel.")
    Proof(checkpoint, artifact).of(path)


@pytest.mark.parametrize("form", ["tensor", "image"])
@pytest.mark.parametrize("ios", [15, 18])
def test_a_classifier_says_the_label_and_keeps_the_logits(write: Write, ios: int, form: str) -> None:
    checkpoint, artifact, path = write(classifier=True, ios=ios, input=form)
    package = mil.load(path)
    signature = package.signatures["main"]
    assert {each.name: each.kind for each in signature.outputs} == {
        "classLabel": "string",
        "classLabel_probs": "dictionary",
        "logits": "tensor",
    }
    assert (signature.predicted_label, signature.predicted_probabilities) == ("classLabel", "classLabel_probs")
    image = given(checkpoint, artifact.spec)[:1]
    outputs = package.run({"image": image if form == "tensor" else image.transpose(0, 3, 1, 2)})
    logits = outputs["logits"][0].astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum()
    assert outputs["classLabel"] == checkpoint.info.labels[shares.argmax()]
    assert list(outputs["classLabel_probs"]) == list(checkpoint.info.labels)
    np.testing.assert_allclose(list(outputs["classLabel_probs"].values()), shares, rtol=1e-5)  # float32's softmax
    Proof(checkpoint, artifact).of(path)
    TARGET.lint(path)


def test_the_package_says_what_it_is(write: Write) -> None:
    checkpoint, _, path = write(heads=3)
    package = mil.load(path)
    assert package.metadata == {
        "author": "hydra-export",
        "license": "CC0-1.0",
        "version": VERSION,
        "description": "tiny, subnetwork of 3 of 4 attention heads: a Vision Transformer of width 48 for images of "
        "16 x 16 pixels.",
    }
    said = package.user_metadata
    assert said["hydra_export.model"] == "tiny"
    assert said["hydra_export.heads"] == "3"
    assert said["hydra_export.checkpoint_sha256"] == checkpoint.sha256
    assert json.loads(said["hydra_export.labels"]) == list(checkpoint.info.labels)
    preprocessing = msgspec.json.decode(said["hydra_export.preprocessing"], type=Preprocessing)
    assert preprocessing == checkpoint.info.preprocessing
    (image,), (logits,) = package.signatures["main"].inputs, package.signatures["main"].outputs
    assert "mean 0.4, 0.5, 0.6 and std 0.2, 0.3, 0.4" in image.description
    assert logits.description == "One number per class, before softmax."
    assert package.build_info == {}


def test_nothing_says_when_or_with_what_it_was_made(write: Write) -> None:
    _, _, path = write()
    content = b"".join(each.read_bytes() for each in path.rglob("*") if each.is_file())
    assert b"date" not in content.lower()
    assert b"coremltools" not in content.lower()
    assert b"/tmp" not in content


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "choices", "lists"),
    [
        ("tiny-k2.mlpackage", {}, ([2], [1, 2])),  # what was written before must not matter either
        ("tiny-universal-int8.mlpackage", {"graph": "universal", "precision": "int8"}, ([1, 2, 4], [1, 2, 4])),
    ],
)
def test_two_processes_write_the_same_bytes(
    make_checkpoint: MakeCheckpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    choices: dict[str, Any],
    lists: Sequence[list[int]],
) -> None:
    checkpoint = make_checkpoint()
    trees = []
    for seed, heads in enumerate(lists, start=1):
        monkeypatch.setenv("PYTHONHASHSEED", str(seed))
        out = tmp_path / str(seed)
        out.mkdir()
        convert(checkpoint, out, heads, **choices)
        package = out / name
        trees.append({str(each.relative_to(out)): each.read_bytes() for each in package.rglob("*") if each.is_file()})
    assert trees[0] == trees[1]
    assert len(trees[0]) == 3


_OPENED = """
import sys
sys.modules["tensorflow"] = None
import torch, torchvision
import coremltools
spec = coremltools.models.MLModel(sys.argv[1], skip_model_load=True).get_spec()
print(spec.description.metadata.author, spec.WhichOneof("Type"))
"""


@pytest.mark.slow
def test_coremltools_opens_a_package_and_leaves_its_bytes_alone(write: Write) -> None:
    """It writes Manifest.json again when it opens a package: the bundle's hashes must still hold."""
    _, _, path = write()
    before = {each: each.read_bytes() for each in path.rglob("*") if each.is_file()}
    done = subprocess.run([sys.executable, "-c", _OPENED, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["hydra-export", "mlProgram"]
    assert {each: each.read_bytes() for each in path.rglob("*") if each.is_file()} == before


READ_BACK = """
import sys
sys.modules["tensorflow"] = None
import torch, torchvision
import coremltools
from coremltools.converters.mil.frontend.milproto.load import load
for path in sys.argv[1:]:
    spec = coremltools.models.MLModel(path, skip_model_load=True).get_spec()
    for name in list(spec.mlProgram.functions):
        alone = type(spec)(specificationVersion=spec.specificationVersion)
        alone.mlProgram.version = 1
        alone.mlProgram.functions[name].CopyFrom(spec.mlProgram.functions[name])
        load(alone, alone.specificationVersion, f"{path}/Data/com.apple.CoreML/weights")
        print(name)
"""


@pytest.mark.slow
def test_coremltools_reads_back_every_kind_of_package_and_infers_the_same_types(write: Write, tmp_path: Path) -> None:
    """Its reader infers the type of every operation anew, and raises where the file declares another."""
    paths: list[str] = []
    for ios, precision, image, classifier in itertools.product(
        (15, 16, 17, 18), TARGET.precisions, (False, True), (0, 1)
    ):
        choices: dict[str, Any] = {"ios": ios, "precision": precision, "classifier": bool(classifier)}
        choices |= {"input": "image" if image else "tensor"}
        for graph in ("separate", "universal"):
            if offered(graph, **choices):
                _, _, path = write(heads=(1, 2, 4) if graph == "universal" else 2, graph=graph, **choices)
                paths.append(str(path.rename(tmp_path / f"{len(paths)}.mlpackage")))
    done = subprocess.run([sys.executable, "-c", READ_BACK, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert set(done.stdout.split()) == {"main", "k1", "k2", "k4"}
    assert len(done.stdout.split()) > len(paths) > 50


def offered(graph: GraphKind, **choices: Any) -> bool:
    return not Case(TARGET, graph, choices.pop("precision")).refuses(**choices)


def test_precisions_lie_side_by_side(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint, out = make_checkpoint(), tmp_path / "out"
    names = []
    for precision in TARGET.precisions:
        written = Case(TARGET, "separate", precision).write(checkpoint, (2,), tmp_path / precision)
        names += [artifact.path for artifact in written]
        shutil.copytree(tmp_path / precision, out, dirs_exist_ok=True)
    assert names == [f"tiny-k2{end}.mlpackage" for end in ("", "-fp32", "-int8", "-int8-static")]
    assert sorted(each.name for each in out.iterdir()) == sorted(names)


@pytest.mark.slow
def test_files_are_as_open_as_the_umask_says(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        convert(make_checkpoint(), tmp_path, [2])
    finally:
        os.umask(old)
    package = tmp_path / "tiny-k2.mlpackage"
    modes = {each.stat().st_mode & 0o777 for each in package.rglob("*") if each.is_file()}
    folders = {each.stat().st_mode & 0o777 for each in (package, *package.rglob("*")) if each.is_dir()}
    assert (modes, folders) == ({0o640}, {0o750})


def spec(graph: GraphKind = "separate", precision: Precision = "fp16", **choices: Any) -> ExportSpec:
    return Case(TARGET, graph, precision).spec(**choices)


def convert(checkpoint: Any, out: Path, heads: Sequence[int], **choices: Any) -> None:
    """Writes in a process that nothing else was written in."""
    with Worker(package="tests") as worker:
        arguments: dict[str, Any] = {
            "path": str(checkpoint.path),
            "out": str(out),
            "heads": list(heads),
            "choices": choices,
        }
        worker.call(f"{__name__}:converted", **arguments)
        assert worker.output_tail() == ""


def converted(path: str, out: str, heads: list[int], choices: dict[str, Any]) -> None:
    TARGET.write(load(Path(path)), heads, spec(**choices), Path(out))


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"batch": "dynamic"}, "need a fixed batch"),
        ({"batch": 2, "input": "image"}, "one image at a time, not 2"),
        ({"batch": 2, "classifier": True}, "one image at a time, not 2"),
        ({"ios": 14}, "`ios` 14 is not supported"),
        ({"ios": 19}, "`ios` 19 is not supported"),
    ],
)
def test_what_a_package_cannot_be_is_refused(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message) as refused:
        TARGET.check(spec(**{"precision": "fp32", **choices}))
    assert refused.value.remedy.startswith(("Pass ", "Use "))


@pytest.mark.parametrize(
    ("labels", "message"),
    [((), "it has 0 labels|has 0 labels for 11 classes"), (("twice",) * 11, "The label 'twice' is listed twice")],
)
def test_a_classifier_needs_a_label_of_its_own_for_each_class(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, labels: tuple[str, ...], message: str
) -> None:
    checkpoint = make_checkpoint(num_classes=11)
    relabelled(checkpoint, labels)
    with pytest.raises(BadInput, match=message) as refused:
        TARGET.write(checkpoint, (2,), spec(classifier=True), tmp_path)
    assert "`labels`" in refused.value.remedy
    assert list(tmp_path.glob("*.mlpackage")) == []


def relabelled(checkpoint: Any, labels: tuple[str, ...]) -> None:
    object.__setattr__(checkpoint, "info", msgspec.structs.replace(checkpoint.info, labels=labels))


def test_a_weight_that_fp16_cannot_hold_is_refused(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    import torch

    from hydra_export import checkpoint_file

    checkpoint = make_checkpoint()
    with torch.no_grad():
        checkpoint.model.state_dict()["blocks.1.mlp.fc2.bias"][3] = 1e5
    checkpoint_file.write(checkpoint.path, checkpoint.model.state_dict(), checkpoint.info)
    with pytest.raises(
        BadInput, match=r"blocks\.1\.mlp\.fc2\.bias contains 1e\+05; the largest fp16 value is 65504"
    ) as refused:
        convert(checkpoint, tmp_path, [2])
    assert refused.value.remedy == "Pass `precision=fp32`."


def test_core_ml_itself_runs_packages_on_a_mac_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert [each.name for each in TARGET.runtimes("fp16")] == ["mil", "mil-fp16"]
    assert [(each.name, each.exact) for each in TARGET.runtimes("fp32")] == [("mil", True)]
    monkeypatch.setattr(sys, "platform", "darwin")
    assert [each.name for each in TARGET.runtimes("fp32")] == ["mil", "coreml"]
    assert not any(each.timed for each in TARGET.runtimes("fp16") if each.name.startswith("mil"))
