"""Datasets, recipes, configurations and sampling."""

from __future__ import annotations

import gzip
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from hydra_export.data import datasets
from hydra_export.errors import BadData, BadInput, UnknownName
from hydra_export.model import HydraViT
from hydra_export.train import recipes
from hydra_export.train.config import Augmentation, TrainConfig


def write_idx(path: Path, array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], packed: bool = True) -> None:
    sizes = np.asarray(array.shape, ">u4").tobytes()
    content = bytes((0, 0, 8, array.ndim)) + sizes + array.tobytes()
    path.write_bytes(gzip.compress(content) if packed else content)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small Fashion-MNIST, half of it unpacked."""
    random = np.random.default_rng(0)
    for part, count in (("train", 30), ("t10k", 12)):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", random.integers(0, 256, (count, 28, 28), np.uint8))
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte", random.integers(0, 10, count, np.uint8), packed=False)
    return tmp_path


def test_idx_files_are_read_packed_and_unpacked(folder: Path) -> None:
    dataset = datasets.load("fashion-mnist", folder)
    assert dataset.train.pixels.shape == (30, 28, 28, 1)
    assert dataset.test.labels.shape == (12,)
    assert dataset.label_names[9] == "Ankle boot"


def test_a_missing_dataset_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"`data`.*apt-get install dataset-fashion-mnist"):
        datasets.load("fashion-mnist", tmp_path)


def test_a_download_that_fails_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    def offline(*arguments: object, **options: object) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr(datasets, "DEBIAN_FOLDER", tmp_path / "none")
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", offline)
    with pytest.raises(BadData, match=r"cannot be downloaded.*`data`"):
        datasets.load("fashion-mnist")


def test_files_that_are_cut_off_or_do_not_match_are_refused(folder: Path) -> None:
    images, labels = folder / "train-images-idx3-ubyte.gz", folder / "t10k-labels-idx1-ubyte"
    whole = images.read_bytes()
    images.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadData, match="cannot be read"):
        datasets.load("fashion-mnist", folder)
    images.write_bytes(gzip.compress(gzip.decompress(whole)[:-1]))
    with pytest.raises(BadData, match="truncated"):
        datasets.load("fashion-mnist", folder)
    images.write_bytes(whole)
    write_idx(labels, np.zeros(11, np.uint8), packed=False)
    with pytest.raises(BadData, match="do not belong together"):
        datasets.load("fashion-mnist", folder)


def test_a_packed_file_is_unpacked_no_further_than_it_says(folder: Path) -> None:
    import tracemalloc

    images = folder / "train-images-idx3-ubyte.gz"
    head = gzip.decompress(images.read_bytes())[:16]
    images.write_bytes(gzip.compress(head + bytes(2**28), 1))
    for content in (images.read_bytes(), gzip.compress(head[:4] + b"\xff" * 12 + bytes(2**28), 1)):
        images.write_bytes(content)
        tracemalloc.start()
        with pytest.raises(BadData, match="truncated"):
            datasets.load("fashion-mnist", folder)
        assert tracemalloc.get_traced_memory()[1] < 2**28
        tracemalloc.stop()


def test_digits_come_from_no_folder(tmp_path: Path) -> None:
    assert datasets.load("digits").train.pixels.max() == 255
    with pytest.raises(BadData, match="Leave out `data`"):
        datasets.load("digits", tmp_path)


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    dataset, theirs = datasets.load("digits"), load_digits()
    assert (len(dataset.train), len(dataset.test)) == (1437, 360)
    pixels = np.concatenate([dataset.train.pixels, dataset.test.pixels])[..., 0]
    assert np.array_equal(pixels, np.round(theirs.images * (255 / 16)))
    assert np.array_equal(np.concatenate([dataset.train.labels, dataset.test.labels]), theirs.target)


@pytest.mark.parametrize("name", recipes.names())
def test_recipes_are_whole_and_survive_json(name: str, tiny_model: HydraViT, tmp_path: Path) -> None:
    torch.save(tiny_model.state_dict(), tmp_path / "dense.pth")
    start, head_dim = (str(tmp_path / "dense.pth"), 8) if name == "elastic" else ("", None)
    config = recipes.get(name, start, head_dim)
    assert config.recipe == name
    assert config.dataset in (*datasets.names(), "folder")
    assert msgspec.json.decode(msgspec.json.encode(config), type=TrainConfig) == config


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'fashion-mnist'"):
        recipes.get("fashion-mnst")
    with pytest.raises(UnknownName, match="dataset 'digit'"):
        datasets.load("digit")


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"batch_size": -1},
        {"trained_heads": ()},
        {"trained_heads": (0,)},
        {"trained_heads": (7,)},
        {"seed": -1},
        {"ema_decay": 1.5},
    ],
)
def test_impossible_configurations_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        msgspec.structs.replace(recipes.digits(), **change)


def test_impossible_augmentations_are_refused() -> None:
    for change in ({"flip": 1.5}, {"shift": -1}, {"erase_area": (0.3, 0.2)}):
        with pytest.raises(BadInput):
            msgspec.structs.replace(Augmentation(), **change)
