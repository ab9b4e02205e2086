"""Small graphs over common weight files.

By default there is one file per listed head count, its *shell*: what that head count adds to the one before. With head
counts 3, 6, 12 a device that runs k = 3 fetches the first shell, and for an upgrade to k = 6 the second as well. With
one file for all, graphs take parts of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra_export.target import Artifact, ExportSpec
from hydra_export.targets.onnx import file, fixed, shells
from hydra_export.targets.onnx.weights import normalised, stored

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint


def write(checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec, opset: int, out: Path) -> list[Artifact]:
    """Writes ``<model>-shared-k3.onnx`` and ``<model>-shared-k3.bin``, ... into *out*."""
    weights = stored(normalised(checkpoint, spec), spec, heads[-1])
    bounds = heads if spec.weight_files == "each" else heads[-1:]
    classifiers = {k: checkpoint.info.config.classifier(k) for k in heads}
    names = {k: file.name(checkpoint, spec, "shared", f"k{k}") for k in heads}
    written = shells.write(weights, classifiers, {k: f"{names[k]}.bin" for k in bounds}, out)
    artifacts = []
    for k in heads:
        assembly = shells.Assembly(k, written, weights)
        (out / f"{names[k]}.onnx").write_bytes(fixed.assembled(checkpoint, spec, opset, assembly))
        locations = [shell.location for shell in assembly.shells]
        artifacts.append(fixed.artifact(checkpoint, f"{names[k]}.onnx", locations, k, spec, opset))
    return artifacts
