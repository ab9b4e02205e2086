"""One self-contained file per head count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hydra_export.network import Span
from hydra_export.normalised import Weight
from hydra_export.target import Artifact, ExportSpec, TensorInfo, described
from hydra_export.targets.tflite import metadata
from hydra_export.targets.tflite.builder import ConstantTensor
from hydra_export.targets.tflite.file import FileBuilder
from hydra_export.targets.tflite.graph import TFLiteEmitter
from hydra_export.targets.tflite.lint import SIGNATURE
from hydra_export.targets.tflite.metadata import GraphSignature
from hydra_export.targets.tflite.operators import oldest_runtime
from hydra_export.targets.tflite.quantized import builder, counted, interface
from hydra_export.targets.tflite.weights import normalised, stored

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint


def planned(checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec) -> list[Artifact]:
    """``<model>-k3.tflite``, ..."""
    return [artifact(checkpoint, (k,), spec) for k in heads]


def write(checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec, out: Path) -> list[Artifact]:
    """Writes what is ``planned`` into *out*."""
    weights = normalised(checkpoint, spec)
    return [_write(checkpoint, weights, one, out) for one in planned(checkpoint, heads, spec)]


def _write(checkpoint: Checkpoint, weights: Mapping[str, Weight], artifact: Artifact, out: Path) -> Artifact:
    (heads,), spec = artifact.heads, artifact.spec
    info, file, kept = checkpoint.info, FileBuilder(), stored(weights, spec.precision, heads)

    def weight(name: str, _columns: Span | None) -> ConstantTensor:
        return file.weight(name, kept[name], heads)

    inputs, (output,) = artifact.inputs, artifact.outputs
    g = builder(checkpoint, heads, spec, weight, file.store, file.opcode)
    image = g.input(counted(inputs[0], spec))
    result = TFLiteEmitter(g, info.config, heads, spec, info.preprocessing).emit(image)
    name = f"{info.name}-k{heads}"
    file.graph(name, g, {inputs[0].name: image}, {output.name: result}, SIGNATURE)
    return finish(file, checkpoint, artifact, out, [GraphSignature(name, inputs, output)])


def artifact(checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec, *inputs: TensorInfo) -> Artifact:
    """The artifact of *heads*, without what it needs: that follows from its operators. *inputs*: beside the image."""
    image, output = interface(checkpoint, heads, spec)
    which = "universal" if spec.graph == "universal" else f"k{heads[0]}"
    name = "-".join([checkpoint.info.name, which, *([] if spec.precision == "fp32" else [spec.precision])])
    return Artifact(
        path=f"{name}.tflite",
        files=(f"{name}.tflite",),
        target="tflite",
        spec=spec,
        heads=tuple(heads),
        inputs=(image, *inputs),
        outputs=(output,),
    )


def finish(
    file: FileBuilder, checkpoint: Checkpoint, artifact: Artifact, out: Path, graphs: Sequence[GraphSignature]
) -> Artifact:
    """Adds what the file says of itself, and writes it into *out*."""
    info, spec = checkpoint.info, artifact.spec
    file.metadata(metadata.RUNTIME_VERSION, metadata.runtime_version(file.operators, file.lies_behind))
    file.metadata("TFLITE_METADATA", metadata.for_android(checkpoint, spec.input, graphs))
    said = described(info, checkpoint.sha256, artifact.heads, spec)
    for entry, text in said.items():
        file.metadata(entry, text.encode())
    with (out / artifact.path).open("wb") as stream:
        file.write(artifact.path.removesuffix(".tflite"), stream)
        if info.labels:
            stream.write(metadata.labels_archive(said[metadata.LABELS].encode(), stream.tell()))
    return msgspec.structs.replace(artifact, needs=needs(oldest_runtime(file.operators, file.lies_behind)))


def needs(runtime: str) -> dict[str, str]:
    """The oldest runtime."""
    return {"tflite": runtime}
