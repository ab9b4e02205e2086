"""Recipe elastic: from a dense ViT to a universal one, with labels, without them, and without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

import hydra_export as hx
from hydra_export.cli import main
from hydra_export.data import datasets
from hydra_export.errors import BadInput
from hydra_export.evaluation.agreement import agreement
from hydra_export.train import recipes, record
from hydra_export.train.run import Outcome
from tests.conftest import perturbed

HEADS = (1, 2, 3, 4, 5, 6)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense model of the digits, of six heads."""
    out = tmp_path_factory.mktemp("dense") / "run"
    hx.train_model("digits", out, steps=250, train_heads=[6], override={"monitor_every": 1000})
    return out / "checkpoint.safetensors"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits as picture files in one folder, without classes."""
    folder = tmp_path_factory.mktemp("photographs")
    for number, pixels_HWC in enumerate(datasets.load("digits").train.pixels[:60]):
        Image.fromarray(pixels_HWC[..., 0]).save(folder / f"{number}.png")
    return folder


def elastic(start: Path, out: Path, steps: int = 0, data: Any = "digits", **override: Any) -> Outcome:
    quick = {"monitor_every": 1000, "save_every": 1000, "rebase_images": 64}
    return hx.train_model("elastic", out, start=start, data=data, steps=steps, override=quick | override)


def outputs(path: Path, heads: int) -> torch.Tensor:
    pixels = datasets.load("digits").test.pixels[:50]
    checkpoint = hx.load_checkpoint(path)
    with torch.no_grad():
        result: torch.Tensor = checkpoint.model(
            torch.from_numpy(checkpoint.info.preprocessing.normalise(pixels)), heads
        )
    return result


def test_without_training_the_full_width_is_the_dense_model_and_narrower_ones_are_better(
    dense: Path, tmp_path: Path
) -> None:
    outcome = elastic(dense, tmp_path / "run")
    torch.testing.assert_close(outputs(outcome.checkpoint, 6), outputs(dense, 6), rtol=0, atol=1e-4)
    as_it_is = elastic(dense, tmp_path / "plain", rebase="none", epochs=0.001, distill="", lr=1e-12, lr_min=0).accuracy
    assert tuple(outcome.accuracy) == HEADS
    assert sum(outcome.accuracy.values()) > sum(as_it_is.values()) + 20
    info = hx.load_checkpoint(outcome.checkpoint).info
    assert (info.trained_heads, info.accuracy) == ((6,), outcome.accuracy)


def test_training_makes_every_head_count_useful_and_keeps_the_full_width(dense: Path, tmp_path: Path) -> None:
    before, after = elastic(dense, tmp_path / "no").accuracy, elastic(dense, tmp_path / "run", 150).accuracy
    assert after[6] > before[6] - 2
    assert after[3] > before[3]
    assert after[2] > 60
    assert hx.load_checkpoint(tmp_path / "run" / "checkpoint.safetensors").info.trained_heads == HEADS


def test_images_without_labels_are_enough(dense: Path, photographs: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    before = elastic(dense, tmp_path / "no", data=photographs)
    after = hx.train_model(
        "elastic", tmp_path / "run", start=dense, data=photographs, steps=150, tell=lambda told: notes.extend(told)
    )
    assert any("the model only learns from the teacher" in note for note in notes)
    assert before.accuracy[6] == 100
    assert after.accuracy[3] > before.accuracy[3]
    info = hx.load_checkpoint(after.checkpoint).info
    assert (info.accuracy, info.agreement) == ({}, after.accuracy)
    assert info.agreement_data == "6 test images of photographs0"
    assert info.labels == hx.load_checkpoint(dense).info.labels


def test_a_backbone_learns_the_features_of_the_dense_one(tmp_path: Path) -> None:
    config = msgspec.structs.replace(hx.load_checkpoint().info.config, num_classes=0, depth=2)
    model = perturbed(config)
    model.info = hx.CheckpointInfo(
        name="backbone", config=config, preprocessing=hx.load_checkpoint().info.preprocessing, trained_heads=(12,)
    )
    hx.save_checkpoint(tmp_path / "backbone.safetensors", model.state_dict(), model.info)
    settings: dict[str, Any] = {"augmentation.flip": 0.0, "batch_size": 16}
    before = elastic(tmp_path / "backbone.safetensors", tmp_path / "no", **settings)
    after = elastic(tmp_path / "backbone.safetensors", tmp_path / "run", 60, **settings)
    assert before.accuracy[12] == pytest.approx(100, abs=0.01)
    assert after.accuracy[6] > before.accuracy[6]
    elastic(tmp_path / "backbone.safetensors", tmp_path / "mixed", 2, **{"augmentation.mixup": 0.5, **settings})
    made = hx.load_checkpoint(after.checkpoint)
    assert made.info.config.output_shape(3) == made.info.config.output_shape(12) == (192,)


def test_a_run_that_stopped_goes_on_bit_for_bit(dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = elastic(dense, tmp_path / "whole", 8, save_every=3)
    config = record.stored_config(tmp_path / "whole")
    from hydra_export.train import loop, rebase, run

    taken = loop.Trainer.train_step

    def stopping(self: loop.Trainer) -> loop.StepResult:
        if self.step == 5:
            raise KeyboardInterrupt
        return taken(self)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop.Trainer, "train_step", stopping)
        run.run(config, tmp_path / "stopped")
    monkeypatch.setattr(rebase, "made_elastic", lambda *arguments: pytest.fail("weights that are there are made again"))
    resumed = run.run(config, tmp_path / "stopped", resume=True)
    assert whole.checkpoint.read_bytes()[-10_000:] == resumed.checkpoint.read_bytes()[-10_000:]
    assert whole.accuracy == resumed.accuracy


def test_the_card_says_what_was_measured(dense: Path, photographs: Path, tmp_path: Path) -> None:
    made = elastic(dense, tmp_path / "run", data=photographs)
    hx.export(made.checkpoint, tmp_path / "dist", targets="onnx", heads=[3, 6])
    card = (tmp_path / "dist" / "README.md").read_text()
    assert "| agreement |" in card
    assert "images with the same largest logit, on 6 test images of photographs0" in card


def test_the_command_says_what_it_did(dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "--recipe", "elastic", "--start", str(dense), "--data", "digits", "--no-training"]
    assert main([*command, "--out", str(tmp_path / "run"), "--json"]) == 0
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert (document["steps"], document["measure"]) == (0, "top-1")
    assert [row["trained"] for row in document["subnetworks"]] == [False] * 5 + [True]
    assert "is in a new basis, chosen by 256 images" in shown.err.replace("\n", " ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": None}, "needs a dense ViT"),
        ({"start": "packaged model"}, "already universal"),
        ({"override": {"labels": "ignore", "distill": ""}}, "nothing to learn"),
        ({"data": "fashion-mnist", "steps": 0, "override": {"rebase": "none"}}, "needs steps"),
    ],
)
def test_what_cannot_be_is_refused(dense: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    from hydra_export.checkpoint import packaged_path

    start = changes.get("start", dense)
    changes["start"] = packaged_path() if start == "packaged model" else start
    with pytest.raises(BadInput, match=message):
        hx.train_model("elastic", tmp_path / "run", **{"data": "digits", **changes})
    assert not (tmp_path / "run").exists()


def test_images_of_other_classes_are_refused(dense: Path, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "data" / name / f"{i}.png")
    with pytest.raises(
        BadInput, match=r"The classes of the data \(a, b\) are not those of the teacher, hydravit-digits"
    ):
        elastic(dense, tmp_path / "run", data=tmp_path / "data")


def test_make_elastic_takes_images_in_every_form(dense: Path, photographs: Path) -> None:
    checkpoint = hx.load_checkpoint(dense)
    pixels = datasets.load("digits").train.pixels[:32]
    tensor = torch.from_numpy(checkpoint.info.preprocessing.normalise(pixels))
    labels = torch.from_numpy(datasets.load("digits").train.labels[:32])
    made = [
        hx.make_elastic(dense, photographs),
        hx.make_elastic(checkpoint, tensor),
        hx.make_elastic(checkpoint.model, [(tensor[:16], labels[:16]), (tensor[16:], labels[16:])]),
        hx.make_elastic(checkpoint, tensor.split(8), how="sort"),
    ]
    for each in made:
        with torch.no_grad():
            torch.testing.assert_close(each.model(tensor), checkpoint.model(tensor), rtol=0, atol=1e-4)
    assert made[0].info.trained_heads == (6,)
    assert made[0].info.training == {"elastic": "rotate", "images": 60, "of": "hydravit-digits"}


def test_finetuning_puts_a_plain_vit_into_another_basis_and_leaves_a_universal_one(dense: Path) -> None:
    assert recipes.finetune(str(dense)).rebase == "rotate"
    assert recipes.finetune().rebase == "none"


def test_processes_count_each_image_once(dense: Path) -> None:
    model = hx.load_checkpoint(dense).model
    pixels, test = hx.load_checkpoint(dense).info.preprocessing, datasets.load("digits").test
    shares = [agreement(model, model, pixels, test, [3], rank=rank, num_processes=2) for rank in range(2)]
    whole, count = agreement(model, model, pixels, test, [3])
    assert sum(num for _, num in shares) == count == len(test)
    assert sum(found[3] * num for found, num in shares) / count == pytest.approx(whole[3], abs=0.01)
