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
from hydra_export.targets.onnx import OnnxOptions, file, fixed, shells
from hydra_export.targets.onnx.weights import normalised, stored

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint


def planned(checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec, opset: int) -> list[Artifact]:
    """``<model>-shared-k3.onnx`` and ``<model>-shared-k3.bin``, ..."""
    spans = list(shells.spans(_locations(checkpoint, heads, spec)))
    used = {k: [location for (low, _high), location in spans if low < k] for k in heads}
    return [file.artifact(checkpoint, f"{_name(checkpoint, spec, k)}.onnx", used[k], [k], spec, opset) for k in heads]


def write(checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec, opset: int, out: Path) -> list[Artifact]:
    """Writes what is ``planned`` into *out*."""
    for k in heads:
        checkpoint.info.config.classifiers(k)  # one that is missing is refused before anything is written
    weights = stored(normalised(checkpoint, spec), spec, heads[-1])
    written = shells.write(weights, heads, _locations(checkpoint, heads, spec), out)
    artifacts = planned(checkpoint, heads, spec, opset)
    for k, artifact in zip(heads, artifacts, strict=True):
        content = fixed.assembled(checkpoint, spec, opset, shells.Assembly(k, written, weights))
        (out / artifact.path).write_bytes(content)
    return artifacts


def _locations(checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec) -> dict[int, str]:
    """The weight files, by the head counts that they go up to."""
    bounds = heads if OnnxOptions.of(spec).weight_files == "each" else heads[-1:]
    return {k: f"{_name(checkpoint, spec, k)}.bin" for k in bounds}


def _name(checkpoint: Checkpoint, spec: ExportSpec, heads: int) -> str:
    return file.name(checkpoint, spec, "shared", f"k{heads}")
