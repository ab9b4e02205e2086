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


def write(checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec, out: Path) -> list[Artifact]:
    """Writes ``<model>-k3.mlpackage``, ``<model>-k3-fp32.mlpackage`` or ``<model>-k3-int8.mlpackage``, ... into *out*.

    One at a time.
    """
    package.check_labels(checkpoint, spec)
    info, weights = checkpoint.info, Weights(checkpoint, spec)
    size, artifacts = info.config.image_size, []
    with package.quiet_coremltools() as ct:
        for k in heads:
            text = (
                f"{info.name}, subnetwork of {k} of {info.config.heads} attention heads: a Vision Transformer of width "
                f"{info.config.width(k)} for images of {size} x {size} pixels."
            )
            programs = (("main", graph.build(((0, k),), spec, info.preprocessing, weights)) for _ in range(1))
            artifacts.append(package.write(ct, checkpoint, (k,), spec, out, f"k{k}", programs, text))
    return artifacts
