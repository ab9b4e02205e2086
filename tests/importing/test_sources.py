"""Where checkpoints lie: folders, shards, the caches of the Hub and of timm, and what must not be read."""

from __future__ import annotations

import json
import os
import resource
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import safetensors.torch
import timm
import torch

from hydra_export import HydraViT, checkpoint
from hydra_export.errors import BadCheckpoint
from hydra_export.importing import tensors
from hydra_export.train import initial, recipes
from tests.importing.cases import bare, hub, perturbed, timm_config, vit

LABELS = ["ant", "bee", "cat", "dog", "eel"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def cached(cache: Path, repo: str) -> Path:
    """The folder of *repo* in the cache, as huggingface_hub leaves it there."""
    place = cache / f"models--{repo.replace('/', '--')}"
    snapshot = place / "snapshots" / ("0" * 39 + "1")
    snapshot.mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(snapshot.name)
    return snapshot


def refused(place: Path | str, says: str, **options: Any) -> None:
    with pytest.raises(BadCheckpoint) as caught:
        checkpoint.load(place, **options)
    assert says in caught.value.message
    assert caught.value.remedy


def test_a_hub_id_is_read_from_the_cache_with_its_metadata(cache: Path) -> None:
    module = vit(num_heads=6)
    hub(module, timm_config({"num_heads": 6}, label_names=LABELS))(cached(cache, "somebody/tiny_vit.mine"))
    loaded = checkpoint.load("somebody/tiny_vit.mine")
    assert (loaded.info.name, loaded.info.config.heads, loaded.info.config.head_dim) == ("tiny_vit.mine", 6, 32)
    assert loaded.info.labels == tuple(LABELS)
    assert loaded.info.preprocessing.mean == (0.5, 0.5, 0.5)
    assert (loaded.info.preprocessing.interpolation, loaded.info.preprocessing.crop) == ("bilinear", 0.95)
    assert loaded.info.assumed == loaded.notes == ()
    assert HydraViT.from_pretrained("somebody/tiny_vit.mine").info == loaded.info


def test_shards_are_read_from_the_cache(cache: Path) -> None:
    module = vit(num_heads=6)
    write = hub(module, timm_config({"num_heads": 6}), weights="model.safetensors.index.json")
    write(cached(cache, "somebody/large"))
    image = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(checkpoint.load("somebody/large").model(image), module(image))


def test_a_local_path_comes_before_the_hub(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("somebody/tiny").mkdir(parents=True)
    hub(vit(num_heads=6), timm_config({"num_heads": 6}))(Path("somebody/tiny"))
    assert checkpoint.load("somebody/tiny").path == Path("somebody/tiny/model.safetensors")


def test_a_hub_id_without_a_network_is_refused_with_a_remedy(cache: Path) -> None:
    refused("somebody/nothing", "cannot be fetched")


@pytest.mark.parametrize("place", ["somebody/nothing", "timm:vit_tiny_patch16_224"])
def test_a_hub_that_cannot_be_reached_is_not_waited_for(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    """huggingface_hub tries five times for each file, and says so each time."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"waits for {seconds} s"))
    refused(place, "cannot be reached, and its cache on this machine does not have it")
    assert not caplog.records
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_a_path_that_looks_like_no_hub_id_is_missing() -> None:
    refused("runs/model.safetensors", "There is no checkpoint at runs/model.safetensors")


def test_timms_models_come_from_the_cache_for_export_and_for_training(cache: Path) -> None:
    torch.manual_seed(0)
    module = perturbed(timm.create_model("test_vit.r160_in1k"))
    safetensors.torch.save_file(module.state_dict(), cached(cache, "timm/test_vit.r160_in1k") / "model.safetensors")
    loaded = checkpoint.load("timm:test_vit.r160_in1k")
    image = torch.randn(1, 3, 160, 160)
    torch.testing.assert_close(loaded.model(image), module(image))
    assert (loaded.info.name, loaded.info.config.head_dim) == ("test_vit.r160_in1k", 32)
    assert loaded.info.preprocessing.crop == 0.95  # timm's own for these weights
    assert loaded.info.assumed == ()
    assert len(loaded.sha256) == 64
    config = recipes.finetune("timm:test_vit.r160_in1k")
    start = initial.source(config)
    assert start is not None
    assert start.sha256 == loaded.sha256
    assert config.model == loaded.info.config


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vit_tiny_patch16_224.augreg_in21k", "cannot be loaded"),  # not cached, no network
        ("vit_tiny_patch16_224.nothing", "cannot be loaded"),
        ("resnet18", "is not a Vision Transformer"),
        ("swin_tiny_patch4_window7_224", "has several stages"),
        ("vit_relpos_base_patch16_224", "has relative positions"),
        ("vit_base_r50_s16_224", "has a convolutional stem"),
        ("nothing", "timm has no model of that name"),
    ],
)
def test_what_timm_cannot_give_is_refused(cache: Path, name: str, says: str) -> None:
    refused(f"timm:{name}", says)


def test_weights_in_a_folder_are_read_with_what_lies_beside_them(tmp_path: Path) -> None:
    hub(vit(num_heads=6), timm_config({"num_heads": 6}))(tmp_path)
    assert checkpoint.load(tmp_path / "model.safetensors").info.config.heads == 6


def test_what_the_user_says_must_agree_with_the_checkpoint(tmp_path: Path, tiny_checkpoint: Path) -> None:
    refused(tiny_checkpoint, "heads are 8 wide, not 64", head_dim=64)
    refused(tiny_checkpoint, "do not divide into the patches", image_size=63)
    folder = tmp_path / "hub"
    folder.mkdir()
    hub(vit(num_heads=6), timm_config({"num_heads": 6}))(folder)
    refused(folder, "specifies the architecture vit_tiny_patch16_224, not test_vit", architecture="test_vit")
    refused(folder, "heads are 32 wide, not 64", head_dim=64)


def test_an_unknown_architecture_is_refused_with_the_nearest(tmp_path: Path) -> None:
    written = bare(vit())(tmp_path)
    with pytest.raises(BadCheckpoint, match="Did you mean 'vit_tiny_patch16_224'"):
        checkpoint.load(written.place, architecture="vit_tiny_patch16_242")


@pytest.mark.parametrize("value", [10**9, [1, 2, 3, 4] * 9, {"a": 1}, -1e9])
def test_a_configuration_cannot_ask_timm_for_anything(tmp_path: Path, value: Any) -> None:
    config = timm_config()
    config["config.json"]["model_args"]["depth"] = value
    hub(vit(), config)(tmp_path)
    refused(tmp_path, "depth")


@pytest.mark.parametrize("names", [["../model.safetensors"], ["/etc/passwd"], [7], []])
def test_shards_lie_beside_their_index(tmp_path: Path, names: list[Any]) -> None:
    weight_map = {f"tensor{number}": name for number, name in enumerate(names)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    refused(tmp_path, "lists no shards")


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000])
def test_a_config_that_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    hub(vit(), {})(tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    refused(tmp_path, "is not valid")


# --- what must not be read


def test_pipes_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    refused(tmp_path / "pipe.pth", "not a file")
    (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
    refused(tmp_path / "zero.safetensors", "not a file")


def test_a_sparse_monster_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "monster.safetensors").open("wb") as file:
        file.truncate(tensors.LARGEST_BYTES + 1)
    refused(tmp_path / "monster.safetensors", "allowed: at most")


def _expanded() -> dict[str, Any]:
    return vit().state_dict() | {"norm.weight": torch.ones(1).expand(2**29)}


def _viewed() -> dict[str, Any]:
    storage = torch.ones(2**18)
    return {f"view{number}": storage[number:] for number in range(64)}


def _bytes() -> dict[str, Any]:
    return {"state_dict": vit().state_dict(), "padding": bytearray(4)}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_expanded, "more numbers than the file contains"),
        (_viewed, "more numbers than the file"),
        (_bytes, "bytearray"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_claims_more_than_it_is_is_refused(tmp_path: Path, make: Any, says: str, zipped: bool) -> None:
    path = tmp_path / "claims.pth"
    torch.save(make(), path, _use_new_zipfile_serialization=zipped)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path, says)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 64 * 2**20 + 4 * path.stat().st_size


def test_an_archive_that_unpacks_to_more_is_refused(tmp_path: Path) -> None:
    torch.save(vit().state_dict(), tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    refused(tmp_path / "packed.pth", "compressed")


def test_a_header_beyond_all_measure_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "header.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 64 * 2**20))
        file.truncate(65 * 2**20)
    refused(tmp_path / "header.safetensors", "header is too long")
