"""Datasets as people keep them, whole and damaged."""

from __future__ import annotations

import io
import os
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hydra_export import checkpoint, checkpoint_file
from hydra_export.architecture import HydraConfig
from hydra_export.data import sources
from hydra_export.data.datasets import digits
from hydra_export.errors import BadData, BadInput
from hydra_export.preprocess import imagenet
from hydra_export.train import record, run
from hydra_export.train.config import TrainConfig, overridden
from hydra_export.train.recipes import finetune
from tests.conftest import perturbed
from tests.train.test_run import tiny


def png(number: int) -> bytes:
    held = io.BytesIO()
    Image.fromarray(digits().train.pixels[number, ..., 0]).save(held, "png")
    return held.getvalue()


def write_folder(root: Path, numbers: range) -> Path:
    for i in numbers:
        place = root / f"digit_{digits().train.labels[i]}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i:04}.png").write_bytes(png(i))
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hundred digits in folders of their classes."""
    return write_folder(tmp_path_factory.mktemp("images") / "all", range(200))


def labels(images: object) -> list[int]:
    return list(images.labels)  # type: ignore[attr-defined]


def test_a_folder_without_a_split_holds_out_a_share_of_each_class(folder: Path) -> None:
    dataset, again = sources.load(str(folder), 0.25), sources.load(str(folder), 0.25)
    assert dataset.label_names == tuple(f"digit_{i}" for i in range(10))
    counts = [np.bincount(labels(images), minlength=10) for images in (dataset.train, dataset.test)]
    assert sum(counts).tolist() == np.bincount(digits().train.labels[:200]).tolist()  # type: ignore[union-attr]
    assert (np.abs(counts[1] - sum(counts) / 4) <= 1).all()
    names = [{images.name(i) for i in range(len(images))} for images in (dataset.train, dataset.test)]
    assert not names[0] & names[1]
    assert names[1] == {again.test.name(i) for i in range(len(again.test))}


def test_an_image_has_the_label_of_its_folder(folder: Path) -> None:
    dataset = sources.load(str(folder), 0.1)
    for i in (0, 57, len(dataset.train) - 1):
        picture, label = dataset.train.read(i)
        assert f"digit_{label}/" in dataset.train.name(i)
        number = int(Path(dataset.train.name(i)).stem)
        np.testing.assert_array_equal(np.asarray(picture), digits().train.pixels[number, ..., 0])


def test_a_split_of_its_own_is_used_and_classes_agree(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", range(100))
    write_folder(tmp_path / "val", range(100, 109))
    dataset = sources.load(str(tmp_path), 0.5)
    assert (len(dataset.train), len(dataset.test)) == (100, 9)
    for i in range(9):
        assert f"digit_{dataset.test.read(i)[1]}/" in dataset.test.name(i)
    (tmp_path / "val" / "digit_x").mkdir()
    (tmp_path / "val" / "digit_x" / "0.png").write_bytes(png(0))
    with pytest.raises(BadData, match=r"Class digit_x of .* is not in"):
        sources.load(str(tmp_path), 0.5)


def test_a_tar_file_of_class_folders_is_a_dataset(folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        tar.add(folder, ".")
    packed, plain = sources.load(str(tmp_path / "all.tar"), 0.1), sources.load(str(folder), 0.1)
    assert packed.label_names == plain.label_names
    assert len(packed.train) == len(plain.train)
    picture, label = packed.train.read(3)
    assert f"digit_{label}/" in packed.train.name(3)
    assert picture.size == (8, 8)


def test_webdataset_shards_are_a_dataset_without_their_package(tmp_path: Path) -> None:
    for shard in range(2):
        with tarfile.open(tmp_path / f"train-{shard}.tar", "w") as tar:
            for i in range(shard * 50, shard * 50 + 50):
                for kind, content in (("png", png(i)), ("cls", str(digits().train.labels[i]).encode())):
                    member = tarfile.TarInfo(f"{i:05}.{kind}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    dataset = sources.load(str(tmp_path), 0.2)
    assert len(dataset.train) + len(dataset.test) == 100
    for i in (0, 30):
        picture, label = dataset.train.read(i)
        number = int(re.findall(r"(\d+)\.png", dataset.train.name(i))[0])
        assert label == digits().train.labels[number]
        np.testing.assert_array_equal(np.asarray(picture), digits().train.pixels[number, ..., 0])


def test_classes_are_counted_as_a_checkpoint_counts_them_however_they_are_spelt(folder: Path) -> None:
    dataset = sources.load(str(folder), 0.1)
    names = tuple(f"Digit {i}" for i in reversed(range(10)))
    found = sources.renumbered(dataset, names)
    assert found is not None
    assert found.label_names == names
    assert [found.train.read(i)[1] for i in range(30)] == [9 - dataset.train.read(i)[1] for i in range(30)]
    assert sources.renumbered(dataset, ("other", *names[1:])) is None


@pytest.mark.parametrize("kind", ["none", "empty", "one class", "one image", "flat"])
def test_folders_that_cannot_be_learnt_from_are_refused(tmp_path: Path, kind: str) -> None:
    place, message = tmp_path / "data", ""
    if kind == "none":
        message = "There is no folder or .tar file"
    elif kind == "empty":
        (place / "a").mkdir(parents=True)
        message = "There are no images in"
    elif kind == "one class":
        (place / "a").mkdir(parents=True)
        (place / "a" / "1.png").write_bytes(png(1))
        message = r"are of one class \(a\)"
    elif kind == "one image":
        write_folder(place, range(2))
        message = "only one image"
    else:
        place.mkdir()
        (place / "1.png").write_bytes(png(1))
        message = "are of one class"
    with pytest.raises(BadData, match=message):
        sources.load(str(place), 0.1)


def _tar(members: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return content.getvalue()


def _headers(count: int) -> bytes:
    """Headers that all say something of what follows, and nothing does."""
    member = tarfile.TarInfo("x")
    member.type = tarfile.XHDTYPE
    return member.tobuf() * count


_TARS = {
    "a class beyond all": (_tar({"1.png": b"", "1.cls": b"99999999999"}), "class 99999999999 is not from 0"),
    "a class below zero": (_tar({"1.png": b"", "1.cls": b"-1"}), "class -1 is not from 0"),
    "a class of 5,000 digits": (_tar({"1.png": b"", "1.cls": b"1" * 5000}), "is not from 0"),
    "headers of headers": (_headers(3000), "cannot be read"),
    "no tar file": (b"hello" * 200, "cannot be read"),
}


@pytest.mark.parametrize("what", _TARS)
def test_a_tar_file_that_cannot_be_learnt_from_is_refused(tmp_path: Path, what: str) -> None:
    content, told = _TARS[what]
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(BadData, match=told):
        sources.load(str(tmp_path), 0.1)


def test_a_pipe_among_tar_files_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(BadInput, match="it is a named pipe"):
        sources.load(str(tmp_path), 0.1)


def test_a_recipe_for_folders_says_that_it_needs_one() -> None:
    with pytest.raises(BadInput, match="Pass `data`"):
        sources.load("", 0.1)


def on_folder(data: Path, **changes: object) -> TrainConfig:
    return overridden(tiny(), {"dataset": "folder", "data": str(data), "classes": "data", **changes})


def test_damaged_images_are_skipped_counted_and_named(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "images", range(80))
    broken = sorted(data.rglob("*.png"))[::10]
    for path in broken:
        path.write_bytes(path.read_bytes()[:60])
    outcome = run.run(on_folder(data, steps=20, held_out=0.3), tmp_path / "run")
    assert 0 < len(outcome.unreadable) + outcome.unread_tests == len(broken)
    assert {Path(name).name for name in outcome.unreadable} < {path.name for path in broken}
    how = checkpoint.load(outcome.checkpoint).info.training
    assert how["unreadable_images"] == len(outcome.unreadable)


def test_images_that_are_all_damaged_stop_the_run_with_a_message(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "images", range(80))
    for path in data.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(BadData, match="No image can be read"):
        run.run(on_folder(data), tmp_path / "run")


@pytest.mark.usefixtures("two_cores")
def test_a_run_on_a_folder_resumes_bit_for_bit_with_another_number_of_workers(folder: Path, tmp_path: Path) -> None:
    wanted = {"steps": 12, "save_every": 5, "augmentation.crop": [0.5, 1.0], "augmentation.shift": 0}
    run.run(on_folder(folder, **wanted), tmp_path / "whole")

    def stop(progress: run.Progress) -> None:
        if progress.step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.run(on_folder(folder, **wanted), tmp_path / "cut", report=stop)
    run.run(on_folder(folder, **wanted, workers=2), tmp_path / "cut", resume=True)
    states = [record.read_state(tmp_path / name, torch.device("cpu")) for name in ("whole", "cut")]
    assert states[0] is not None
    assert states[1] is not None
    for part in ("model", "ema"):
        assert all(torch.equal(tensor, states[1][part][name]) for name, tensor in states[0][part].items())


def test_the_classes_of_the_data_must_be_those_of_the_recipe(folder: Path, tmp_path: Path) -> None:
    wanted = on_folder(folder, classes="recipe", **{"model.num_classes": 7})
    with pytest.raises(BadInput, match="The data has 10 classes, but the model to train has 7"):
        run.run(wanted, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_finetuning_keeps_the_classifier_for_the_same_classes_and_replaces_it_for_others(tmp_path: Path) -> None:
    from hydra_export.data import FASHION_MNIST_LABELS

    for kind, names in (("same", FASHION_MNIST_LABELS), ("other", tuple("abc"))):
        for number in range(4 * len(names)):
            place = tmp_path / kind / re.sub(r"\W+", "_", names[number % len(names)])
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number}.png").write_bytes(png(number))
    wanted = overridden(finetune(), {"steps": 1, "lr": 1e-9, "lr_min": 0, "kept_weights": "raw", "held_out": 0.25})
    packaged = checkpoint.load().model.state_dict()
    outcome = run.run(overridden(wanted, {"data": str(tmp_path / "same")}), tmp_path / "run-same")
    same = checkpoint.load(outcome.checkpoint)
    assert same.info.labels == FASHION_MNIST_LABELS
    np.testing.assert_allclose(same.model.state_dict()["head.weight"], packaged["head.weight"], atol=1e-6)
    outcome = run.run(overridden(wanted, {"data": str(tmp_path / "other")}), tmp_path / "run-other")
    other = checkpoint.load(outcome.checkpoint)
    assert other.info.labels == ("a", "b", "c")
    assert other.model.state_dict()["head.weight"].shape == (3, 192)
    np.testing.assert_allclose(other.model.state_dict()["norm.weight"], packaged["norm.weight"], atol=1e-6)


def test_a_checkpoint_of_other_classes_is_no_start_unless_the_data_may_replace_them(
    folder: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    info = checkpoint.load(tiny_checkpoint).info
    model = {"model.head_dim": 8, "model.depth": 2, "model.patch_size": 4, "model.image_size": 16, "model.channels": 3}
    data = {"preprocessing.mean": info.preprocessing.mean, "preprocessing.std": info.preprocessing.std}
    wanted = on_folder(folder, **model, **data, start=str(tiny_checkpoint), steps=1)
    with pytest.raises(BadInput, match="tiny has 7 classes, but the data has 10"):
        run.run(overridden(wanted, {"classes": "recipe"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    outcome = run.run(wanted, tmp_path / "run")
    assert checkpoint.load(outcome.checkpoint).info.config.num_classes == 10


def test_finetuning_trains_a_classifier_in_the_place_of_a_projection(folder: Path, tmp_path: Path) -> None:
    model = perturbed(
        HydraConfig(heads=2, head_dim=8, depth=1, patch_size=4, image_size=8, num_classes=0, projection=9)
    )
    info = checkpoint_file.CheckpointInfo(name="clip", config=model.config, preprocessing=imagenet(8))
    checkpoint_file.write(tmp_path / "clip.safetensors", model.state_dict(), info)
    recipe = finetune(str(tmp_path / "clip.safetensors"))
    wanted = overridden(recipe, {"data": str(folder), "steps": 2, "save_every": 1})
    outcome = run.run(wanted, tmp_path / "run")
    config = checkpoint.load(outcome.checkpoint).info.config
    assert (config.num_classes, config.projection) == (10, 0)
    stored = record.stored_config(tmp_path / "run")
    assert run.run(stored, tmp_path / "run", resume=True).checkpoint == outcome.checkpoint


def shard(path: Path, *members: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("number", [b"-1", b"1" + b"0" * 12, b"9" * 5000, b"\xff", b""])
def test_a_class_number_that_no_model_has_is_refused(tmp_path: Path, number: bytes) -> None:
    """A name is kept for each class: of 10 to the 12 there is not the memory."""
    path = shard(tmp_path / "one.tar", ("a.png", png(0)), ("a.cls", number), ("b.png", png(1)), ("b.cls", b"1"))
    with pytest.raises(BadData, match=r"one\.tar cannot be read"):
        sources.load(str(path), 0.5)


def test_pipes_and_devices_among_the_images_are_not_waited_for(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "images", range(20))
    os.mkfifo(data / "digit_1" / "pipe.png")
    (data / "digit_1" / "zeros.png").symlink_to("/dev/zero")
    found, _ = sources.images(data)
    names = [Path(found.name(i)).name for i in range(len(found))]
    for name in ("pipe.png", "zeros.png"):
        with pytest.raises(BadData, match=f"{name} cannot be read: it is a"):
            found.read(names.index(name))
    os.mkfifo(tmp_path / "train-0.tar")
    with pytest.raises(BadInput, match=r"train-0\.tar cannot be read: it is a named pipe"):
        sources.load(str(tmp_path), 0.5)


def test_photographs_of_a_dataset_are_upright_and_of_eight_bits(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (40, 30)).save(tmp_path / name / "turned.png", exif=exif)
        Image.fromarray(np.full((30, 30), 40_000, np.uint16)).save(tmp_path / name / "wide.png")
    found, _ = sources.images(tmp_path)
    by_name = {found.name(i): i for i in range(len(found))}
    assert found.read(by_name["a/turned.png"])[0].size == (30, 40)
    with pytest.raises(BadData, match="more than 8 bits"):
        found.read(by_name["a/wide.png"])
