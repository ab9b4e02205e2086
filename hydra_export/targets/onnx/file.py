"""The file around a graph: inputs, outputs, versions, and what it says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import onnx
import onnx_ir as ir

from hydra_export.quantized.grid import Grid, Range
from hydra_export.target import STATIC, Artifact, ExportSpec, Interface, TensorInfo, described, image_info, output_info
from hydra_export.version import VERSION

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint

# The lowest IR version that each opset's release of ONNX came with; later ones are refused by older runtimes.
# Source: onnx/onnx docs/Versioning.md, "Released Versions".
IR_VERSIONS = {13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}
_DTYPES = {
    "float32": ir.DataType.FLOAT,
    "uint8": ir.DataType.UINT8,
    "uint16": ir.DataType.UINT16,
    "int64": ir.DataType.INT64,
}


def value(info: TensorInfo) -> ir.Value:
    """A graph's input or output."""
    return ir.Value(name=info.name, shape=ir.Shape(info.shape), type=ir.TensorType(_DTYPES[info.dtype]))


def declare(result: ir.Value, info: TensorInfo) -> None:
    """Makes *result* the output that *info* describes."""
    declared = value(info)
    result.shape, result.type, result.name = declared.shape, declared.type, declared.name


def signature(model: onnx.ModelProto) -> Interface:
    """What the graph of a file takes and gives."""
    grids = _grids(model.graph)
    inputs, outputs = (
        tuple(_info(value, grids.get(value.name)) for value in values)
        for values in (model.graph.input, model.graph.output)
    )
    return inputs, outputs


def _info(value: onnx.ValueInfoProto, counted: tuple[float, int] | None) -> TensorInfo:
    tensor, dtypes = value.type.tensor_type, {dtype.value: name for name, dtype in _DTYPES.items()}
    shape = tuple(size.dim_param or size.dim_value for size in tensor.shape.dim)
    info = TensorInfo(name=value.name, dtype=dtypes.get(tensor.elem_type, str(tensor.elem_type)), shape=shape)
    if counted is None or info.dtype == "float32":
        return info
    return msgspec.structs.replace(info, scale=counted[0], zero_point=counted[1])


def _grids(graph: onnx.GraphProto) -> dict[str, tuple[float, int]]:
    """Scale and zero point of the image and of the output, where these are integers that count numbers."""
    found = dict[str, tuple[float, int]]()
    branches = [a.g for node in graph.node for a in node.attribute if a.name == "then_branch"]
    for inside in (graph, *branches):
        constants = {tensor.name: tensor for tensor in inside.initializer}
        given = {value.name: graph.output[i].name for i, value in enumerate(inside.output)}
        for node in inside.node:
            name = {"DequantizeLinear": node.input[0], "QuantizeLinear": given.get(node.output[0])}.get(node.op_type)
            if name is not None and name in ("image", *given.values()) and len(node.input) == 3:
                scale, zero = (onnx.numpy_helper.to_array(constants[each]) for each in node.input[1:])
                found[name] = float(scale), int(zero)
    return found


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
    (image, *_), outputs = interface(checkpoint, heads, spec)
    return Artifact(
        path=path,
        files=(path, *weight_files),
        target="onnx",
        spec=spec,
        heads=tuple(heads),
        inputs=(image, *inputs),
        outputs=outputs,
        needs=needs(opset, IR_VERSIONS[opset]),
    )


def interface(checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec) -> Interface:
    """The image that a graph of *heads* takes, and what it gives."""
    config = checkpoint.info.config
    image, output = image_info(config, spec), output_info(config, heads, spec)
    if spec.precision in STATIC and spec.io == "integer" and checkpoint.activations is not None:
        ranges = checkpoint.activations[spec.precision][heads[-1]]
        output = _counted(output, ranges[config.output])
        image = image if spec.input == "image" else _counted(image, ranges["image"])
    return (image,), (output,)


def _counted(info: TensorInfo, own: Range) -> TensorInfo:
    dtype, zero_point = quantized_type(own.grid())
    return msgspec.structs.replace(info, dtype=dtype, scale=own.grid().scale, zero_point=zero_point)


def quantized_type(counted: Grid) -> tuple[str, int]:
    """The type and the zero point as ONNX has them: unsigned."""
    return ("uint8", counted.zero_point + 128) if counted.bits == 8 else ("uint16", counted.zero_point + 32768)


def name(checkpoint: Checkpoint, spec: ExportSpec, *parts: str) -> str:
    """What a file is called before its ending: model, parts, and the precision unless it is fp32."""
    precision = () if spec.precision == "fp32" else (spec.precision,)
    return "-".join([checkpoint.info.name, *parts, *precision])
