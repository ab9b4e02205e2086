"""What every TFLite file of ours promises, checked on the file itself, and that its operators fit each other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import msgspec

from hydra_export.errors import CheckFailed
from hydra_export.target import METADATA_PREFIX, STATIC, Interface, TensorInfo
from hydra_export.targets.tflite import counting
from hydra_export.targets.tflite.choice import RUN, Places, Question
from hydra_export.targets.tflite.metadata import LABELS, RUNTIME_VERSION, labels_archive, runtime_version
from hydra_export.targets.tflite.operators import BY_CODE, DYNAMIC, Operand, Operator
from hydra_export.targets.tflite.reader import (
    ALIGNMENT,
    OPTIONS_TABLES,
    Graph,
    ModelFile,
    Node,
    SignatureDef,
    Tensor,
    read,
)
from hydra_export.unchanged import Latest

SIGNATURE = "serving_default"  # the key that TensorFlow's own exporters give a model's only signature

_LARGEST_RANK = 4  # GPU delegates take no more
_RANKS = {"logits": 2, "features": 2, "patch_tokens": 3}  # of outputs
_PRODUCTS = {"int8-static": ("int8", "int16"), "w8a16": ("int16",)}  # what they take
_FEW_NUMBERS = 64  # of what is no weight: scalars, the mean and spread of pixels


def lint(path: Path) -> ModelFile:
    """Raises CheckFailed naming *path* and the first promise that it breaks; what the file says otherwise."""
    model = read(path)
    for check in (_interface, _runtime_version, _unused, _labels, _extents, _branches, _graphs, _choice, _precision):
        for problem in check(model):
            raise CheckFailed(f"{path} is not portable: {problem}.")
    return model


linted = Latest(lint)  # the same of the last file, where it has not changed since


def chosen(model: ModelFile, path: Path, heads: int) -> tuple[SignatureDef, Tensor, str]:
    """Of a file that lint passes, the signature of subnetwork *heads*, its image, and the signature that takes both.

    Raises:
        CheckFailed: the file does not hold that subnetwork.
    """
    by_key = {signature.key: signature for signature in model.signatures}
    key = SIGNATURE if SIGNATURE in by_key else f"k{heads}"
    if key not in by_key:
        listed = ", ".join(map(str, listed_heads(model)))
        raise CheckFailed(f"{path} does not contain subnetwork {heads}: it has {listed}.")
    signature = by_key[key]
    tensors = model.graphs[signature.graph].tensors
    return signature, tensors[signature.inputs["image"]], RUN if RUN in by_key else ""


def signature(model: ModelFile) -> Interface:
    """What a file that lint passes takes and gives, by the signature that takes most."""
    signature = max(model.signatures, key=lambda each: len(each.inputs))
    tensors = model.graphs[signature.graph].tensors
    inputs = tuple(_info(name, tensors[index]) for name, index in signature.inputs.items())
    (output,) = (_info(name, tensors[index]) for name, index in signature.outputs.items())
    widths = {
        model.graphs[each.graph].tensors[index].shape for each in model.signatures for index in each.outputs.values()
    }
    if len(widths) > 1:
        output = msgspec.structs.replace(output, shape=(*output.shape[:-1], "width"))
    return inputs, (output,)


def _info(name: str, tensor: Tensor) -> TensorInfo:
    shape = tuple("batch" if size == DYNAMIC else size for size in tensor.shape)
    scale = tensor.scales[0] if tensor.scales and tensor.dtype != "uint8" else None  # pixels are numbers
    return TensorInfo(name=name, dtype=tensor.dtype, shape=shape, scale=scale, zero_point=tensor.zero_point)


def _said(model: ModelFile, name: str) -> str:
    """An entry of ours."""
    buffer = model.metadata.get(f"{METADATA_PREFIX}{name}")
    return "" if buffer is None else model.content(buffer).decode(errors="replace")


def listed_heads(model: ModelFile) -> list[int]:
    """The head counts that the file says it holds, ascending; none if it says anything else."""
    listed = _said(model, "heads").split(",")
    if not all(text.isascii() and text.isdecimal() and len(text) < 6 for text in listed):
        return []
    heads = [int(text) for text in listed]
    return heads if heads == sorted({*heads} - {0}) else []


def _interface(model: ModelFile) -> Iterator[str]:
    """Either one graph and its signature, or the graphs of several subnetworks and those that choose among them."""
    heads, keys = listed_heads(model), [signature.key for signature in model.signatures]
    if not heads:
        yield f"it states the head counts {_said(model, 'heads')!r}"
        return
    is_universal = keys != [SIGNATURE]
    if is_universal:
        by_k = [f"k{k}" for k in reversed(heads)]
        num_graphs = {tuple(by_k): len(heads), (*by_k, RUN): 4 * len(heads)}.get(tuple(keys), 0)
    else:
        num_graphs = 1
    if len(model.graphs) != num_graphs or [signature.graph for signature in model.signatures] != list(range(len(keys))):
        yield f"it has other graphs and signatures than '{SIGNATURE}', or those of {heads}: {len(model.graphs)}, {keys}"
        return
    for signature in model.signatures:
        yield from _signature(signature, model)


def _signature(signature: SignatureDef, model: ModelFile) -> Iterator[str]:
    graph = model.graphs[signature.graph]
    takes = ["image", *(["k"] if signature.key == RUN else [])]
    if list(signature.inputs) != takes or list(signature.outputs) not in [[name] for name in _RANKS]:
        yield f"it takes {list(signature.inputs)} and outputs {list(signature.outputs)}"
        return
    if (tuple(signature.inputs.values()), tuple(signature.outputs.values())) != (graph.inputs, graph.outputs):
        yield "its signature and its graph have different inputs or outputs"
        return
    image, result = graph.tensors[graph.inputs[0]], graph.tensors[graph.outputs[0]]
    ends = ("float32", "int8", "int16") if _said(model, "precision") in STATIC else ("float32",)
    if image.dtype not in (*ends, "uint8") or len(image.shape) != 4 or DYNAMIC in image.shape[1:]:
        yield f"its image is {image.dtype} {list(image.shape)}"
    elif result.dtype not in ends or [len(result.shape)] != [_RANKS[name] for name in signature.outputs]:
        yield f"its output is {result.dtype} {list(result.shape)}"


def _choice(model: ModelFile) -> Iterator[str]:
    """The graphs that choose are the ones that we write, and the last one fails."""
    heads = listed_heads(model)
    if len(model.graphs) < 4 * len(heads):
        return
    places = Places(heads)
    first = places.first_question
    for k in heads:
        graph, branch = model.graphs[places.signature(k)], places.branch(k)
        called = [_branches_of(operation) for operation in graph.operations if _branches_of(operation)]
        if called not in ([], [(branch, branch)]) or (called and len(graph.operations) > 1):
            yield f"signature k{k} runs another graph than {branch}"
        elif called and not _is_true(model, graph.tensors[graph.operations[0].inputs[0]]):
            yield f"signature k{k} does not always run its graph"
    for question, graph in zip(places.questions(), model.graphs[first:], strict=False):
        yield from _question(question, graph, model)
    names = [operator_of(model, operation).name for operation in model.graphs[-1].operations]
    if [name for name in names[-3:] if name != "QUANTIZE"][-2:] != ["GATHER", "MUL"]:
        yield f"graph {model.graphs[-1].name} does not fail"


def _question(question: Question, graph: Graph, model: ModelFile) -> Iterator[str]:
    named = f"graph {graph.name} does not test whether k is {question.compare} {question.number}"
    if len(graph.inputs) != 2 or [operator_of(model, operation).name for operation in graph.operations] != [
        question.compare,
        "IF",
    ]:
        yield named
        return
    (image, k), (compare, branch) = graph.inputs, graph.operations
    number = model.numbers(graph.tensors[compare.inputs[1]])
    if compare.inputs[0] != k or number is None or number.tolist() != [question.number]:
        yield named
    given = (image, k) if question.passed_on else (image,)
    if (_branches_of(branch), branch.inputs) != (question.graphs, (*compare.outputs, *given)):
        yield f"graph {graph.name} goes on to other graphs than {question.graphs}"


def operator_of(model: ModelFile, operation: Node) -> Operator:
    """What an operation does."""
    return BY_CODE[model.opcodes[operation.opcode]]


def _branches_of(operation: Node) -> tuple[int, ...]:
    """Where an IF goes on to."""
    named = ("then_subgraph_index", "else_subgraph_index")
    return tuple(operation.options[name] for name in named if name in operation.options)


def _is_true(model: ModelFile, tensor: Tensor) -> bool:
    return tensor.buffer > 0 and model.content(tensor.buffer) == b"\1"


def _branches(model: ModelFile) -> Iterator[str]:
    """IFs lead to later graphs, which take and make what the IF does; so no graph comes back to itself."""
    for place, graph in enumerate(model.graphs):
        for operation in graph.operations:
            for index in _branches_of(operation):
                if not place < index < len(model.graphs):
                    yield f"graph {graph.name} goes on to graph {index} of {len(model.graphs)}"
                    continue
                other = model.graphs[index]
                given, made = (
                    [_form(graph.tensors[i]) for i in ids] for ids in (operation.inputs[1:], operation.outputs)
                )
                takes, makes = ([_form(other.tensors[i]) for i in ids] for ids in (other.inputs, other.outputs))
                if (takes, makes) != (given, made):
                    yield f"graph {graph.name} goes on to {other.name}, which has other inputs or outputs"


def _form(tensor: Tensor) -> tuple[object, ...]:
    return *tensor.grid, tensor.shape


def _precision(model: ModelFile) -> Iterator[str]:
    """The weights are as narrow as the file says: a quantization that did nothing is an error."""
    said = _said(model, "precision")
    if said in STATIC:
        fails = len(model.graphs) == 4 * len(listed_heads(model))  # the last graph, in floats
        yield from counting.problems(model.graphs[: len(model.graphs) - fails], model, _PRODUCTS[said])
        return
    if said not in ("fp32", "fp16", "int8"):
        yield f"its precision is {said!r}"
        return
    for graph in model.graphs:
        matrices = {
            operation.inputs[1]
            for operation in graph.operations
            if operator_of(model, operation).name == "FULLY_CONNECTED" and len(operation.inputs) > 1
        }
        for index, tensor in enumerate(graph.tensors):
            is_weight = (
                bool(tensor.buffer) and tensor.dtype not in ("int32", "bool") and math.prod(tensor.shape) > _FEW_NUMBERS
            )
            wanted = "float32"
            if said == "fp16":
                wanted = "float16"
            elif said == "int8" and index in matrices:
                wanted = "int8"
            if (is_weight or (index in matrices and said != "fp16")) and tensor.dtype != wanted:
                yield f"{tensor.name} is {tensor.dtype} {list(tensor.shape)} in a file that is {said}"
            is_counted = tensor.dtype == "int8" and bool(tensor.buffer)
            if len(tensor.scales) != (tensor.shape[0] if is_counted else 0) or tensor.zero_point:
                yield f"{tensor.name} is {tensor.dtype} with or without a scale"


def _extents(model: ModelFile) -> Iterator[str]:
    """Behind the flatbuffer, content lies side by side, and weights of one name begin at one place."""
    regions: dict[int, int] = {}
    for extent in model.buffers:
        if extent.behind:
            regions[extent.start] = max(extent.size, regions.get(extent.start, 0))
    end = 0
    for start, size in sorted(regions.items()):
        if end and not end <= start < end + ALIGNMENT:
            yield f"content at byte {start} begins within or far from what ends at byte {end}"
        end = start + size
    places: dict[str, int] = {}
    for i, graph in enumerate(model.graphs):
        for tensor in graph.tensors:
            extent, weight = model.buffers[tensor.buffer], tensor.name.removeprefix(f"{i}/")
            if extent.behind and places.setdefault(weight, extent.start) != extent.start:
                yield f"{weight} is at byte {places[weight]} and at byte {extent.start}"
    if len(set(places.values())) != len(places):
        yield "two weights are in one place"


def _runtime_version(model: ModelFile) -> Iterator[str]:
    unknown = [code for code in model.opcodes if code not in BY_CODE]
    if unknown or len(set(model.opcodes)) != len(model.opcodes):
        yield f"it uses operators {unknown or list(model.opcodes)} (code and version)"
    elif RUNTIME_VERSION not in model.metadata:
        yield f"it has no {RUNTIME_VERSION}"
    elif model.content(model.metadata[RUNTIME_VERSION]) != runtime_version(
        (BY_CODE[code] for code in model.opcodes), any(extent.behind for extent in model.buffers)
    ):
        yield f"its {RUNTIME_VERSION} is not that of its operators"


def _unused(model: ModelFile) -> Iterator[str]:
    used = {0, *model.metadata.values(), *(tensor.buffer for graph in model.graphs for tensor in graph.tensors)}
    if unused := set(range(len(model.buffers))) - used:
        yield f"buffer {min(unused)} is not used"
    used_codes = {operation.opcode for graph in model.graphs for operation in graph.operations}
    if unused := set(range(len(model.opcodes))) - used_codes:
        yield f"operator {min(unused)} is not used"


def _labels(model: ModelFile) -> Iterator[str]:
    """Behind the flatbuffer there is nothing but the archive of the labels that are in it."""
    expected = b""
    if LABELS in model.metadata:
        try:
            expected = labels_archive(model.content(model.metadata[LABELS]), model.end)
        except (msgspec.DecodeError, UnicodeError) as error:
            yield f"its {LABELS} cannot be read: {error}"
            return
    if model.data[model.end :] != expected:
        yield f"after the model, at byte {model.end}, is something other than the archive of its labels"


def _graphs(model: ModelFile) -> Iterator[str]:
    for graph in model.graphs:
        yield from _graph(graph, model)
        yield from _tokens(graph, model)
    operations = [operation for graph in model.graphs for operation in graph.operations]
    if len({operation.options["approximate"] for operation in operations if "approximate" in operation.options}) > 1:
        yield "it mixes exact GELUs and tanh GELUs"


def _graph(graph: Graph, model: ModelFile) -> Iterator[str]:
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
            yield f"{name} needs {graph.tensors[min(missing)].name}, which is not computed yet"
        if again := set(operation.outputs) & (made | constants):
            yield f"{graph.tensors[min(again)].name} is computed twice"
        if problem := _misfit(operation, graph, model):
            yield f"{name} cannot be: {problem}"
        made.update(operation.outputs)
        used.update(operation.inputs)
    if missing := set(graph.outputs) - made:
        yield f"its output {graph.tensors[min(missing)].name} is not computed"
    if unused := set(range(len(graph.tensors))) - used:
        yield f"tensor {graph.tensors[min(unused)].name} is not used"


def _tokens(graph: Graph, model: ModelFile) -> Iterator[str]:
    """What is taken of the tokens begins at the first, or at the patches; of a distilled model's two it may be one."""
    prefix = 0
    for operation in graph.operations:
        name, given = operator_of(model, operation).name, [graph.tensors[index] for index in operation.inputs]
        if name == "PAD":
            prefix = _number(model, given[1], 2)
        if name == "STRIDED_SLICE" and len(given[0].shape) == 3 and given[0].shape[1] > 2:
            begin = _number(model, given[1], 1)
            if begin not in (0, prefix):
                yield f"it takes tokens from {begin} on, after {prefix} that are not patches"


