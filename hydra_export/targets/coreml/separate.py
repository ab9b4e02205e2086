"""One package per head count."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra_export.target import Artifact, ExportSpec
from hydra_export.targets.coreml import package

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint


def planned(checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec) -> list[Artifact]:
    """``<model>-k3.mlpackage``, ``<model>-k3-fp32.mlpackage`` or ``<model>-k3-int8.mlpackage``, ..."""
    return [package.planned(checkpoint, (k,), spec, f"k{k}") for k in heads]


def write(checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec, out: Path) -> list[Artifact]:
    """Writes what is ``planned`` into *out*, one at a time."""
    package.check_labels(checkpoint, spec)
    return [
        package.write(checkpoint, artifact, out, [(package.ALONE, [(0, k)])], _description(checkpoint, k))
        for k, artifact in zip(heads, planned(checkpoint, heads, spec), strict=True)
    ]


def _description(checkpoint: Checkpoint, heads: int) -> str:
    info, (height, width) = checkpoint.info, checkpoint.info.config.image_shape
    return (
        f"{info.name}, subnetwork of {heads} of {info.config.heads} attention heads: a Vision Transformer of width "
        f"{info.config.width(heads)} for images of {height} x {width} pixels."
    )
