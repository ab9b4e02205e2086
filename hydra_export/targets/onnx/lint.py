"""What every ONNX file of ours promises, checked on the file itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx.checker import ValidationError
from onnx.shape_inference import InferenceError

from hydra_export import files
from hydra_export.errors import CheckFailed, Unreadable
from hydra_export.protobuf import MOST_BYTES, check_size
from hydra_export.target import METADATA_PREFIX, STATIC, Precision, Work
from hydra_export.targets.onnx import work
from hydra_export.targets.onnx.file import IR_VERSIONS

_LARGEST_RANK = 4  # QNN, Core ML and GPU delegates take no more
# What our graphs are made of. None makes much of little, as Expand and Tile do, or runs without end, as Loop can.
_OPERATORS = {
    *("Add", "Attention", "Cast", "Concat", "Conv", "DequantizeLinear", "Div", "DynamicQuantizeLinear", "Equal", "Erf"),
    *("Gather", "Gelu", "QuantizeLinear"),
    *("Gemm", "Identity", "If", "LayerNormalization", "MatMul", "MatMulInteger", "Mul", "NonZero", "Pad", "Pow"),
    *("RMSNormalization", "ReduceMax", "ReduceMean", "Relu", "Reshape", "Sigmoid", "Slice", "Softmax", "Split", "Sqrt"),
    *("Sub", "Tanh", "Transpose"),
}
_LONGEST_REASON = 500  # letters of what onnx says of a file
_BRANCHES = ("then_branch", "else_branch")  # of If: the checker refuses them anywhere else
_WEIGHT_BYTES = {"float": 4, "float16": 2, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4}
_COUNTED = {"int8", "uint8", "int16", "uint16", "int32"}  # what is in files of integer activations beside scales
_CHOOSING = {"If", "Identity"}
_SMALL_BYTES = 256  # of what is no weight: shapes, and numbers of operators


def lint(path: Path) -> Work:
    """Raises CheckFailed naming *path* and the first promise that it breaks; what a run of it takes otherwise."""
    try:
        content = files.read(path, MOST_BYTES)
    except Unreadable as error:
        raise CheckFailed(f"{path} cannot be read: {error.reason}.") from error
    try:
        check_size(content, onnx.ModelProto.DESCRIPTOR)
        model = onnx.load_model_from_string(content)
        del content
        onnx.checker.check_model(path)
        for problem in (
            *_portability(model),
            *_nesting(model),
            *_unused(model.graph),
            *_external_data(model, path.parent),
            *_precision(model),
            *_operators(model),
        ):
            raise CheckFailed(f"{path} is not portable: {problem}.")
        unguarded = [*_choice(model)]
        drop_weights(model)
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    # RuntimeError: what C++'s file system says of the names of weight files
    except (ValidationError, InferenceError, DecodeError, ValueError, RuntimeError) as error:
        raise CheckFailed(f"{path} is not a valid ONNX model: {str(error)[:_LONGEST_REASON]}.") from error
    for problem in (*_ranks(inferred), *unguarded, *_islands(inferred)):
        raise CheckFailed(f"{path} is not portable: {problem}.")
    return work.of(inferred)


def graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The graph of *model*, and the branches in it."""
    yield model.graph
    for node in model.graph.node:
        yield from _branches(node)


