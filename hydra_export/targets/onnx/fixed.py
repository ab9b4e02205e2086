"""The graph of one subnetwork, chosen when it is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import onnx_ir as ir

from hydra_export.stored_weight import StoredWeight
from hydra_export.target import ExportSpec
from hydra_export.targets.onnx import file, quantized
from hydra_export.targets.onnx.emitter import subnetwork
from hydra_export.targets.onnx.graph import channels_first
from hydra_export.targets.onnx.shells import Assembly

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint


def model(
    checkpoint: Checkpoint,
    heads: int,
    spec: ExportSpec,
    opset: int,
    stored: Mapping[str, StoredWeight],
    weight: Callable[[str], ir.Value],
) -> ir.Model:
    """The model of subnetwork *heads*; *weight* supplies the values of what is *stored* by their names.

    The model's initializers are the small constants alone: the caller adds the weights.
    """
    config = checkpoint.info.config
    (image_info, *_), (output,) = file.interface(checkpoint, [heads], spec)
    image = file.value(image_info)
    g = quantized.builder(checkpoint, heads, spec, stored, weight)
    result = subnetwork(g, channels_first(g, image, checkpoint.info.preprocessing, spec), config, spec, opset, heads)
    result = g.result(result)
    file.declare(result, output)
    graph = ir.Graph(
        [image],
        [result],
        nodes=g.nodes,
        initializers=list(g.constants.values()),
        name=f"{checkpoint.info.name}-k{heads}",
    )
    return file.model(checkpoint, [heads], spec, opset, graph)


def assembled(checkpoint: Checkpoint, spec: ExportSpec, opset: int, assembly: Assembly) -> bytes:
    """The file of a subnetwork whose weights lie in other files."""
    result = model(checkpoint, assembly.heads, spec, opset, assembly.weights, assembly.weight)
    for initializer in assembly.initializers.values():
        result.graph.register_initializer(initializer)
    result.graph.insert_before(result.graph[0], assembly.nodes)
    return file.encoded(result)
