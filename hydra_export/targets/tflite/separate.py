"""One self-contained file per head count."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra_export.target import Artifact, ExportSpec, described
from hydra_export.targets.tflite import graph, metadata
from hydra_export.targets.tflite.file import FileBuilder
from hydra_export.targets.tflite.graph import Constant
from hydra_export.targets.tflite.lint import SIGNATURE
from hydra_export.targets.tflite.operators import oldest_runtime
from hydra_export.targets.tflite.weights import tflite_weights

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint


def write(checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec, out: Path) -> list[Artifact]:
    """Writes ``<model>-k3.tflite``, ... into *out*."""
    info = checkpoint.info
    weights = tflite_weights(checkpoint.model, info.preprocessing if spec.input == "image" else None)
    artifacts = []
    for k in heads:
        inputs, outputs = graph.signature(info.config, k, spec)
        file = FileBuilder()

        def weight(name: str, k: int = k, file: FileBuilder = file) -> Constant:
            return file.weight(weights[name], k)

        g = graph.GraphBuilder(weight, file.store, file.opcode)
        image = g.input(inputs[0])
        result = graph.Emitter(g, info.config, k, spec).emit(image, spec)
        name = f"{info.name}-k{k}"
        file.graph(SIGNATURE, g, {inputs[0].name: image}, {outputs[0].name: result}, name)
        file.metadata(metadata.RUNTIME_VERSION, metadata.runtime_version(file.operators))
        file.metadata("TFLITE_METADATA", metadata.for_android(checkpoint, k, spec.input, inputs[0], outputs[0]))
        said = described(checkpoint, (k,), spec)
        for entry, text in said.items():
            file.metadata(entry, text.encode())
        with (out / f"{name}.tflite").open("wb") as stream:
            file.write(name, stream)
            if info.labels:
                stream.write(metadata.labels_archive(said[metadata.LABELS].encode(), stream.tell()))
        artifacts.append(
            Artifact(
                path=f"{name}.tflite",
                files=(f"{name}.tflite",),
                target="tflite",
                spec=spec,
                heads=(k,),
                inputs=inputs,
                outputs=outputs,
                needs={"tflite": oldest_runtime(file.operators)},
            )
        )
    return artifacts
