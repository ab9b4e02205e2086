"""What nothing says is assumed aloud: in one note, in the manifest, in the card, in our own format."""

from __future__ import annotations

from pathlib import Path

import pytest

from hydra_export import bundle, checkpoint, checkpoint_file
from hydra_export.cli import main
from tests.importing.cases import bare, hub, timm_config, transformers_configs, transformers_state, vit

SUBJECTS = [
    "head width",
    "pooling",
    "norms",
    "rotary positions",
    "activation",
    "LayerNorm epsilon",
    "image size",
    "preprocessing",
]


def subjects(assumed: tuple[str, ...]) -> list[str]:
    return [line.partition(":")[0] for line in assumed]


def test_an_export_says_what_was_assumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = bare(vit())(tmp_path).place
    assert main(["--checkpoint", str(path), "--heads", "3", "--out", str(tmp_path / "out")]) == 0
    (note,) = [line for line in capsys.readouterr().err.splitlines() if "Assumed for" in line]
    manifest = bundle.read(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert subjects(manifest.model.assumed) == SUBJECTS
    for line in manifest.model.assumed:
        assert line in note
        assert f"\n- {line.split(',')[0]}" in card


def test_a_checkpoint_that_says_everything_assumes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub(vit(num_heads=6), timm_config({"num_heads": 6}))(tmp_path)
    assert main(["--checkpoint", str(tmp_path), "--heads", "6", "--out", str(tmp_path / "out")]) == 0
    assert bundle.read(tmp_path / "out").model.assumed == ()
    assert "Assumed" not in capsys.readouterr().err
    assert "## Assumed" not in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_what_was_assumed_is_kept_with_the_weights(tmp_path: Path) -> None:
    loaded = checkpoint.load(bare(vit())(tmp_path).place)
    checkpoint_file.write(tmp_path / "ours.safetensors", loaded.model.state_dict(), loaded.info)
    again = checkpoint.load(tmp_path / "ours.safetensors")
    assert again.info.assumed == loaded.info.assumed
    assert "Assumed" in again.notes[-1]
    settled = checkpoint.load(tmp_path / "ours.safetensors", preprocessing="imagenet")
    assert subjects(settled.info.assumed) == SUBJECTS[:-1]


def test_what_the_user_says_is_not_assumed(tmp_path: Path) -> None:
    path = bare(vit())(tmp_path).place
    loaded = checkpoint.load(path, head_dim=64, image_size=(32, 32), preprocessing="inception")
    assert subjects(loaded.info.assumed) == ["pooling", "norms", "rotary positions", "activation", "LayerNorm epsilon"]


@pytest.mark.parametrize(
    ("processor", "crop", "assumed"),
    [
        ({}, 1.0, True),
        ({"size": 32}, 1.0, True),
        ({"size": {"height": 36, "width": 36}, "do_center_crop": True, "crop_size": 32}, 32 / 36, True),
        (
            {"size": {"shortest_edge": 36}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}},
            32 / 36,
            False,
        ),
        ({"size": [32, 32]}, 1.0, True),
        ({"size": {"shortest_edge": 32}, "do_center_crop": True, "crop_size": 24}, 24 / 32, True),  # as DINOv2's
    ],
)
def test_transformers_sizes_are_read_in_all_their_forms(
    tmp_path: Path, processor: dict[str, object], crop: float, assumed: bool
) -> None:
    module = vit(num_heads=6)
    hub(module, transformers_configs(processor), transformers_state(module.state_dict()))(tmp_path)
    info = checkpoint.load(tmp_path).info
    assert info.preprocessing.crop == crop
    assert info.preprocessing.covered_shape[0] == int(32 / crop + 1e-9)
    assert (info.preprocessing.interpolation, info.preprocessing.std) == ("bilinear", (0.5, 0.5, 0.5))
    assert (subjects(info.assumed) == ["preprocessing"]) is assumed
    assert info.labels == ("ant", "bee", "cat", "dog", "eel")


@pytest.mark.parametrize(
    "processor",
    [
        {"size": {"shortest_edge": 32}},
        {"size": {"height": 48, "width": 32}},
        {"do_resize": False},
        {"resample": 1},
        {"rescale_factor": 1 / 127.5},
        {"do_center_crop": True, "crop_size": 40},
    ],
)
def test_preprocessing_that_is_not_ours_is_refused_until_the_user_gives_one(
    tmp_path: Path, processor: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    module = vit(num_heads=6)
    hub(module, transformers_configs(processor), transformers_state(module.state_dict()))(tmp_path)
    options = ["--checkpoint", str(tmp_path), "--heads", "6", "--out", str(tmp_path / "out")]
    assert main(options) == 2
    assert "--preprocessing" in capsys.readouterr().err
    assert checkpoint.load(tmp_path, preprocessing="inception").info.assumed == ()


@pytest.mark.parametrize("size", ["224x", "x", "2 24", "-1", "224x224x3", "1e3"])
def test_an_image_size_that_is_none_is_refused(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--image-size", size]) == 2
    assert "--image-size" in capsys.readouterr().err