def _branches(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    return (attribute.g for attribute in node.attribute if attribute.HasField("g"))


def drop_weights(model: onnx.ModelProto) -> None:
    """Shapes follow from small constants; the weights would only be copied."""
    for graph in graphs(model):
        for tensor in graph.initializer:
            if len(tensor.raw_data) > _SMALL_BYTES:
                tensor.ClearField("raw_data")
                tensor.data_location = onnx.TensorProto.EXTERNAL


def _portability(model: onnx.ModelProto) -> Iterator[str]:
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    if set(opsets) != {""}:
        yield f"it uses operators of {sorted(set(opsets) - {''})}"
    elif opsets[""] not in IR_VERSIONS:
        yield f"it uses opset {opsets['']}"
    elif model.ir_version != IR_VERSIONS[opsets[""]]:
        yield f"its IR version is {model.ir_version}, the lowest for opset {opsets['']} is {IR_VERSIONS[opsets['']]}"


def _operators(model: onnx.ModelProto) -> Iterator[str]:
    if others := {node.op_type for graph in graphs(model) for node in graph.node} - _OPERATORS:
        yield f"it uses operators {sorted(others)}"


def _nesting(model: onnx.ModelProto) -> Iterator[str]:
    """Graphs are branches of Ifs, one level deep, and tensors are initializers: nothing escapes the other checks."""
    if model.functions or model.training_info or any(graph.sparse_initializer for graph in graphs(model)):
        yield "it has functions, training information or sparse initializers"
    for graph in graphs(model):
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.graphs or attribute.HasField("t") or attribute.tensors or attribute.sparse_tensors:
                    yield f"node {node.name} has a tensor or graphs inside"
                elif attribute.HasField("sparse_tensor"):
                    yield f"node {node.name} has a sparse tensor inside"
                elif not attribute.HasField("g"):
                    continue
                elif attribute.name not in _BRANCHES or graph is not model.graph:
                    yield f"node {node.name} has a graph inside"


def _unused(graph: onnx.GraphProto) -> Iterator[str]:
    """Branches are checked with the graph around them, whose values they may use."""
    branches = [branch for node in graph.node for branch in _branches(node)]
    used = {name for inside in (graph, *branches) for node in inside.node for name in node.input}
    for inside in (graph, *branches):
        for tensor in inside.initializer:
            if tensor.name not in used:
                yield f"initializer {tensor.name} is not used"


def _ranks(model: onnx.ModelProto) -> Iterator[str]:
    for graph in graphs(model):
        shaped = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.input, *graph.output)}
        for node in graph.node:
            for name in node.output:
                if name not in shaped or not shaped[name].HasField("shape"):
                    yield f"the shape of {name} cannot be inferred"
                elif (rank := len(shaped[name].shape.dim)) > _LARGEST_RANK:
                    yield f"{name} has rank {rank}"
        for tensor in graph.initializer:
            if len(tensor.dims) > _LARGEST_RANK:
                yield f"initializer {tensor.name} has rank {len(tensor.dims)}"


def _external_data(model: onnx.ModelProto, folder: Path) -> Iterator[str]:
    for graph in graphs(model):
        for tensor in graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                yield from _external_problems(tensor, folder)


def _external_problems(tensor: onnx.TensorProto, folder: Path) -> Iterator[str]:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if problem := "it is outside its folder" if "/" in location else files.unportable(location):
        yield f"initializer {tensor.name} is at {location[:100]!r}: {problem}"
    elif not (folder / location).is_file() or (folder / location).is_symlink():
        yield f"initializer {tensor.name} is in {location!r}, which is not a file"
    elif not (entries.get("offset", "").isdecimal() and entries.get("length", "").isdecimal()):
        yield f"initializer {tensor.name} has no valid offset and length in {location!r}"
    elif int(entries["offset"]) > (folder / location).stat().st_size - int(entries["length"]):
        yield f"initializer {tensor.name} is beyond the end of {location!r}"
    elif int(entries["length"]) != _num_bytes(tensor):
        yield f"initializer {tensor.name}, {_type_name(tensor)} {list(tensor.dims)}, is not {entries['length']} bytes"


def _num_bytes(tensor: onnx.TensorProto) -> int:
    """As the type and shape say; 0 of a type that no weight of ours has."""
    return _WEIGHT_BYTES.get(_type_name(tensor), 0) * int(math.prod(tensor.dims))


def _type_name(tensor: onnx.TensorProto) -> str:
    return str(onnx.TensorProto.DataType.Name(tensor.data_type)).lower()


