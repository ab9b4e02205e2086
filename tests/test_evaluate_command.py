"""The command ``evaluate``: accuracy, cost, plot, ImageNet's folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import ImageNetInfo  # type: ignore[attr-defined]

from hydra_export import checkpoint, checkpoint_file
from hydra_export.architecture import HydraConfig
from hydra_export.checkpoint_file import CheckpointInfo
from hydra_export.commands.evaluate import evaluate
from hydra_export.data.datasets import Split
from hydra_export.errors import BadInput
from hydra_export.evaluation.accuracy import accuracy
from hydra_export.preprocess import Preprocessing
from tests.conftest import perturbed

SYNSETS: list[str] = ImageNetInfo().label_names()
MODEL = HydraConfig(heads=2, head_dim=8, depth=1, patch_size=8, image_size=16, num_classes=1000)
DATA = Preprocessing(image_size=16, mean=(0.5, 0.5, 0.5), std=(0.3, 0.3, 0.3), crop=1.0)


@pytest.fixture
def imagenet_model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    info = CheckpointInfo(name="thousand", config=MODEL, preprocessing=DATA)
    checkpoint_file.write(path, perturbed(MODEL).state_dict(), info)
    return path


def write_folder(root: Path, names: list[str], each: int = 2) -> Path:
    random = np.random.default_rng(0)
    for name in names:
        (root / name).mkdir(parents=True)
        for i in range(each):
            Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(root / name / f"{i}.png")
    return root


def expected(path: Path, folder: Path, classes: dict[str, int], allowed: list[int], top: int) -> float:
    """Counted one image at a time."""
    model, right, count = checkpoint.load(path).model, 0, 0
    for name, label in classes.items():
        for file in (folder / name).iterdir():
            with torch.no_grad():
                logits = model(torch.from_numpy(DATA.normalise(DATA.fit(Image.open(file))[None])), 2)[0]
            ranked = sorted(allowed, key=lambda c: -logits[c].item())
            right, count = right + (label in ranked[:top]), count + 1
    return round(100 * right / count, 2)


def test_progress_tells_the_images_and_the_accuracy_so_far(imagenet_model: Path) -> None:
    seen: list[tuple[int, Mapping[int, float]]] = []
    model, pixels = checkpoint.load(imagenet_model).model, np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3))
    with torch.no_grad():
        image = torch.from_numpy(DATA.normalise(pixels.astype(np.uint8)))
        labels = model(image, 1).argmax(1).numpy()  # all correct at k = 1
    images = Split(pixels.astype(np.uint8), labels)
    found = accuracy(model, DATA, images, (1, 2), batch_size=4, progress=lambda *so_far: seen.append(so_far))
    assert [num_images for num_images, _ in seen] == [4, 6]
    assert all(top1[1] == 100 for _, top1 in seen)
    assert seen[-1][1] == pytest.approx({k: each.top1 for k, each in found.items()}, abs=0.01)


def test_folders_named_by_synset_are_counted_over_their_own_classes(imagenet_model: Path, tmp_path: Path) -> None:
    names = [SYNSETS[i] for i in (999, 3, 500, 41, 7, 8, 700, 20)]
    folder = write_folder(tmp_path / "imagenet-r", names)
    found = evaluate(checkpoint=imagenet_model, data=str(folder), heads="2").document
    allowed = [SYNSETS.index(name) for name in names]
    row = found["subnetworks"][0]
    classes = dict(zip(names, allowed, strict=True))
    assert row["top1"] == expected(imagenet_model, folder, classes, allowed, 1)
    assert row["top5"] == expected(imagenet_model, folder, classes, allowed, 5) > 0
    assert found["data"] == "16 images of the folder imagenet-r, 8 classes by synset"


def test_folders_numbered_as_in_imagenet_v2_are_classes_by_number(imagenet_model: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "v2", [str(i) for i in range(1000)], each=1)
    found = evaluate(checkpoint=imagenet_model, data=str(folder), heads="2").document
    model = checkpoint.load(imagenet_model).model
    files = [folder / str(i) / "0.png" for i in range(1000)]
    images = np.stack([DATA.fit(Image.open(file)) for file in files])
    with torch.no_grad():
        right = model(torch.from_numpy(DATA.normalise(images)), 2).topk(5).indices == torch.arange(1000)[:, None]
    assert found["subnetworks"][0]["top5"] == pytest.approx(100 * right.float().sum().item() / 1000, abs=0.01)


@pytest.mark.parametrize("names", [["cat", "dog", "zebra"], [f"album {i}" for i in range(10)]])
def test_folders_of_other_classes_are_refused(tmp_path: Path, names: list[str]) -> None:
    folder = write_folder(tmp_path / "photos", names)
    with pytest.raises(BadInput, match=r"photos cannot judge .*are not the model's 10 classes") as caught:
        evaluate(data=str(folder), heads="3")
    assert "named as the model names it" in caught.value.remedy


def test_synsets_are_no_classes_of_a_model_that_names_a_thousand_others(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    labels = tuple(f"part {number}" for number in range(1000))
    info = CheckpointInfo(name="thousand", config=MODEL, preprocessing=DATA, labels=labels)
    checkpoint_file.write(path, perturbed(MODEL).state_dict(), info)
    with pytest.raises(BadInput, match="are not the model's 1000 classes"):
        evaluate(checkpoint=path, data=str(write_folder(tmp_path / "some", SYNSETS[:3])), heads="2")


def test_accuracy_by_chance_is_said_to_be_that(imagenet_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(imagenet_model.parent / "some", SYNSETS[:3], each=10)
    found = evaluate(checkpoint=imagenet_model, data=str(folder), heads="1,2").document
    assert (found["chance"], found["at_chance"]) == (33.33, [1, 2])
    said = " ".join(capsys.readouterr().err.split())
    assert "Top-1 at k = 1, 2 is not clearly above chance (always the same answer would be correct on 33.3%)" in said
    assert evaluate(heads="3").document["at_chance"] == []


def test_an_unreadable_image_is_left_out_and_counted(imagenet_model: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "some", SYNSETS[:3])
    (folder / SYNSETS[0] / "0.png").write_bytes(b"no image")
    found = evaluate(checkpoint=imagenet_model, data=str(folder), heads="2").document
    assert (found["num_images"], found["unreadable_images"]) == (5, 1)


@pytest.mark.slow
def test_costs_are_measured_and_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="extra plot")
    found = evaluate(heads="1,12", batch_size=4, plot=tmp_path / "tradeoff.png").document
    one, twelve = found["subnetworks"]
    assert one["images_per_second"] > twelve["images_per_second"] > 0
    assert one["load_ms"] > 0
    assert (one["batch_size"], one["threads"]) == (4, 1)
    if one["peak_mib"] is not None:
        assert twelve["peak_mib"] > 2_684_554 * 4 / 2**20  # its weights at least
    with Image.open(tmp_path / "tradeoff.png") as picture:
        assert picture.size[0] > 500


def test_without_a_wish_nothing_is_measured() -> None:
    row = evaluate(heads="3").document["subnetworks"][0]
    assert set(row) == {"heads", "trained", "top1", "top5", "params", "macs"}
    assert row["top5"] >= row["top1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "`batch_size` is 0"),
        ({"threads": -1}, "`threads` is -1"),
        ({"plot": Path("x.jpeg2")}, "not a known kind of picture"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        evaluate(**options)  # type: ignore[arg-type]


def test_subnetworks_with_classifiers_of_their_own_are_measured(tmp_path: Path) -> None:
    from hydra_export.evaluation.cost import measure

    own = msgspec.structs.replace(MODEL, separate_classifiers=(1, 2))
    checkpoint_file.write(
        tmp_path / "own.safetensors",
        perturbed(own).state_dict(),
        CheckpointInfo(name="own", config=own, preprocessing=DATA),
    )
    assert measure(checkpoint.load(tmp_path / "own.safetensors"), 1, batch_size=2).images_per_second > 0


def test_an_image_that_cannot_be_decoded_is_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [name.replace("/", "_") for name in checkpoint.load().info.labels]
    folder = write_folder(tmp_path / "own", names)
    whole = evaluate(data=str(folder), heads="3").document
    (folder / names[0] / "broken.png").write_bytes(b"no image")
    found = evaluate(data=str(folder), heads="3").document
    assert (found["num_images"], found["unreadable_images"]) == (whole["num_images"], 1)
    assert found["subnetworks"] == whole["subnetworks"]
    assert "broken.png" in capsys.readouterr().err
