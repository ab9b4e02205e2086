"""Small models and checkpoints that every test may use; torch is imported only by the tests that ask for one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from PIL import Image

    from hydra_export.architecture import HydraConfig
    from hydra_export.bundle import Manifest
    from hydra_export.model import HydraViT

# Seconds within which anything ends that a test waits for, on a busy machine too; reached by failing tests alone.
SOON = 600.0

# A shell ignores it in what it starts in the background, and the processes of tests that are to be interrupted would.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Before torch and onnxruntime are loaded: several test processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow ones first: at the end one process would run a long one while the others have nothing left to do."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def perturbed(config: HydraConfig, seed: int = 0) -> HydraViT:
    """A model whose every parameter matters: fresh ViTs have zero biases and classifiers, which hide errors."""
    import torch

    from hydra_export.model import HydraViT

    torch.manual_seed(seed)
    model = HydraViT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def available_targets() -> list[str]:
    """The targets whose packages are installed."""
    from hydra_export import targets
    from hydra_export.errors import BadInput

    found = []
    for name in targets.names():
        with contextlib.suppress(BadInput):
            targets.get(name).requires()
            found.append(name)
    return found


def snapshot(folder: Path) -> dict[str, tuple[int, str]]:
    """Mode and content of everything below *folder*."""
    return {
        path.relative_to(folder).as_posix(): (
            stat.S_IMODE(path.lstat().st_mode),
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder",
        )
        for path in sorted(folder.rglob("*"))
    }


def children(parent: int, words: str) -> list[int]:
    """Processes that *parent* started, whose command holds *words*."""
    listed = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    ).stdout
    found = [line.split(None, 2) for line in listed.splitlines()]
    return [int(pid) for pid, of, command in found if int(of) == parent and words in command]


@pytest.fixture
def tiny_config() -> HydraConfig:
    from hydra_export.architecture import HydraConfig

    return HydraConfig(heads=4, head_dim=8, depth=2, patch_size=4, image_size=16, num_classes=7)


@pytest.fixture
def tiny_model(tiny_config: HydraConfig) -> HydraViT:
    return perturbed(tiny_config)


@pytest.fixture
def scaled_config() -> HydraConfig:
    """With LayerScale, grey images and a classifier of their own for heads 2 and 4."""
    from hydra_export.architecture import HydraConfig

    return HydraConfig(
        heads=4,
        head_dim=8,
        depth=2,
        patch_size=4,
        image_size=16,
        channels=1,
        num_classes=7,
        mlp_ratio=3.0,
        layer_scale=0.5,
        separate_classifiers=(2, 4),
    )


@pytest.fixture
def scaled_model(scaled_config: HydraConfig) -> HydraViT:
    return perturbed(scaled_config)


@pytest.fixture
def tiny_checkpoint(tmp_path: Path, tiny_config: HydraConfig, tiny_model: HydraViT) -> Path:
    """Trained at heads 1, 2 and 4; exports 2 and 4; with preprocessing, labels and accuracies."""
    from hydra_export import checkpoint_file
    from hydra_export.preprocess import Preprocessing

    info = checkpoint_file.CheckpointInfo(
        name="tiny",
        config=tiny_config,
        preprocessing=Preprocessing(image_size=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), crop=1.0),
        trained_heads=(1, 2, 4),
        export_heads=(2, 4),
        labels=("ant", "bee", "cat", "dog", "eel", "fox", "gnu"),
        accuracy={1: 50.0, 2: 60.5, 4: 70.25},
        accuracy_data="a made-up set",
        license="CC0-1.0",
        training={"seed": 0},
    )
    path = tmp_path / "tiny.safetensors"
    checkpoint_file.write(path, tiny_model.state_dict(), info)
    return path


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bundle with separate and shared graphs of heads 2 and 4: written once, never changed."""
    from hydra_export import checkpoint, checkpoint_file
    from hydra_export.architecture import HydraConfig
    from hydra_export.exporting import export, jobs
    from hydra_export.preprocess import Preprocessing

    config = HydraConfig(heads=4, head_dim=8, depth=2, patch_size=4, image_size=16, num_classes=7)
    data = Preprocessing(image_size=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), crop=1.0)
    info = checkpoint_file.CheckpointInfo(name="tiny", config=config, preprocessing=data, export_heads=(2, 4))
    place = tmp_path_factory.mktemp("exported")
    checkpoint_file.write(place / "tiny.safetensors", perturbed(config).state_dict(), info)
    export(checkpoint.load(place / "tiny.safetensors"), place / "bundle", jobs(graphs=["separate", "shared"]))
    before = snapshot(place / "bundle")
    yield place / "bundle"
    assert snapshot(place / "bundle") == before


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A copy of that bundle, to change."""
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def best_labels(folder: Path, manifest: Manifest, photo: Image.Image) -> str:
    """The three best labels with 4 heads and their shares, by PyTorch, as the programs of the bundle write them."""
    from hydra_export import checkpoint

    loaded = checkpoint.load(folder.parent / "tiny.safetensors")
    return shares_of(loaded.model, manifest, photo, 4)


def shares_of(model: HydraViT, manifest: Manifest, photo: Image.Image, heads: int) -> str:
    """The three best labels and their shares, by PyTorch."""
    import torch

    preprocessing = manifest.model.preprocessing
    with torch.inference_mode():
        logits = model(torch.from_numpy(preprocessing.normalise(preprocessing.fit(photo)[None])), heads)
    shares = logits.softmax(1)[0].numpy()
    names = manifest.model.labels or [f"class {i}" for i in range(len(shares))]
    return ", ".join(f"{names[i]} {shares[i]:.1%}" for i in shares.argsort()[::-1][:3])