def _precision(model: onnx.ModelProto) -> Iterator[str]:
    """The weights are as narrow as the file says: a quantization that did nothing is an error."""
    said = {entry.key: entry.value for entry in model.metadata_props}.get(f"{METADATA_PREFIX}precision", "")
    weights = [tensor for graph in graphs(model) for tensor in graph.initializer if _num_bytes(tensor) > _SMALL_BYTES]
    ops = {node.op_type for graph in graphs(model) for node in graph.node}
    if said not in get_args(Precision):
        yield f"its precision is {said!r}"
        return
    if (said in STATIC) != ("QuantizeLinear" in ops):
        yield f"it is {said} and has {'' if 'QuantizeLinear' in ops else 'no '}integer activations"
    for tensor in weights if said in STATIC else ():
        is_scale = _type_name(tensor) == "float" and len(tensor.dims) == 1
        if not (is_scale or _type_name(tensor) in _COUNTED):
            yield f"initializer {tensor.name} is {_type_name(tensor)} {list(tensor.dims)} in a file that is {said}"
    for tensor in weights if said not in STATIC else ():
        wide = {"fp32": "float", "fp16": "float16", "int8": "int8" if len(tensor.dims) == 2 else "float"}[said]
        if _type_name(tensor) != wide:
            yield f"initializer {tensor.name} is {_type_name(tensor)} {list(tensor.dims)} in a file that is {said}"
    if (said == "int8") != ("MatMulInteger" in ops) or (said == "int8" and "Gemm" in ops):
        yield f"it is {said} and its products are {sorted(ops & {'Gemm', 'MatMulInteger'})}"


def _islands(model: onnx.ModelProto) -> Iterator[str]:
    """Where activations are integers, every operator on floats stands between DequantizeLinear and QuantizeLinear."""
    said = {entry.key: entry.value for entry in model.metadata_props}.get(f"{METADATA_PREFIX}precision", "")
    if said not in STATIC:
        return
    nodes = [node for graph in graphs(model) for node in graph.node]
    made_by = {name: node.op_type for node in nodes for name in node.output}
    given = {value.name for graph in graphs(model) for value in graph.output}
    constants = {tensor.name for graph in graphs(model) for tensor in graph.initializer}
    floats = {
        value.name
        for graph in graphs(model)
        for value in (*graph.value_info, *graph.input, *graph.output, *graph.initializer)
        if _is_float(value)
    }
    for node in nodes:
        if set(node.input) <= constants:  # puts weights together
            constants.update(node.output)
            continue
        for name in set(node.input) & floats:
            quantizes = node.op_type in ("QuantizeLinear", "DequantizeLinear")
            is_weight = name in constants and name in made_by
            fits = quantizes or is_weight or node.op_type in _CHOOSING or made_by.get(name) == "DequantizeLinear"
            if not fits:
                yield f"{node.name} computes with {name}, which is float"
        if node.op_type in ("DequantizeLinear", *_CHOOSING):
            continue
        for name in set(node.output) & floats:
            users = {user.op_type for user in nodes if name in user.input}
            if name in given or users != {"QuantizeLinear"}:
                yield f"{node.name} outputs {name}, which is float"


def _is_float(value: onnx.ValueInfoProto | onnx.TensorProto) -> bool:
    element = value.data_type if isinstance(value, onnx.TensorProto) else value.type.tensor_type.elem_type
    return bool(element == onnx.TensorProto.FLOAT)


def _choice(model: onnx.ModelProto) -> Iterator[str]:
    """A head count that is an input goes through the guard alone: its place in the list, or an error."""
    if [each.name for each in model.graph.input[1:]] != ["k"]:
        return
    said = {entry.key: entry.value for entry in model.metadata_props}.get(f"{METADATA_PREFIX}heads", "")
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    name = "k"
    for op, operand in (("Reshape", []), ("Equal", said), ("NonZero", None), ("Reshape", [1])):
        users = [node for graph in graphs(model) for node in graph.node if name in node.input]
        if len(users) != 1 or users[0] not in model.graph.node or users[0].op_type != op or users[0].attribute:
            yield f"its head count is not guarded: {name} goes to {[node.op_type for node in users]}, not to {op}"
            return
        (node,) = users
        if list(node.input).index(name) or len(node.output) != 1:
            yield f"its head count is not guarded: {node.name} takes {list(node.input)}"
            return
        if operand is not None:
            tensor = constants.get(node.input[1])
            numbers = None if tensor is None else onnx.numpy_helper.to_array(tensor).tolist()
            found = ",".join(map(str, numbers or [])) if op == "Equal" else numbers
            if tensor is None or tensor.data_type != onnx.TensorProto.INT64 or found != operand:
                yield f"its head count is not guarded: {node.name} has {numbers}, not {operand}"
                return
        name = node.output[0]
    if not any(name in node.input for node in model.graph.node):
        yield "its head count has no effect"
