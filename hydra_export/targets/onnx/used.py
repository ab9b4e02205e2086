"""What a graph computes by, node for node, for tables of what compilers take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx

from hydra_export import files
from hydra_export.protobuf import MOST_BYTES, check_size
from hydra_export.target import UsedOperator, UsedTensor
from hydra_export.targets.onnx.lint import drop_weights

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_ANY_TYPE = {_QUANTIZE, _DEQUANTIZE, "If", "Identity", "Cast"}  # neither in float nor in integers
_FLOATS = {"float16", "float32"}

Tensors = dict[str, UsedTensor]


def operators(path: Path) -> Iterator[UsedOperator]:
    """The nodes of the graph that lint passed, and of its branches."""
    content = files.read(path, MOST_BYTES)
    check_size(content, onnx.ModelProto.DESCRIPTOR)
    model = onnx.load_model_from_string(content)
    drop_weights(model)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    in_integers = any(node.op_type == _QUANTIZE for node in _nodes(inferred.graph))
    opset = next(entry.version for entry in inferred.opset_import if not entry.domain)
    yield from _of_graph(inferred.graph, "", {}, opset, in_integers)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from _nodes(attribute.g)


def _of_graph(
    graph: onnx.GraphProto, name: str, around: Tensors, opset: int, in_integers: bool
) -> Iterator[UsedOperator]:
    stored = around | _stored(graph)
    computed = _through_quantization(graph, stored)
    for node in graph.node:
        kept = stored if node.op_type in _ANY_TYPE else computed
        given, made = ([kept.get(each, UsedTensor(dtype="")) for each in ids] for ids in (node.input, node.output))
        in_float = any(tensor.dtype in _FLOATS and not tensor.constant for tensor in (*given, *made))
        yield UsedOperator(
            name=node.op_type,
            place=node.name or node.output[0],
            graph=name,
            version=opset,
            inputs=tuple(given),
            outputs=tuple(made),
            is_island=in_integers and in_float and node.op_type not in _ANY_TYPE,
        )
        for attribute in node.attribute:
            if attribute.HasField("g"):
                inside = f"{node.name or node.output[0]}/{attribute.name}"
                yield from _of_graph(attribute.g, inside, computed, opset, in_integers)


def _stored(graph: onnx.GraphProto) -> Tensors:
    """Its tensors as the file has them; what is made of constants alone is one."""
    values = (*graph.value_info, *graph.input, *graph.output)
    found = {value.name: _tensor(value.type.tensor_type) for value in values}
    for each in graph.initializer:
        found[each.name] = UsedTensor(dtype=_dtype(each.data_type), shape=tuple(each.dims), constant=True)
    for node in graph.node:
        if node.input and all(each in found and found[each].constant for each in node.input):
            for each in node.output:
                found[each] = UsedTensor(dtype=found[each].dtype, shape=found[each].shape, constant=True)
    return found


def _through_quantization(graph: onnx.GraphProto, stored: Tensors) -> Tensors:
    """The same, with the integers that are dequantized, or quantized to alone, in place of their floats."""
    found, users = dict(stored), dict[str, list[onnx.NodeProto]]()
    for node in graph.node:
        for each in node.input:
            users.setdefault(each, []).append(node)
        if node.op_type == _DEQUANTIZE:
            found[node.output[0]] = stored[node.input[0]]
    given = {value.name for value in graph.output}
    for name, nodes in users.items():
        if name not in given and all(node.op_type == _QUANTIZE for node in nodes):
            found[name] = stored[nodes[0].output[0]]
    return found


def _tensor(kind: onnx.TypeProto.Tensor) -> UsedTensor:
    sizes = (size.dim_value if size.HasField("dim_value") else -1 for size in kind.shape.dim)
    return UsedTensor(dtype=_dtype(kind.elem_type), shape=tuple(sizes))


def _dtype(element: int) -> str:
    return str(onnx.helper.tensor_dtype_to_np_dtype(element).name) if element else ""
