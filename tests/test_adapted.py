"""Checkpoints at other image sizes and with other outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
import timm
import torch
from timm.models.vision_transformer import checkpoint_filter_fn

from hydra_export import api, checkpoint_file
from hydra_export import checkpoint as checkpoints
from hydra_export.architecture import HydraConfig
from hydra_export.checkpoint import Checkpoint
from hydra_export.cli import main
from hydra_export.data.packaged import packaged_images
from hydra_export.errors import BadCheckpoint, BadInput, UnknownName
from hydra_export.model import HydraViT
from tests.variants import VARIANTS, checkpoint

WITH_OUTPUT = [name for name, config in VARIANTS.items() if config.pooling != "none" and not config.projection]


def informed(config: HydraConfig) -> Checkpoint:
    """With labels and an accuracy."""
    plain = checkpoint(config)
    labels = tuple("abcdefg")[: config.num_classes]
    info = msgspec.structs.replace(plain.info, labels=labels, accuracy={4: 90.0}, accuracy_data="some images")
    return Checkpoint(plain.state, info, plain.path, plain.sha256, plain.notes)


@pytest.mark.parametrize("name", WITH_OUTPUT)
def test_an_embedding_is_what_the_classifier_takes(name: str) -> None:
    whole, image_BCHW = informed(VARIANTS[name]), torch.randn(2, 3, *VARIANTS[name].image_shape)
    found = checkpoints.with_output(whole, "embedding")
    assert found.info.config.output == "features"
    assert found.model.num_classes == 0
    for k in (1, 2, 4):
        dense = whole.model.subnetwork(k).eval()
        with torch.no_grad():
            parts: Any = dense.forward_head(dense.forward_features(image_BCHW), pre_logits=True)
            given = found.model(image_BCHW, k)
        taken = sum(parts) / 2 if isinstance(parts, tuple) else parts  # of a distilled model
        torch.testing.assert_close(given, taken, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_tokens_are_those_of_the_patches_after_the_last_norm(name: str) -> None:
    config = VARIANTS[name]
    whole, image_BCHW = informed(config), torch.randn(2, 3, *config.image_shape)
    found = checkpoints.with_output(whole, "tokens")
    assert found.info.config.output == "patch_tokens"
    for k in (1, 2, 4):
        dense = whole.model.subnetwork(k).eval()
        with torch.no_grad():
            taken = dense.forward_features(image_BCHW)[:, config.num_prefix_tokens :]
            given = found.model(image_BCHW, k)
        assert given.shape[1:] == found.info.config.output_shape(k)
        torch.testing.assert_close(given, taken, rtol=0, atol=1e-5)
    said = any("comes after pooling" in note for note in found.notes)
    assert said is (config.final_norm == "after_pooling")


def test_the_checkpoint_says_what_it_gives() -> None:
    whole = informed(VARIANTS["plain"])
    assert checkpoints.with_output(whole, "logits").info == whole.info
    for output in ("embedding", "tokens"):
        info = checkpoints.with_output(whole, output).info
        assert (info.name, info.labels, info.accuracy, info.accuracy_data) == (f"variant-{output}", (), {}, "")
        again = checkpoints.with_output(checkpoints.with_output(whole, output), output)
        assert again.info == info
    notes = checkpoints.with_output(whole, "tokens").notes
    assert notes[-1] == "variant is exported without its classifier and labels: it outputs patch tokens."
    features = checkpoint(VARIANTS["distilled features"])
    assert checkpoints.with_output(features, "embedding").info == features.info
    assert not checkpoints.with_output(features, "embedding").notes


@pytest.mark.parametrize("name", ["projection", "distilled projection"])
def test_a_projection_is_an_embedding_and_left_out_of_tokens(name: str) -> None:
    whole = informed(VARIANTS[name])
    embedding = checkpoints.with_output(whole, "embedding")
    assert (embedding.info, embedding.state, embedding.notes) == (whole.info, whole.state, ())
    with pytest.raises(BadInput, match="no classifier: it outputs 7 features"):
        checkpoints.with_output(whole, "logits")
    tokens = checkpoints.with_output(whole, "tokens")
    assert tokens.info.config.projection == 0
    assert not any(name.startswith("head") for name in tokens.state)
    assert tokens.notes == ("variant is exported without its projection: it outputs patch tokens.",)


def test_separate_classifiers_are_left_out() -> None:
    own = checkpoint(msgspec.structs.replace(VARIANTS["plain"], separate_classifiers=(2, 4)))
    found = checkpoints.with_output(own, "embedding")
    assert not any(name.startswith("head") for name in found.state)
    assert found.model(torch.randn(1, 3, 16, 16), 3).shape == (1, 24)  # which had no classifier


def test_outputs_that_a_model_does_not_have_are_refused() -> None:
    plain, tokens = checkpoint(VARIANTS["plain"]), checkpoint(VARIANTS["patch tokens"])
    with pytest.raises(UnknownName, match="Did you mean 'tokens'"):
        checkpoints.with_output(plain, "token")
    with pytest.raises(BadInput, match="it outputs features") as refused:
        checkpoints.with_output(checkpoint(VARIANTS["distilled features"]), "logits")
    assert refused.value.field == "output"
    for output in ("logits", "embedding"):
        with pytest.raises(BadInput, match="it outputs patch tokens"):
            checkpoints.with_output(tokens, output)
    with pytest.raises(BadInput, match="no classes to label with `labels`"):
        checkpoints.with_labels(checkpoints.with_output(plain, "embedding"), ("a",))


def timm_model(name: str, size: tuple[int, int], **arguments: Any) -> Any:
    torch.manual_seed(0)
    model: Any = timm.create_model(name, img_size=size, num_classes=5, **arguments).eval()
    with torch.no_grad():
        model.get_parameter("pos_embed").normal_(0, 0.5)
        model.get_parameter("head.weight").normal_(0, 0.1)
    return model


@pytest.mark.parametrize(("old", "new"), [((32, 32), (64, 64)), ((64, 64), (32, 96)), ((64, 64), (48, 48))])
def test_a_size_that_is_not_the_checkpoints_is_what_timm_makes_of_it(
    tmp_path: Path, old: tuple[int, int], new: tuple[int, int]
) -> None:
    name = "test_vit"
    torch.save(timm_model(name, old).state_dict(), tmp_path / "vit.pth")
    loaded = checkpoints.load(tmp_path / "vit.pth", architecture=name, image_size=new)
    theirs = timm_model(name, new)
    state = torch.load(tmp_path / "vit.pth", weights_only=True)
    theirs.load_state_dict(checkpoint_filter_fn(state, theirs))
    image_BCHW = torch.randn(2, 3, *new)
    with torch.no_grad():
        torch.testing.assert_close(loaded.state["pos_embed"], theirs.pos_embed, rtol=0, atol=1e-6)
        torch.testing.assert_close(loaded.model(image_BCHW), theirs(image_BCHW), rtol=0, atol=1e-5)
    assert loaded.info.config.image_shape == loaded.info.preprocessing.image_shape == new
    assert any("positions are resampled by bicubic" in note for note in loaded.notes)


@pytest.mark.parametrize("name", [name for name in VARIANTS if VARIANTS[name].grid == (4, 4)])  # timm takes squares
def test_every_variant_is_resampled_as_timm_resamples_its_full_width(name: str) -> None:
    whole, new = informed(VARIANTS[name]), (24, 8)
    found = checkpoints.with_image_size(whole, new)
    config = msgspec.structs.replace(VARIANTS[name], image_size=new)
    theirs = HydraViT(config).subnetwork(4).eval()
    old = whole.model.subnetwork(4)
    own = checkpoint_filter_fn(dict(old.state_dict()), theirs) if VARIANTS[name].num_positions else old.state_dict()
    theirs.load_state_dict(own)
    if "pos_embed" in found.state:
        torch.testing.assert_close(found.state["pos_embed"], theirs.pos_embed, rtol=0, atol=1e-6)
    image_BCHW = torch.randn(2, 3, *new)
    with torch.no_grad():
        torch.testing.assert_close(found.model.subnetwork(4)(image_BCHW), theirs(image_BCHW), rtol=0, atol=1e-5)
    assert (found.info.accuracy, found.info.accuracy_data, found.info.labels) == ({}, "", whole.info.labels)
    assert "Its accuracy was measured at the old size" in found.notes[-1]
    assert checkpoints.with_image_size(whole, 16) == whole


def test_sizes_that_are_no_whole_number_of_patches_are_refused_with_the_nearest() -> None:
    plain = checkpoint(VARIANTS["plain"])
    for size, nearest in ((18, "16 or 20"), ((18, 33), "16x32 or 20x36"), (3, "4"), ((16, 30), "16x28 or 16x32")):
        with pytest.raises(BadCheckpoint, match=f"Pass `image_size` {nearest}\\."):
            checkpoints.with_image_size(plain, size)


def test_a_size_that_positions_are_of_settles_what_is_assumed(tmp_path: Path) -> None:
    torch.save(timm_model("test_vit", (32, 32)).state_dict(), tmp_path / "vit.pth")
    said = checkpoints.load(tmp_path / "vit.pth", head_dim=32, image_size=32)
    assert not any("image size" in line for line in said.info.assumed)
    assert not any("resampled" in note for note in said.notes)
    other = checkpoints.load(tmp_path / "vit.pth", head_dim=32, image_size=64)
    assert any(line.startswith("image size: 32x32") for line in other.info.assumed)
    assert other.info.config.image_size == 64


def test_preprocessing_in_a_file_is_that_of_the_new_size(tmp_path: Path) -> None:
    plain, file = checkpoint(VARIANTS["plain"]), tmp_path / "preprocessing.json"
    checkpoint_file.write(tmp_path / "plain.safetensors", plain.state, plain.info)
    for size in ([8, 32], 16):
        file.write_text(json.dumps({"image_size": size, "mean": [0.1] * 3, "std": [0.2] * 3, "crop": 1}))
        loaded = checkpoints.load(tmp_path / "plain.safetensors", preprocessing=str(file), image_size=(8, 32))
        assert loaded.info.preprocessing.image_size == (8, 32)
        assert loaded.info.preprocessing.mean == (0.1,) * 3
    file.write_text(json.dumps({"image_size": 24, "mean": [0.1] * 3, "std": [0.2] * 3}))
    with pytest.raises(BadCheckpoint, match="makes 3x24x24 images, its model takes 3x16x16"):
        checkpoints.load(tmp_path / "plain.safetensors", preprocessing=str(file), image_size=(8, 32))


@pytest.mark.parametrize("output", ["logits", "embedding", "tokens"])
def test_the_command_line_exports_each_output_at_another_size(
    output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bundle"
    choices = ["--output", output, "--image-size", "28x42", "--heads", "3", "--target", "onnx"]
    assert main([*choices, "--out", str(out), "--json"]) == 0
    said = capsys.readouterr()
    model = json.loads(said.out)["manifest"]["model"]
    assert (model["config"]["image_size"], model["preprocessing"]["image_size"]) == ([28, 42], [28, 42])
    assert "takes images of 28x42 instead of 28x28: its learned positions are resampled" in " ".join(said.err.split())
    name = {"logits": "logits", "embedding": "features", "tokens": "patch_tokens"}[output]
    bundle = api.open_bundle(out)
    (artifact,) = bundle.artifacts
    assert (artifact.entry.outputs[0].name, bundle.verify()[0].record.num_images > 1) == (name, True)
    readme = (out / "README.md").read_text()
    assert "1 x 28 x 42 images, " in readme
    assert "it covers 28 x 42" in readme
    assert ("a vector of channels for each of 4 x 6 patches, row by row" in readme) is (output == "tokens")


@pytest.mark.parametrize("output", ["embedding", "tokens"])
def test_int8_without_classes_is_judged_by_agreement(output: Literal["embedding", "tokens"], tmp_path: Path) -> None:
    whole = checkpoints.load()
    images = packaged_images(whole.info.preprocessing, 50)  # whose labels name classes that are left out
    given: dict[str, Any] = {"output": output, "heads": 3, "precisions": "int8"}
    bundle = api.export(whole, tmp_path / "bundle", **given, check_images=images)
    (artifact,) = bundle.artifacts
    record = artifact.entry.parity[3]
    assert (record.judged_by, record.accuracy, record.num_images) == ("agreement", None, 50)
    assert record.cosine > 0.99
    assert bundle.verify()[0].record.judged_by == "agreement"
    with pytest.raises(BadInput, match="images like the model's training images"):
        api.export(whole, tmp_path / "other", **given)


def test_an_output_that_is_none_is_refused_with_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output", "token", "--out", str(tmp_path / "bundle")]) == 2
    assert "tokens" in capsys.readouterr().err
    assert main(["--output", "embedding", "--image-size", "30", "--out", str(tmp_path / "bundle")]) == 2
    assert "Pass --image-size 28 or 35." in " ".join(capsys.readouterr().err.split())


def test_a_model_of_the_hub_is_resampled_too(tmp_path: Path) -> None:
    plain = checkpoint(VARIANTS["plain"])
    checkpoint_file.write(tmp_path / "model.safetensors", plain.state, plain.info)
    model = HydraViT.from_pretrained(tmp_path, image_size=(8, 32))
    expected = checkpoints.with_image_size(plain, (8, 32)).model
    image_BCHW = torch.randn(1, 3, 8, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(image_BCHW, 2), expected(image_BCHW, 2), rtol=0, atol=1e-5)
    assert model.info is not None
    assert model.info.preprocessing.image_size == (8, 32)
