"""One package per head count."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra_export.target import Artifact, ExportSpec
from hydra_export.targets.coreml import graph, package
from hydra_export.targets.coreml.weights import Weights

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint


def planned(checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec) -> list[Artifact]:
    """``<model>-k3.mlpackage``, ``<model>-k3-fp32.mlpackage`` or ``<model>-k3-int8.mlpackage``, ..."""
    return [package.planned(checkpoint, (k,), spec, f"k{k}") for k in heads]


def write(checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec, out: Path) -> list[Artifact]:
    """Writes what is ``planned`` into *out*, one at a time."""
    package.check_labels(checkpoint, spec)
    info, weights = checkpoint.info, Weights(checkpoint, spec)
    size, artifacts = info.config.image_size, []
    with package.quiet_coremltools() as ct:
        for k, artifact in zip(heads, planned(checkpoint, heads, spec), strict=True):
            text = (
                f"{info.name}, subnetwork of {k} of {info.config.heads} attention heads: a Vision Transformer of width "
                f"{info.config.width(k)} for images of {size} x {size} pixels."
            )
            programs = (("main", graph.build(((0, k),), spec, info.preprocessing, weights)) for _ in range(1))
            artifacts.append(package.write(ct, checkpoint, artifact, out, programs, text))
    return artifacts
