"""What a run of a graph takes at least, by the shapes that follow from its file."""

from __future__ import annotations

import math

import onnx

from hydra_export.target import Work

Shapes = dict[str, tuple[int, ...]]


def of(inferred: onnx.ModelProto) -> Work:
    """Of a model after shape inference, of all branches together."""
    return _of_graph(inferred.graph, {})


def _of_graph(graph: onnx.GraphProto, around: Shapes) -> Work:
    values = (*graph.input, *graph.value_info, *graph.output)
    shapes = around | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    shapes |= {value.name: _known(value.type.tensor_type) for value in values}
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    macs = largest = 0
    for node in graph.node:
        for name in node.output:
            largest = max(largest, math.prod(shapes.get(name, ())) * _num_bytes(types.get(name, 0)))
        macs += _macs(node, shapes)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                inside = _of_graph(attribute.g, shapes)
                macs, largest = macs + inside.macs, max(largest, inside.tensor_bytes)
    return Work(macs=macs, tensor_bytes=largest)


def _known(tensor: onnx.TypeProto.Tensor) -> tuple[int, ...]:
    return tuple(max(1, size.dim_value) for size in tensor.shape.dim)


def _num_bytes(element: int) -> int:
    return int(onnx.helper.tensor_dtype_to_np_dtype(element).itemsize) if element else 1


def _macs(node: onnx.NodeProto, shapes: Shapes) -> int:
    given = [shapes.get(name, ()) or (1,) for name in node.input]
    size = math.prod(shapes.get(node.output[0], ()))
    if node.op_type in ("MatMul", "MatMulInteger"):
        return size * given[0][-1]
    if node.op_type == "Gemm":
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return size * given[0][0 if transposed else -1]
    if node.op_type == "Conv":
        return size * math.prod(given[1][1:])
    if node.op_type == "Attention":  # of q, k and v, each of shape [B, N, D]: scores, and what they weigh
        return (size + math.prod(given[0])) * given[1][-2 if len(given[1]) > 1 else 0]
    return 0
