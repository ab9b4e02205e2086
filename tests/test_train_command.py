"""The command ``train``: options, overrides and what it prints."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from hydra_export import checkpoint, checkpoint_file
from hydra_export.cli import main
from hydra_export.commands.train import train
from hydra_export.errors import BadInput, UnknownName
from hydra_export.train import record, request

QUICK = ["--recipe", "digits", "--steps", "3", "--batch-size", "8"]


def test_overrides_reach_the_run_and_its_resolved_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--override", "model.depth=1", "--override", "augmentation.shift=0", "--head-weights", "1,1,1,1,1,5"]
    assert main(["train", *QUICK, *options, "--out", str(tmp_path / "run"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    config = record.stored_config(tmp_path / "run")
    assert (config.model.depth, config.augmentation.shift) == (1, 0)
    assert (config.sampling, config.weights) == ("weighted", (1, 1, 1, 1, 1, 5))
    assert document["unreadable_images"] == []
    assert document["plot"] is None or Path(document["plot"]).is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"override": ("drop_pth=0.1",)}, "'drop_path'"),
        ({"override": ("drop_path",)}, "sets nothing"),
        ({"override": ("drop_path=much",)}, "drop_path=much"),
        ({"head_weights": "1,2"}, "2 sampling weights"),
        ({"head_weights": "1,0,1,1,1,1"}, "positive numbers"),
        ({"start": "nowhere.pth"}, "There is no checkpoint at nowhere.pth"),
        ({"recipe": "finetune"}, "Pass `data`, a folder"),
        ({"recipe": "fashion-mnist", "data": "digits"}, "Recipe fashion-mnist trains on fashion-mnist, not on digits."),
        ({"recipe": "imagenet-base", "data": "nowhere"}, "There is no folder or .tar file nowhere"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        train(out=tmp_path / "run", **{"recipe": "digits", **options})  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("recipe", "data", "chosen"),
    [(None, "digits", "digits"), (None, None, "fashion-mnist"), ("finetune", "digits", "finetune")],
)
def test_data_that_comes_with_a_recipe_chooses_it(recipe: str | None, data: str | None, chosen: str) -> None:
    fields = {} if data is None else {"data": data}
    config = request.resolve(request.TrainingRequest(recipe=recipe, fields=fields), Path("run")).config
    assert (config.recipe, config.dataset, config.data) == (chosen, data or "fashion-mnist", "")


def test_a_folder_of_images_is_not_the_dataset_of_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    assert main(["train", "--data", str(tmp_path / "photos"), "--out", str(tmp_path / "run")]) == 2
    assert "Set --recipe finetune to train on a folder of images." in capsys.readouterr().err


def test_head_weights_hold_on_each_process_where_each_draws_its_own(tmp_path: Path) -> None:
    weights = (1, 1, 1, 1, 1, 1, 1, 1, 1, 5)
    for sampling, fields in (("per-rank", {}), ("weighted", {"sampling": "weighted"})):
        asked = request.TrainingRequest(recipe="imagenet-base", head_weights=weights, fields=fields)
        plan = request.resolve(asked, tmp_path)
        assert (plan.config.sampling, plan.config.weights) == (sampling, weights)


def test_a_resumed_run_may_say_again_what_it_was_and_nothing_else(tmp_path: Path) -> None:
    def stopped(**options: object) -> None:
        train(out=tmp_path, recipe="digits", batch_size=8, override=("drop_path=0.1",), **options)  # type: ignore[arg-type]

    stopped(steps=3)
    stopped(resume=True)
    with pytest.raises(BadInput, match=r"has `drop_path` 0.1, not 0.2"):
        train(out=tmp_path, override=("drop_path=0.2",), resume=True)
    with pytest.raises(BadInput, match="has `sampling` uniform, not weighted"):
        train(out=tmp_path, head_weights="1,1,1,1,1,1", resume=True)


def test_a_run_that_starts_from_another_says_so_in_its_command(tmp_path: Path) -> None:
    first = train(out=tmp_path / "first", recipe="digits", steps=2, batch_size=8).document["checkpoint"]
    train(out=tmp_path / "second", recipe="digits", steps=2, batch_size=8, start=first)
    command = checkpoint.load(tmp_path / "second" / record.CHECKPOINT).info.training["command"]
    assert f"--start {first}" in command


def test_unknown_recipes_are_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="'finetune'"):
        train(out=tmp_path / "run", recipe="fine-tune")


def test_a_class_count_that_contradicts_taking_the_datas_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--recipe", "finetune", "--data", str(tmp_path), "--out", str(tmp_path / "run")]
    assert main([*arguments, "--override", "model.num_classes=7"]) == 2
    assert "model.num_classes=7" in " ".join(capsys.readouterr().err.split())


def photographs(folder: Path, mode: str, size: int) -> Path:
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for i in range(4):
            shape = (size, size, 3) if mode == "RGB" else (size, size)
            Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(folder / name / f"{i}.png")
    return folder


@pytest.mark.parametrize(("mode", "size"), [("RGB", 28), ("L", 100)])
def test_a_finetune_of_photographs_asks_what_to_start_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str, size: int
) -> None:
    folder = photographs(tmp_path / "photos", mode, size)
    arguments = ["train", "--recipe", "finetune", "--data", str(folder), "--out", str(tmp_path / "run"), "--steps", "1"]
    assert main(arguments) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"of {size}x{size} pixels, and without --start training would begin with hydravit-fashion-mnist" in said
    assert "grey ones of 28x28. Pass a --start checkpoint for such images, or --start packaged" in said
    assert not (tmp_path / "run").exists()
    assert main([*arguments, "--start", "packaged", "--batch-size", "2"]) == 0


def test_a_finetune_of_small_grey_images_needs_no_start(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "photos", "L", 28)
    train(out=tmp_path / "run", recipe="finetune", data=str(folder), steps=1, batch_size=2)


def test_classes_without_names_are_said_to_be_taken_in_turn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = checkpoint.load()
    unnamed = tmp_path / "unnamed.safetensors"
    info = msgspec.structs.replace(loaded.info, labels=(), trained_heads=(12,), export_heads=())
    checkpoint_file.write(unnamed, loaded.model.state_dict(), info)
    for i in range(10):
        photographs(tmp_path / "ten" / f"c{i}", "L", 28)
        for j, child in enumerate(sorted((tmp_path / "ten" / f"c{i}").rglob("*.png"))):
            child.rename(tmp_path / "ten" / f"c{i}" / f"{j}.png")
        for empty in ("cat", "dog"):
            (tmp_path / "ten" / f"c{i}" / empty).rmdir()
    options = {"recipe": "finetune", "data": str(tmp_path / "ten"), "steps": 1, "batch_size": 2, "start": str(unnamed)}
    found = train(out=tmp_path / "run", **options).document  # type: ignore[arg-type]
    said = " ".join(capsys.readouterr().err.split())
    assert "does not name its classes; they are assumed to be the data's, in this order: c0, c1, c2, ..." in said
    assert found["trained_heads"] == list(range(1, 13)), "of a plain ViT every head count is to be trained"
