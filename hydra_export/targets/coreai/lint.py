"""What every asset of ours promises, checked on the files themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from math import prod
from pathlib import Path

import numpy as np

from hydra_export.errors import CheckFailed
from hydra_export.target import METADATA_PREFIX, Work
from hydra_export.targets.coreai import folder, reader
from hydra_export.targets.coreai.asset import function_of
from hydra_export.targets.coreai.description import AssetGraph, AssetOperation, AssetTensor

_LARGEST_RANK = 4  # what the Neural Engine takes
_BYTES = {"f32": 4, "f16": 2, "si8": 1, "ui8": 1, "si32": 4, "ui32": 4}
_WIDTHS = {"fp32": ("f32", "f32"), "fp16": ("f16", "f16"), "int8": ("si8", "f16")}  # of Linears, of all else
_CONSTANT, _CALL, _DEQUANTIZE, _OUTPUT = (f"coreai.{name}" for name in ("constant", "invoke", "dequantize", "output"))
_ELEMENTWISE = tuple(f"coreai.decomposable.broadcasting_{name}" for name in ("add", "mul", "sub"))
_REDUCTIONS = ("coreai.reduce_max", "coreai.reduce_mean")
_LINEAR, _CONVOLUTION = "coreai.decomposable.broadcasting_batch_matmul", "coreai.conv2d"
_OPERATIONS = {
    *(_CONSTANT, _CALL, _OUTPUT, _LINEAR, _CONVOLUTION, *_ELEMENTWISE),
    *(f"coreai.{name}" for name in ("cast", "concat", "gelu", "relu", "reshape", "silu", "slice", "transpose")),
    *_REDUCTIONS,
}
_ALLOWED = {  # in graphs that functions call, by what each stands for
    "layer_norm": {_CONSTANT, _OUTPUT, *_ELEMENTWISE, "coreai.reduce_mean", "coreai.rsqrt"},
    "attention": {_CONSTANT, _OUTPUT, _LINEAR, "coreai.softmax", "coreai.transpose"},
    "beginning": {_CONSTANT, _OUTPUT, "coreai.slice"},
}
_FLOAT = r"(\d\.\d+(?:[eE][-+]?\d+)?)"
_NORM = re.compile(
    rf'#coreai\.composite_declaration<"layer_norm" = \{{.*axes = \[([23]) : si64\], eps = {_FLOAT} : f32, .*\}}>'
)
_SDPA = re.compile(
    r'#coreai\.composite_declaration<"scaled_dot_product_attention" = '
    r"\{.*is_causal = false, scale = (1\.0+e\+00) : f32, .*window_size = 0 : si64\}.*\}>"
)
_COMPOSITES = {"layer_norm": _NORM, "attention": _SDPA, "beginning": re.compile("()")}
_NUMBER = re.compile(rf"dense<{_FLOAT}> : tensor<f(?:16|32)>")
_OF_CLASSIFIER = re.compile(r"dense_resource<head(_dist)?\.k\d+\.weight>")
_OUTPUTS = ("logits", "features", "patch_tokens")
_HEADS = re.compile(r"\d{1,5}(,\d{1,5})*", re.ASCII)
_CALLEE = re.compile(r"#param\.constant<@(\w+)> : !param\.symbol")
_FUNCTION = {"arg_attrs", "function_type", "param_decls", "res_attrs", "sym_name"}
_CALLED = _FUNCTION | {"composite_decl", "no_inline", "priv"}
_GELUS = {"", *(f"#coreai.approximate<{name}>" for name in ("none", "tanh", "sigmoid"))}


def lint(path: Path) -> Work:
    """Raises CheckFailed naming *path* and the first promise that it breaks; what a run of it takes otherwise."""
    folder.check_metadata(path)
    graphs = {graph.name: graph for graph in reader.described.afresh(path)}
    said = {name.removeprefix(METADATA_PREFIX): text for name, text in folder.metadata(path).items()}
    functions = [graph for graph in graphs.values() if graph.is_function]
    for problem in _problems(graphs, functions, said):
        raise CheckFailed(f"{path} is not portable: {problem}.")
    computed = [
        kind
        for graph in graphs.values()
        for operation in graph.operations
        if operation.name != _CONSTANT
        for kind in operation.results
    ]
    return Work(
        macs=sum(_macs(function, graphs) for function in functions),
        tensor_bytes=max(_BYTES[kind.dtype] * prod(kind.shape) for kind in computed),
    )


def _problems(
    graphs: Mapping[str, AssetGraph], functions: Sequence[AssetGraph], said: Mapping[str, str]
) -> Iterator[str]:
    """What is relied on comes before what relies on it: a caller stops at the first."""
    for graph in graphs.values():
        yield from _graph(graph)
    yield from _interface(functions, said)
    yield from _calls(graphs, functions)
    if said.get("precision") not in _WIDTHS:
        yield f"its precision is {said.get('precision')!r}"
    for function in functions:
        yield from _precision(function, said["precision"])
    yield from _sharing(functions)


def _graph(graph: AssetGraph) -> Iterator[str]:
    """A function, or what it says that it stands for, and nothing that says where it was made or lies elsewhere."""
    if graph.is_function:
        yield from _operations(graph, _OPERATIONS | {_DEQUANTIZE}, _FUNCTION)
        yield from _pools(graph)
        return
    kind = next((kind for kind in _ALLOWED if graph.name.startswith(f"{kind}_")), "")
    if not kind:
        yield f"it has a graph {graph.name[:40]!r}"
        return
    yield from _operations(graph, _ALLOWED[kind], _CALLED)
    if not _COMPOSITES[kind].fullmatch(graph.attributes.get("composite_decl", "")):
        yield f"{graph.name} does not declare the operation that it replaces"
    elif kind == "layer_norm":
        yield from _epsilon(graph)


def _operations(graph: AssetGraph, allowed: Set[str], attributes: Set[str]) -> Iterator[str]:
    if others := {*graph.attributes} - attributes:
        yield f"{graph.name} has the attributes {sorted(others)}"
    for operation in graph.operations:
        if operation.name not in allowed:
            yield f"{graph.name} uses operation {operation.name}"
        if not operation.is_plain or {*operation.attributes} - {"approximate", "callee", "value"}:
            yield f"{operation.name} has a source location or other extra attributes"
        if operation.attributes.get("approximate", "") not in _GELUS:
            yield "its GELU is an unknown approximation"
    results = [(operation.name, tensor) for operation in graph.operations for tensor in operation.results]
    for name, tensor in (*graph.inputs, *results):
        if tensor.dtype not in _BYTES or len(tensor.shape) > _LARGEST_RANK or min(tensor.shape, default=1) < 1:
            yield f"{name} is {tensor.dtype} {list(tensor.shape)}"


def _pools(graph: AssetGraph) -> Iterator[str]:
    """What functions reduce is the axis of tokens, which stays."""
    kinds = [tensor for _, tensor in graph.inputs]
    for operation in graph.operations:
        if operation.name in _REDUCTIONS:
            given, pooled = kinds[operation.operands[0]].shape, operation.results[0].shape
            if len(given) != 3 or pooled != (given[0], 1, given[2]):
                yield f"{operation.name} turns {list(given)} into {list(pooled)}"
        kinds += operation.results


def _epsilon(graph: AssetGraph) -> Iterator[str]:
    """What a device that has the declared operation computes is what was verified: over which axis, adding what."""
    declared = _NORM.fullmatch(graph.attributes["composite_decl"])
    constants = [each.attributes["value"] for each in graph.operations if each.name == _CONSTANT]
    added = [float(found[1]) for value in constants if (found := _NUMBER.fullmatch(value))]
    last = len(graph.inputs[0][1].shape) - 1
    if declared is not None and int(declared[1]) != last:
        yield f"{graph.name} declares axis {declared[1]}, but works over axis {last}"
    if declared is None or len(added) != 1:
        yield f"{graph.name} adds {added} to the variance"
        return
    narrow = np.float16 if graph.inputs[0][1].dtype == "f16" else np.float32
    with np.errstate(over="ignore"):
        expected = max(float(narrow(float(declared[2]))), float(np.finfo(narrow).smallest_subnormal))
    if abs(added[0] - expected) > 1e-5 * expected:
        yield f"{graph.name} declares to add {declared[2]} to the variance, and adds {added[0]:g}"


def _interface(functions: Sequence[AssetGraph], said: Mapping[str, str]) -> Iterator[str]:
    """A function for each head count that is listed, and what they take and give."""
    listed, alone = said.get("heads", ""), said.get("graph") == "separate"
    heads = listed.split(",") if _HEADS.fullmatch(listed) else []
    expected = sorted(function_of(int(k), alone) for k in heads)
    if not heads or sorted(graph.name for graph in functions) != expected:
        yield f"it has functions {[graph.name for graph in functions]} but states heads {listed[:80]}"
    taken = "ui8" if said.get("input") == "image" else "f32"
    for graph in functions:
        inputs, outputs = ([(name, tensor.dtype) for name, tensor in each] for each in (graph.inputs, graph.outputs))
        if inputs != [("image", taken)] or outputs not in ([(name, "f32")] for name in _OUTPUTS):
            yield f"{graph.name} takes {inputs} and outputs {outputs}"
    if len({graph.inputs for graph in functions}) != 1:
        yield "its functions take different images"


def _calls(graphs: Mapping[str, AssetGraph], functions: Sequence[AssetGraph]) -> Iterator[str]:
    """Functions call graphs that there are, and there are no others."""
    called = {_callee(each) for graph in functions for each in graph.operations if each.name == _CALL}
    others = {graph.name for graph in graphs.values() if not graph.is_function}
    if called != others:
        yield f"it has graphs {sorted(others ^ called)[:4]} that are not called, or that are called and missing"


def _precision(function: AssetGraph, said: str) -> Iterator[str]:
    """Every product is as narrow as the asset says: a quantization that did nothing is an error."""
    linear, other = _WIDTHS[said]
    for operation in function.operations:
        if operation.name in (_LINEAR, _CONVOLUTION):
            weight = _weight(function, operation)
            wanted = linear if operation.name == _LINEAR else other
            found = weight.results[0].dtype if weight else "computed"
            if found != wanted or operation.results[0].dtype != other:
                yield f"a product of {found} outputs {operation.results[0].dtype} in an asset that is {said}"


def _sharing(functions: Sequence[AssetGraph]) -> Iterator[str]:
    """Smaller subnetworks use the matrices of the largest; classifiers may be their own."""
    products = (_LINEAR, _CONVOLUTION)
    weights = {
        graph.name: {
            weight.attributes["value"]
            for operation in graph.operations
            if operation.name in products and (weight := _weight(graph, operation))
        }
        for graph in functions
    }
    largest = max(weights, key=lambda name: int(name.removeprefix("k")) if name != "main" else 0)
    for name, used in weights.items():
        if own := [each for each in used - weights[largest] if not _OF_CLASSIFIER.match(each)]:
            yield f"{len(own)} matrices of function {name} are not those of {largest}"


def _weight(graph: AssetGraph, product: AssetOperation) -> AssetOperation | None:
    """The constant that *product* multiplies with, whole or a part of it; None where it is computed."""
    made: list[AssetOperation | None] = [None] * len(graph.inputs)
    for operation in graph.operations:
        made += [operation] * len(operation.results)
    source = made[product.operands[1]]
    while source is not None and (
        source.name == _DEQUANTIZE or (source.name == _CALL and _callee(source).startswith("beginning_"))
    ):
        source = made[source.operands[0]]
    return source if source is not None and source.name == _CONSTANT else None


def _callee(call: AssetOperation) -> str:
    found = _CALLEE.fullmatch(call.attributes.get("callee", ""))
    return found[1] if found else ""


def _macs(graph: AssetGraph, graphs: Mapping[str, AssetGraph]) -> int:
    kinds: list[AssetTensor] = [tensor for _, tensor in graph.inputs]
    total = 0
    for operation in graph.operations:
        if operation.name == _LINEAR:
            total += prod(operation.results[0].shape) * kinds[operation.operands[0]].shape[-1]
        elif operation.name == _CONVOLUTION:
            total += prod(operation.results[0].shape) * prod(kinds[operation.operands[1]].shape[1:])
        elif operation.name == _CALL:
            total += _macs(graphs[_callee(operation)], graphs)
        kinds += operation.results
    return total
