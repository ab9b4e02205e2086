"""Tiny checkpoints, and what is exported from one: written once a process."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from hydra_export.checkpoint_file import CheckpointInfo
    from hydra_export.target import ExportSpec


@functools.cache
def folder() -> Path:
    """A temporary folder of this process."""
    place = Path(tempfile.mkdtemp(prefix="hydra-export-fuzz-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place


def tiny_info() -> CheckpointInfo:
    """Two heads, one block."""
    from hydra_export.architecture import HydraConfig
    from hydra_export.checkpoint_file import CheckpointInfo
    from hydra_export.preprocess import imagenet

    config = HydraConfig(heads=2, head_dim=4, depth=1, patch_size=8, image_size=16, num_classes=3, mlp_ratio=2.0)
    return CheckpointInfo(
        name="tiny",
        config=config,
        preprocessing=imagenet(16),
        trained_heads=(1, 2),
        labels=("ant", "bee", "cat"),
        accuracy={1: 50.0, 2: 60.5},
        accuracy_data="a made-up set",
        license="CC0-1.0",
        training={"seed": 0, "recipe": "tiny"},
    )


@functools.cache
def checkpoint() -> Path:
    """A checkpoint of ours."""
    from hydra_export import checkpoint_file
    from tests.conftest import perturbed

    path = folder() / "tiny.safetensors"
    info = tiny_info()
    checkpoint_file.write(path, perturbed(info.config).state_dict(), info)
    return path


@functools.cache
def bundle() -> Path:
    """A bundle of ONNX files: separate and shared, of fp32 and fp16."""
    from hydra_export import checkpoint as checkpoints
    from hydra_export.exporting import export, jobs

    listed = [*jobs(["onnx"], ["separate", "shared"]), *jobs(["onnx"], ["separate"], ["fp16"])]
    export(checkpoints.load(checkpoint()), folder() / "bundle", listed)
    return folder() / "bundle"


def artifact(target: str, heads: tuple[int, ...], spec: ExportSpec) -> Path:
    """A file of *target*."""
    from hydra_export import checkpoint as checkpoints
    from hydra_export import targets

    out = Path(tempfile.mkdtemp(dir=folder()))
    (written,) = targets.get(target).write(checkpoints.load(checkpoint()), heads, spec, out)
    return out / written.path


def plain() -> dict[str, Tensor]:
    """The state dict of a plain ViT as small as they come, one head of four."""
    from hydra_export.architecture import HydraConfig
    from tests.conftest import perturbed

    config = HydraConfig(heads=1, head_dim=4, depth=1, patch_size=2, image_size=4, num_classes=2, mlp_ratio=1.0)
    return dict(perturbed(config).state_dict())
