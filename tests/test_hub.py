"""huggingface_hub's methods of a model, from and to a local folder: one format, nothing fetched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from hydra_export import HydraViT, checkpoint
from hydra_export.architecture import HydraConfig
from hydra_export.errors import BadCheckpoint, BadInput
from tests.conftest import perturbed

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_a_saved_model_comes_back_with_all_that_is_known_of_it(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = checkpoint.load(tiny_checkpoint).model
    model.save_pretrained(tmp_path / "hub")
    back = HydraViT.from_pretrained(tmp_path / "hub")
    assert back.info is not None
    assert back.info == model.info
    assert back.info is not None
    assert back.info.labels[0] == "ant"
    assert not back.training
    for k in (1, 4):
        assert torch.equal(back(IMAGES, k), model(IMAGES, k))


def test_the_folder_is_a_checkpoint_like_any_other(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint.load(tiny_checkpoint).model.save_pretrained(tmp_path / "hub")
    assert checkpoint.load(tmp_path / "hub").info == checkpoint.load(tiny_checkpoint).info
    assert {path.name for path in (tmp_path / "hub").iterdir()} == {"README.md", "config.json", "model.safetensors"}


def test_a_new_model_says_what_its_shapes_say(tiny_config: HydraConfig, tiny_model: HydraViT, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path / "mine")
    info = HydraViT.from_pretrained(str(tmp_path / "mine")).info
    assert info is not None
    assert (info.name, info.config, info.trained_heads) == ("mine", tiny_config, ())


def test_a_grey_model_must_say_how_its_images_are_normalised(scaled_config: HydraConfig, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not state how its images are normalised"):
        perturbed(scaled_config).save_pretrained(tmp_path)


def test_a_plain_vit_needs_its_head_width(tiny_model: HydraViT, tmp_path: Path) -> None:
    import safetensors.torch

    safetensors.torch.save_file(tiny_model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    back = HydraViT.from_pretrained(tmp_path, head_dim=8)
    assert torch.equal(back(IMAGES, 3), tiny_model(IMAGES, 3))
    with pytest.raises(BadCheckpoint, match="`head_dim`"):
        HydraViT.from_pretrained(tmp_path)


def test_a_name_that_is_not_cached_is_not_fetched_offline(tmp_path: Path) -> None:
    with pytest.raises((HfHubHTTPError, LocalEntryNotFoundError)):
        HydraViT.from_pretrained("someone/hydravit", cache_dir=tmp_path, local_files_only=True)
