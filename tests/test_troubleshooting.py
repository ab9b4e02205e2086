"""Every message that docs/troubleshooting.md explains is one that a command prints."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from hydra_export import errors, load_checkpoint, save_checkpoint
from hydra_export.cli import main
from hydra_export.data import packaged_images

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^### `(.+)`$", PAGE, re.MULTILINE)
PRINTED = {
    "Target '...' needs ...": "--target tflite --out x",
    "onnxruntime-web ... is missing": "serve bundle --packages empty",
    "There is no checkpoint at ...": "missing.safetensors --out x",
    "the Hub's ... cannot be fetched": "nobody/nothing --out x",
    "... contains ..., not only tensors; it was not read": "whole.pth --out x",
    "is not a readable safetensors file": "damaged.safetensors --out x",
    "this model has no tensor patch_embed.proj.weight": "cnn.safetensors --out x",
    "timm's ... cannot be loaded": "timm:resnet18 --out x",
    "do not divide into the patches": "--image-size 30 --heads 3 --out x",
    "--heads: ... is out of range": "--heads 13 --out x",
    "Head counts ... were not trained": "mine.safetensors --heads 3 --out x",
    "No target '...'": "--target tfite --out x",
    "Target '...' has no graph kind '...'": "--target coreml --graph shared --heads 3 --out x",
    "Target '...' has no precision '...'": "--target coreml --precision w8a16 --heads 3 --out x",
    "Unknown option: ...": "--heds 3 --out x",
    "exists and is not a bundle": "--heads 3 --out photos",
    "int8 needs images like the model's training images": "unlike.safetensors --precision int8 --out x",
    "... images are too few to judge int8": "--precision int8 --heads 3 --check-images one --out x",
    "Class folder ... is not one of the model's ... classes": "evaluate mine.safetensors --data misnamed",
    "has images both next to and inside its folders": "evaluate mine.safetensors --data mixed",
    "has images without classes": "evaluate mine.safetensors --data one",
    "A class has only one image": "train --recipe finetune --start mine.safetensors --data single --out x2",
    "... images are too few to calibrate on": "calibrate bundle --data photos",
    "Folder ... is not empty": "train --recipe digits --out photos",
    "... is damaged (its SHA-256 differs)": "verify damaged",
    "... is not a bundle: it has no manifest.json": "verify bundle/onnx",
    "The bundle contains no such artifact": "predict bundle photo.png --heads 4",
    "The bundle has no cascade as good as k = ...": "predict bundle photo.png --cascade 6",
    "... was stopped: it took longer than ... s": "verify bundle --limit-seconds 0.001",
    "No device '...'": "profile --device pixl7",
    "'...' could be ...": "profile --device pixel",
    "Nothing is known to fit ... ms on ...": "profile --device pixel7 --budget-ms 1",
    "... is too small: ...": "profile --device esp32",
    "it contains no known results": "profile import photo.png --device pixel7",
}
# Their causes cannot be made here on purpose.
WRITTEN = (
    "hydra-export has a bug",
    "... loses ... points of top-1",
    "... does not compute subnetwork ...",
    "was killed by SIGKILL",
)


@pytest.fixture(scope="module")
def troubles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the commands read."""
    folder = tmp_path_factory.mktemp("troubles")
    packaged = load_checkpoint()
    images = packaged_images(packaged.info.preprocessing, 200)
    labels = [name.replace("/", "-") for name in packaged.info.labels]
    assert images.labels is not None
    for number, (pixels_HWC, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
        into = folder / "photos" / labels[label]
        into.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels_HWC[..., 0]).save(into / f"{number}.png")
    photo = folder / "photo.png"
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(photo)
    shutil.copytree(folder / "photos", folder / "misnamed")
    (folder / "misnamed" / "Shirt").rename(folder / "misnamed" / "Shrit")
    for name in ("one", "mixed", "mixed/Bag", "single/Bag", "single/Coat"):
        (folder / name).mkdir(parents=True)
        shutil.copy(photo, folder / name)
    (folder / "empty").mkdir()

    mine = msgspec.structs.replace(packaged.info, name="mine", trained_heads=(6, 12), export_heads=(6, 12))
    save_checkpoint(folder / "mine.safetensors", packaged.state, mine)
    unlike = msgspec.structs.replace(mine, labels=tuple("abcdefghij"))
    save_checkpoint(folder / "unlike.safetensors", packaged.state, unlike)
    torch.save({"model": torch.nn.Linear(2, 2)}, folder / "whole.pth")
    (folder / "damaged.safetensors").write_bytes(b"\x10" * 300)
    save_file({"conv1.weight": torch.zeros(3, 3)}, folder / "cnn.safetensors")

    assert main(["--heads", "3,6", "--out", str(folder / "bundle")]) == 0
    shutil.copytree(folder / "bundle", folder / "damaged")
    artifact = next((folder / "damaged" / "onnx").glob("*-k3.onnx"))
    content = bytearray(artifact.read_bytes())
    content[5000] ^= 1
    artifact.write_bytes(content)
    return folder


def pattern(heading: str) -> str:
    return ".+".join(re.escape(part) for part in heading.split("..."))


def test_the_page_explains_these() -> None:
    assert sorted(HEADINGS) == sorted([*PRINTED, *WRITTEN])


@pytest.mark.parametrize("heading", PRINTED)
def test_a_command_prints_it(
    heading: str, troubles: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(troubles)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    if heading == "Target '...' needs ...":
        monkeypatch.setitem(sys.modules, "ai_edge_litert", None)  # as where it is not installed
    assert main(shlex.split(PRINTED[heading])) in (1, 2)
    assert re.search(pattern(heading), " ".join(capsys.readouterr().err.split()))


@pytest.mark.parametrize("heading", WRITTEN)
def test_the_source_has_it(heading: str) -> None:
    part = max(heading.split("..."), key=len).strip()
    assert any(part in file.read_text(encoding="utf-8") for file in Path(errors.__file__).parent.rglob("*.py"))
