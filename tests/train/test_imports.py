"""Other people's checkpoints: evaluated, and exported to every target that is installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from hydra_export import targets
from hydra_export.architecture import HydraConfig
from hydra_export.checkpoint import load
from hydra_export.commands.evaluate import evaluate
from hydra_export.errors import MissingExtra
from hydra_export.exporting import export, jobs
from tests.conftest import perturbed

IMAGES = 6


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of as many classes as the models have."""
    folder, random = tmp_path_factory.mktemp("labelled"), np.random.default_rng(0)
    for label in range(IMAGES):
        (folder / f"class{label}").mkdir()
        Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"class{label}" / "0.png")
    return folder


def deit_tiny(path: Path) -> tuple[Path, tuple[int, ...]]:
    """A state dict with DeiT-tiny's names and widths; two blocks and small images, to be quick."""
    torch.manual_seed(0)
    model = VisionTransformer(img_size=32, embed_dim=192, num_heads=3, depth=2, num_classes=IMAGES)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    torch.save({"model": model.state_dict()}, path / "deit_tiny.pth")
    return path / "deit_tiny.pth", (3,)


def official(path: Path) -> tuple[Path, tuple[int, ...]]:
    """What the official trainer saves: timm's containers, the moving average beside the weights."""
    config = HydraConfig(heads=4, depth=2, image_size=32, num_classes=IMAGES)
    averaged = {f"module.{name}": tensor for name, tensor in perturbed(config).state_dict().items()}
    plain = {name: torch.zeros_like(tensor) for name, tensor in averaged.items()}
    content = {"epoch": 299, "arch": "hydravit_dyn_patch16_224", "state_dict": plain, "state_dict_ema": averaged}
    torch.save(content, path / "model_best.pth.tar")
    return path / "model_best.pth.tar", (3, 4)


@pytest.mark.parametrize("make", [deit_tiny, official])
def test_it_is_evaluated(make: object, labelled: Path, tmp_path: Path) -> None:
    path, heads = make(tmp_path)  # type: ignore[operator]
    found = evaluate(checkpoint=path, data=str(labelled), heads=",".join(map(str, heads))).document
    assert [row["heads"] for row in found["subnetworks"]] == list(heads)
    assert found["num_images"] == IMAGES
    assert {row["top5"] for row in found["subnetworks"]} <= {round(100 * i / IMAGES, 2) for i in range(IMAGES + 1)}


@pytest.mark.slow
@pytest.mark.parametrize("target", targets.names())
@pytest.mark.parametrize("make", [deit_tiny, official])
def test_it_is_exported_and_proven(make: object, target: str, tmp_path: Path) -> None:
    path, heads = make(tmp_path)  # type: ignore[operator]
    try:
        manifest = export(load(path), tmp_path / "bundle", jobs([target]), heads=heads)
    except MissingExtra as missing:
        pytest.skip(missing.message)
    assert [list(entry.heads) for entry in manifest.artifacts] == [[k] for k in heads]
    for record in (record for entry in manifest.artifacts for record in entry.parity.values()):
        assert record.bound is not None
        assert record.max_abs_error <= record.bound