def _number(model: ModelFile, tensor: Tensor, place: int) -> int:
    numbers = model.numbers(tensor)
    assert numbers is not None  # as the operator's rule has it
    return int(numbers.flat[place])


def _misfit(operation: Node, graph: Graph, model: ModelFile) -> str:
    """Why an operator does not make its output of its inputs, "" where it does."""
    builtin = operator_of(model, operation)
    if OPTIONS_TABLES.get(operation.options_type, "") != builtin.options:
        return f"{builtin.name} has options of another operator"
    given = [graph.tensors[index] for index in operation.inputs]
    if builtin.name == "IF":
        return _wrong_if([_form(tensor) for tensor in given], len(operation.outputs))
    output = builtin.output(tuple(tensor.dtype for tensor in given))
    if not output:
        return f"{builtin.name} is given {[tensor.dtype for tensor in given]}"
    try:
        shape = builtin.infer(
            [Operand(tensor.dtype, tensor.shape, model.numbers(tensor)) for tensor in given], dict(operation.options)
        )
    except ValueError as error:
        return f"{builtin.name}: {error}"
    made = [(graph.tensors[index].dtype, graph.tensors[index].shape) for index in operation.outputs]
    if made != [(output, shape)]:
        return f"{builtin.name} outputs {output} {list(shape)}, not {made}"
    return ""


def _wrong_if(given: list[tuple[object, ...]], num_outputs: int) -> str:
    """What its branches take and make is another check's."""
    return "" if given[:1] == [("bool", (), 0, (1,))] and num_outputs == 1 else f"IF is given {given}"
