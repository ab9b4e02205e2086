"""One self-contained file per head count, streamed: at most one weight is in memory besides the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import onnx
import onnx_ir as ir

from hydra_export.errors import BadInput
from hydra_export.stored_weight import StoredWeight
from hydra_export.target import Artifact, ExportSpec
from hydra_export.targets.onnx import file, fixed
from hydra_export.targets.onnx.weights import normalised, onnx_type, stored

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint

# Protobuf's own limit on one message (protobuf.dev, "Proto Limits").
_LARGEST_FILE_BYTES = 2**31 - 1

# Field numbers of onnx.proto; both fields are length-delimited (wire type 2).
_MODEL_GRAPH = 7
_GRAPH_INITIALIZER = 5
_TENSOR_RAW_DATA = 9


def planned(checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec, opset: int) -> list[Artifact]:
    """``<model>-k3.onnx``, ..."""
    paths = [f"{file.name(checkpoint, spec, f'k{k}')}.onnx" for k in heads]
    return [file.artifact(checkpoint, path, (), [k], spec, opset) for k, path in zip(heads, paths, strict=True)]


def write(checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec, opset: int, out: Path) -> list[Artifact]:
    """Writes what is ``planned`` into *out*."""
    weights = normalised(checkpoint, spec)
    artifacts = planned(checkpoint, heads, spec, opset)
    for k, artifact in zip(heads, artifacts, strict=True):
        kept = stored(weights, spec, k)
        used: dict[str, StoredWeight] = {}

        def weight(name: str, kept: dict[str, StoredWeight] = kept, used: dict[str, StoredWeight] = used) -> ir.Value:
            used[name] = kept[name]
            return ir.Value(name=name)

        model = fixed.model(checkpoint, k, spec, opset, kept, weight)
        with (out / artifact.path).open("wb") as stream:
            _stream(ir.to_proto(model), k, used, stream)
    return artifacts


def _stream(proto: onnx.ModelProto, heads: int, weights: dict[str, StoredWeight], stream: BinaryIO) -> None:
    """Writes *proto* with *weights* as further initializers of its graph, without ever holding them together.

    A serialised message is its fields one after the other, so the initializers can be appended to the graph's bytes;
    only the graph's length, which comes before, has to be known (protobuf.dev, "Encoding").
    """
    tensors = [_tensor_header(name, weight, heads) for name, weight in weights.items()]
    sizes = [weight.num_bytes(weight.cut.spans(heads)) for weight in weights.values()]
    nodes = proto.graph.SerializeToString(deterministic=True)
    graph_bytes = len(nodes) + sum(
        len(_field(_GRAPH_INITIALIZER, len(header) + size)) + len(header) + size
        for header, size in zip(tensors, sizes, strict=True)
    )
    proto.ClearField("graph")
    start = proto.SerializeToString(deterministic=True) + _field(_MODEL_GRAPH, graph_bytes) + nodes
    if len(start) + graph_bytes - len(nodes) > _LARGEST_FILE_BYTES:
        raise BadInput(
            f"Subnetwork {heads} needs {graph_bytes / 1e9:.1f} GB; an ONNX file is limited to 2 GB.",
            "Use `graph=shared`, which keeps weights in separate files.",
        )
    stream.write(start)
    for header, size, weight in zip(tensors, sizes, weights.values(), strict=True):
        stream.write(_field(_GRAPH_INITIALIZER, len(header) + size) + header)
        stream.write(weight.part(weight.cut.spans(heads)).data)


def _tensor_header(name: str, weight: StoredWeight, heads: int) -> bytes:
    spans = weight.cut.spans(heads)
    tensor = onnx.TensorProto(name=name, dims=weight.shape(spans), data_type=onnx_type(weight).value)
    return bytes(tensor.SerializeToString(deterministic=True)) + _field(_TENSOR_RAW_DATA, weight.num_bytes(spans))


def _field(number: int, length: int) -> bytes:
    """Tag and length of a length-delimited protobuf field."""
    return bytes([number << 3 | 2]) + _varint(length)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
