"""An asset around the function of one subnetwork, or the functions of several."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra_export.target import Artifact, ExportSpec, described, image_info, output_info
from hydra_export.targets.coreai import TARGET, folder
from hydra_export.text import kept

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint
    from hydra_export.targets.coreai.builder import AssetBuilder

NEEDS = {"ios": "27", "macos": "27"}
ALONE = "main"  # the function of an asset that has one


def function_of(heads: int, alone: bool) -> str:
    """The name of the function of subnetwork *heads*."""
    return ALONE if alone else f"k{heads}"


def planned(checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec) -> list[Artifact]:
    """``<model>-k3.aimodel``, ... or ``<model>-universal.aimodel``; the precision follows unless it is the default."""
    parts = {"universal": heads} if spec.graph == "universal" else {f"k{k}": (k,) for k in heads}
    return [_planned(checkpoint, of, spec, part) for part, of in parts.items()]


def _planned(checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec, part: str) -> Artifact:
    name = "-".join([checkpoint.info.name, part, *([] if spec.precision == TARGET.precisions[0] else [spec.precision])])
    config = checkpoint.info.config
    return Artifact(
        path=f"{name}.aimodel",
        files=tuple(f"{name}.aimodel/{file}" for file in folder.FILES),
        target=TARGET.name,
        spec=spec,
        heads=tuple(heads),
        inputs=(image_info(config, spec),),
        outputs=(output_info(config, heads, spec),),
        needs=NEEDS,
    )


def write(checkpoint: Checkpoint, artifact: Artifact, out: Path) -> Artifact:
    """Writes *artifact*, as it is ``planned``, into *out*."""
    from hydra_export.targets.coreai import builder
    from hydra_export.targets.coreai.graph import CoreAIEmitter
    from hydra_export.targets.coreai.weights import stored

    info, spec, (output,) = checkpoint.info, artifact.spec, artifact.outputs
    weights = stored(checkpoint, spec, artifact.heads[-1])

    def declare(program: AssetBuilder) -> None:
        for k in artifact.heads:
            emitter = CoreAIEmitter(program, info.config, k, spec, weights, artifact.heads[-1])
            body = functools.partial(emitter.emit, preprocessing=info.preprocessing)
            program.function(function_of(k, spec.graph == "separate"), artifact.inputs, output.name, body)

    texts = {
        "author": "hydra-export",
        "license": kept(info.license),
        "model_description": _description(checkpoint, artifact),
    }
    own = described(info, checkpoint.sha256, artifact.heads, spec)
    builder.write(out / artifact.path, declare, texts, own)
    return artifact


def _description(checkpoint: Checkpoint, artifact: Artifact) -> str:
    info, heads = checkpoint.info, artifact.heads
    height, width = info.config.image_shape
    if artifact.spec.graph == "separate":
        what = f"subnetwork of {heads[0]} of {info.config.heads} attention heads: a Vision Transformer"
    else:
        listed = ", ".join(map(str, heads))
        what = f"subnetworks of {listed} of {info.config.heads} attention heads, as functions: Vision Transformers"
    return f"{kept(info.name)}, {what} for images of {height} x {width} pixels."
