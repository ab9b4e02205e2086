"""What every ONNX file of ours promises, checked on the file itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]

from hydra_export.errors import CheckFailed
from hydra_export.targets.onnx.graph import IR_VERSIONS

_LARGEST_RANK = 4  # QNN, Core ML and GPU delegates take no more


def lint(path: Path) -> None:
    """Raises CheckFailed naming *path* and the first promise that it breaks."""
    try:
        onnx.checker.check_model(path)
        model = onnx.load(path, load_external_data=False)
        for text in _not_utf8(model):  # protobuf gives it as bytes, where every other check expects str
            raise ValueError(f"{text!r} is not UTF-8")
        for problem in (*_portability(model), *_unused(model), *_external_data(model, path.parent)):
            raise CheckFailed(f"{path} is not portable: {problem}.")
        _drop_weights(model)
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, DecodeError, ValueError) as error:
        raise CheckFailed(f"{path} is not a valid ONNX model: {error}.") from error
    for problem in _ranks(inferred):
        raise CheckFailed(f"{path} is not portable: {problem}.")


def _not_utf8(message: Message) -> Iterator[bytes]:
    for field, value in message.ListFields():
        if field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE):
            continue
        for item in [value] if isinstance(value, (str, bytes, Message)) else value:
            if isinstance(item, Message):
                yield from _not_utf8(item)
            elif isinstance(item, bytes):
                yield item


def _drop_weights(model: onnx.ModelProto) -> None:
    """Shapes follow from small constants; the weights would only be copied."""
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > 1024:
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


def _unused(model: onnx.ModelProto) -> Iterator[str]:
    used = {name for node in model.graph.node for name in node.input}
    for tensor in model.graph.initializer:
        if tensor.name not in used:
            yield f"initializer {tensor.name} is not used"


def _ranks(model: onnx.ModelProto) -> Iterator[str]:
    graph = model.graph
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
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs or attribute.HasField("t") or attribute.tensors:
                yield f"node {node.name} has a graph or a tensor inside"  # whose data would go unchecked
    if model.functions or model.training_info or model.graph.sparse_initializer:
        yield "it has functions, training information or sparse initializers"
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if not location or Path(location).name != location:
            yield f"initializer {tensor.name} lies at {location!r}, outside of its folder"
        elif not (folder / location).is_file() or (folder / location).is_symlink():
            yield f"initializer {tensor.name} lies in {location!r}, which is no file"
        elif not (entries.get("offset", "").isdecimal() and entries.get("length", "").isdecimal()):
            yield f"initializer {tensor.name} has no whole offset and length in {location!r}"
        elif int(entries["offset"]) > (folder / location).stat().st_size - int(entries["length"]):
            yield f"initializer {tensor.name} lies beyond the end of {location!r}"
        elif tensor.data_type != onnx.TensorProto.FLOAT or int(entries["length"]) != 4 * math.prod(tensor.dims):
            yield f"initializer {tensor.name} is no float32 {list(tensor.dims)} of {entries['length']} bytes"
