"""What every TFLite file of ours promises, checked on the file itself, and that its operators fit each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from hydra_export.errors import CheckFailed
from hydra_export.targets.tflite.metadata import LABELS, RUNTIME_VERSION, labels_archive, runtime_version
from hydra_export.targets.tflite.operators import DYNAMIC, OPERATORS, Operand
from hydra_export.targets.tflite.reader import OPTIONS_TABLES, Graph, Model, Operation, Signature, Tensor, read

SIGNATURE = "serving_default"  # the key that TensorFlow's own exporters give a model's only signature

_LARGEST_RANK = 4  # GPU delegates take no more
_OUTPUTS = ("logits", "features")
_BY_CODE = {(operator.code, operator.version): operator for operator in OPERATORS.values()}


def lint(path: Path) -> Model:
    """Raises CheckFailed naming *path* and the first promise that it breaks; what the file says otherwise."""
    model = read(path)
    for problem in (*_interface(model), *_runtime_version(model), *_unused(model), *_labels(model)):
        raise CheckFailed(f"{path} is not portable: {problem}.")
    for graph in model.graphs:
        for problem in _graph(graph, model):
            raise CheckFailed(f"{path} is not portable: {problem}.")
    return model


def only_signature(model: Model) -> tuple[Signature, Tensor, Tensor]:
    """The signature of a file that lint passes, its input and its output."""
    (signature,) = model.signatures
    tensors = model.graphs[signature.graph].tensors
    (image,), (result,) = signature.inputs.values(), signature.outputs.values()
    return signature, tensors[image], tensors[result]


def _interface(model: Model) -> Iterator[str]:
    if len(model.graphs) != 1 or [signature.key for signature in model.signatures] != [SIGNATURE]:
        yield f"it has other graphs and signatures than one, '{SIGNATURE}'"
        return
    (graph,), (signature,) = model.graphs, model.signatures
    if list(signature.inputs) != ["image"] or list(signature.outputs) not in [[name] for name in _OUTPUTS]:
        yield f"it takes {list(signature.inputs)} and gives {list(signature.outputs)}"
        return
    if (tuple(signature.inputs.values()), tuple(signature.outputs.values())) != (graph.inputs, graph.outputs):
        yield "its signature and its graph have other inputs and outputs"
        return
    _signature, image, result = only_signature(model)
    if image.dtype not in ("float32", "uint8") or len(image.shape) != 4 or DYNAMIC in image.shape[1:]:
        yield f"its image is {image.dtype} {list(image.shape)}"
    elif result.dtype != "float32" or len(result.shape) != 2:
        yield f"its output is {result.dtype} {list(result.shape)}"


def _runtime_version(model: Model) -> Iterator[str]:
    unknown = [code for code in model.opcodes if code not in _BY_CODE]
    if unknown or len(set(model.opcodes)) != len(model.opcodes):
        yield f"it uses operators {unknown or list(model.opcodes)} (code and version)"
    elif RUNTIME_VERSION not in model.metadata:
        yield f"it has no {RUNTIME_VERSION}"
    elif model.content(model.metadata[RUNTIME_VERSION]) != runtime_version(_BY_CODE[code] for code in model.opcodes):
        yield f"its {RUNTIME_VERSION} is not that of its operators"


def _unused(model: Model) -> Iterator[str]:
    used = {0, *model.metadata.values(), *(tensor.buffer for graph in model.graphs for tensor in graph.tensors)}
    if unused := set(range(len(model.buffers))) - used:
        yield f"buffer {min(unused)} is not used"
    used_codes = {operation.opcode for graph in model.graphs for operation in graph.operations}
    if unused := set(range(len(model.opcodes))) - used_codes:
        yield f"operator {min(unused)} is not used"


def _labels(model: Model) -> Iterator[str]:
    """Behind the flatbuffer there is nothing but the archive of the labels that are in it."""
    expected = b""
    if LABELS in model.metadata:
        try:
            expected = labels_archive(model.content(model.metadata[LABELS]), model.end)
        except (msgspec.DecodeError, UnicodeError) as error:
            yield f"its {LABELS} cannot be read: {error}"
            return
    if model.data[model.end :] != expected:
        yield f"behind the model, at byte {model.end}, is something else than the archive of its labels"


def _graph(graph: Graph, model: Model) -> Iterator[str]:
    """Every tensor is a constant, the input, or made once by an operator before it is used."""
    made = set(graph.inputs)
    used = set(graph.outputs)
    constants = {index for index, tensor in enumerate(graph.tensors) if tensor.buffer}
    if constants & made:
        yield f"its input {graph.tensors[min(constants & made)].name} is a constant"
    for tensor in graph.tensors:
        if len(tensor.shape) > _LARGEST_RANK:
            yield f"{tensor.name} has rank {len(tensor.shape)}"
        elif DYNAMIC in tensor.shape[1:]:
            yield f"{tensor.name} has shape {list(tensor.shape)}"
    for operation in graph.operations:
        name = ", ".join(graph.tensors[index].name for index in operation.outputs)
        if missing := set(operation.inputs) - made - constants:
            yield f"{name} needs {graph.tensors[min(missing)].name}, which is not there yet"
        if again := set(operation.outputs) & (made | constants):
            yield f"{graph.tensors[min(again)].name} is made twice"
        if problem := _misfit(operation, graph, model):
            yield f"{name} cannot be: {problem}"
        made.update(operation.outputs)
        used.update(operation.inputs)
    if missing := set(graph.outputs) - made:
        yield f"its output {graph.tensors[min(missing)].name} is not made"
    if unused := set(range(len(graph.tensors))) - used:
        yield f"tensor {graph.tensors[min(unused)].name} is not used"


def _misfit(operation: Operation, graph: Graph, model: Model) -> str:
    """Why an operator does not make its output of its inputs, "" where it does."""
    builtin = _BY_CODE[model.opcodes[operation.opcode]]
    if OPTIONS_TABLES.get(operation.options_type, "") != builtin.options:
        return f"{builtin.name} has options of another operator"
    given = [graph.tensors[index] for index in operation.inputs]
    if tuple(tensor.dtype for tensor in given) != builtin.inputs:
        return f"{builtin.name} is given {[tensor.dtype for tensor in given]}"
    try:
        shape = builtin.infer(
            [Operand(tensor.dtype, tensor.shape, model.numbers(tensor)) for tensor in given], dict(operation.options)
        )
    except ValueError as error:
        return f"{builtin.name}: {error}"
    made = [(graph.tensors[index].dtype, graph.tensors[index].shape) for index in operation.outputs]
    if made != [(builtin.output, shape)]:
        return f"{builtin.name} makes {builtin.output} {list(shape)}, not {made}"
    return ""
