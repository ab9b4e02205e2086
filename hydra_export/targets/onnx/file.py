"""The file around a graph: inputs, outputs, versions, and what it says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from hydra_export.target import Artifact, ExportSpec, Interface, TensorInfo, described, image_info, output_info
from hydra_export.version import VERSION

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint

# The lowest IR version that each opset's release of ONNX came with; later ones are refused by older runtimes.
# Source: onnx/onnx docs/Versioning.md, "Released Versions".
IR_VERSIONS = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}
_DTYPES = {"float32": ir.DataType.FLOAT, "uint8": ir.DataType.UINT8, "int64": ir.DataType.INT64}


def value(info: TensorInfo) -> ir.Value:
    """A graph's input or output."""
    return ir.Value(name=info.name, shape=ir.Shape(info.shape), type=ir.TensorType(_DTYPES[info.dtype]))


def declare(result: ir.Value, info: TensorInfo) -> None:
    """Makes *result* the output that *info* describes."""
    declared = value(info)
    result.shape, result.type, result.name = declared.shape, declared.type, declared.name


def signature(model: onnx.ModelProto) -> Interface:
    """What the graph of a file takes and gives."""
    return tuple(map(_info, model.graph.input)), tuple(map(_info, model.graph.output))


def _info(value: onnx.ValueInfoProto) -> TensorInfo:
    tensor, dtypes = value.type.tensor_type, {dtype.value: name for name, dtype in _DTYPES.items()}
    shape = tuple(size.dim_param or size.dim_value for size in tensor.shape.dim)
    return TensorInfo(name=value.name, dtype=dtypes.get(tensor.elem_type, str(tensor.elem_type)), shape=shape)


def model(
    checkpoint: Checkpoint,
    heads: Sequence[int],
    spec: ExportSpec,
    opset: int,
    graph: ir.Graph,
) -> ir.Model:
    """The model around *graph*."""
    graph.opset_imports[""] = opset
    return ir.Model(
        graph,
        ir_version=IR_VERSIONS[opset],
        producer_name="hydra-export",
        producer_version=VERSION,
        metadata_props=described(checkpoint.info, checkpoint.sha256, heads, spec),
    )


def encoded(model: ir.Model) -> bytes:
    """The file's bytes, the same each time."""
    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def needs(opset: int, ir_version: int) -> dict[str, str]:
    """The oldest that can run a graph."""
    return {"opset": str(opset), "ir_version": str(ir_version)}


def artifact(
    checkpoint: Checkpoint,
    path: str,
    weight_files: Sequence[str],
    heads: Sequence[int],
    spec: ExportSpec,
    opset: int,
    *inputs: TensorInfo,
) -> Artifact:
    """The artifact of *heads* whose graph is at *path*; *inputs* are those beside the image."""
    config = checkpoint.info.config
    return Artifact(
        path=path,
        files=(path, *weight_files),
        target="onnx",
        spec=spec,
        heads=tuple(heads),
        inputs=(image_info(config, spec), *inputs),
        outputs=(output_info(config, heads, spec),),
        needs=needs(opset, IR_VERSIONS[opset]),
    )


def name(checkpoint: Checkpoint, spec: ExportSpec, *parts: str) -> str:
    """What a file is called before its ending: model, parts, and the precision unless it is fp32."""
    precision = () if spec.precision == "fp32" else (spec.precision,)
    return "-".join([checkpoint.info.name, *parts, *precision])
