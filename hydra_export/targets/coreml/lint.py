"""What every package of ours promises, checked on the files themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hydra_export import files, mil
from hydra_export.errors import CheckFailed
from hydra_export.mil.constants import Constant
from hydra_export.mil.types import NAMED, TensorType
from hydra_export.target import METADATA_PREFIX, Work
from hydra_export.targets.coreml import folder, graph
from hydra_export.targets.coreml.session import opened

_LARGEST_RANK = 4  # what the Neural Engine takes
_OPERATIONS = {
    *("add", "cast", "concat", "conv", "gelu", "identity", "layer_norm", "linear"),
    *("mul", "reshape", "slice_by_index", "softmax", "squeeze", "transpose", "classify"),
    *("reduce_max", "reduce_mean", "relu", "silu"),
}
_POOL: dict[str, Any] = {"axes": (1,), "keep_dims": True}  # what reductions are there for
_ATTENTION = ({"matmul"}, {"scaled_dot_product_attention"})
_DEQUANTIZE = ("constexpr_affine_dequantize", "constexpr_blockwise_shift_scale")  # of iOS 16, of iOS 18
_PRODUCTS = ("linear", "conv")
_WIDTHS = {  # of matrices, of all else
    "fp32": ("fp32", "fp32"),
    "fp16": ("fp16", "fp16"),
    "int8": ("int8", "fp16"),
    "int8-static": ("int8", "fp16"),
}
_METADATA = {"description", "version", "author", "license"}


def lint(path: Path) -> Work:
    """Raises CheckFailed naming *path* and the first promise that it breaks; what a run of it takes otherwise."""
    package = opened.afresh(path)
    for problem in (*_files(path), *_program(package), *_description(package)):
        raise CheckFailed(f"{path} is not portable: {problem}.")
    functions = package.functions.values()
    largest = max(
        kind.size * NAMED[kind.dtype].bits // 8
        for function in functions
        for step in function.steps
        for _, kind in step.outputs
        if isinstance(kind, TensorType)
    )
    return Work(macs=sum(function.macs for function in functions), tensor_bytes=largest)


def _files(path: Path) -> Iterator[str]:
    present = {each.relative_to(path).as_posix() for each in path.rglob("*") if not each.is_dir()}
    if present != set(folder.FILES):
        yield f"it contains {sorted(present)}"
        return
    digest = files.sha256(path / folder.MODEL)
    if files.read(path / folder.MANIFEST, files.MIB) != folder.manifest(digest):
        yield f"its {folder.MANIFEST} does not match its model"


def _program(package: mil.Package) -> Iterator[str]:
    yield from _functions(package)
    allowed = _OPERATIONS | ({_DEQUANTIZE[package.ios >= 18]} if _precision(package).startswith("int8") else set())
    allowed |= {"quantize", "dequantize"} if _precision(package) == "int8-static" else set()
    for function in package.functions.values():
        if function.ios != package.ios:
            yield f"it states iOS {package.ios}, but its operations are those of iOS {function.ios}"
        others = function.operations - allowed
        if others not in _ATTENTION:
            yield f"it uses operations {sorted(others)}"
        for step in function.steps:
            if step.operation.name.startswith("reduce_") and step.static != _POOL:
                yield f"{step.label} has {step.static}, and tokens are pooled by {_POOL}"
        for declared in function.types:
            if (rank := getattr(declared, "rank", 0)) > _LARGEST_RANK:
                yield f"a value has rank {rank}"
        for name in function.unused:
            yield f"constant {name} is not used"
        yield from _precisions(function, _precision(package))
        if _precision(package) == "int8-static":
            yield from _integers(function)
    if package.weight_files != (folder.WEIGHTS,):
        yield f"its weights are in {list(package.weight_files)}"
        return
    yield from _weights(package)
    yield from _sharing(package)


def _functions(package: mil.Package) -> Iterator[str]:
    """Of one head count ``main``, or a function for each that it lists, of which the last is the default."""
    listed = package.user_metadata.get(f"{METADATA_PREFIX}heads", "").split(",")
    names = ["main"] if set(package.functions) == {"main"} and len(listed) == 1 else [f"k{each}" for each in listed]
    if set(package.functions) != set(names):
        yield f"it has functions {sorted(package.functions)} but states heads {','.join(listed)}"
    elif package.default_function != names[-1]:
        yield f"its default function is {package.default_function}, but {names[-1]} is the largest"


def _precision(package: mil.Package) -> str:
    return package.user_metadata.get(f"{METADATA_PREFIX}precision", "")


def _precisions(function: mil.Function, said: str) -> Iterator[str]:
    """Everything is as narrow as the package says: a quantization that did nothing is an error."""
    if said not in _WIDTHS:
        yield f"its precision is {said!r}"
        return
    matrix, other = _WIDTHS[said]
    for name, constant in _matrices(function):
        if (dtype := _dtype(constant)) != matrix:
            yield f"the weight of {name} is {dtype} in a package that is {said}"
    for constant in function.every_constant:
        if constant.offset is not None and _dtype(constant) not in (matrix, other):
            yield f"a constant is {constant.type} in a package that is {said}"


def _integers(function: mil.Function) -> Iterator[str]:
    """Products take integers, which come back by the scale and zero point that made them."""
    made = {name: step for step in function.steps for name, _ in step.outputs}
    for step in function.steps:
        if step.operation.name == "dequantize":
            source = made[step.values["input"]]
            for key in ("scale", "zero_point"):
                if _number(function, step.values[key]) != _number(function, source.values.get(key)):
                    yield f"{step.label} has another {key} than {source.label}"
    dequantized = {name for name, step in made.items() if step.operation.name == "dequantize"}
    if not any(step.operation.name in _PRODUCTS and step.values["x"] in dequantized for step in function.steps):
        yield "it is int8-static, but none of its products takes integers"


def _number(function: mil.Function, given: Any) -> float | None:
    constant = given if isinstance(given, Constant) else function.constants.get(given)
    return None if constant is None else float(constant.static)


def _dtype(constant: Constant | None) -> str:
    return constant.type.dtype if constant and isinstance(constant.type, TensorType) else "computed"


def _matrices(function: mil.Function) -> Iterator[tuple[str, Constant | None]]:
    """What the products multiply with, as it is stored, by the names of their results."""
    made = {name: step for step in function.steps if step.operation.is_constexpr for name, _ in step.outputs}
    for step in function.steps:
        if step.operation.name in _PRODUCTS:
            weight = step.values["weight"]
            if weight in made:
                values = made[weight].values
                weight = values.get("data", values.get("quantized_data"))
            yield step.outputs[0][0], weight if isinstance(weight, Constant) else function.constants.get(weight)


def _weights(package: mil.Package) -> Iterator[str]:
    """The weight file holds what the program uses, one after the other, each once, and nothing else."""
    saved = {
        constant.offset: constant
        for function in package.functions.values()
        for constant in function.every_constant
        if constant.offset is not None
    }
    place, seen = 64, set()
    for offset in sorted(saved):
        constant = saved[offset]
        assert isinstance(constant.type, TensorType)
        if offset != place:
            yield f"its weight file has unused content at {place}"
            return
        place = offset + 64 + -(-constant.type.size * NAMED[constant.type.dtype].bits // 512) * 64
        key = (constant.type.dtype, hashlib.sha256(np.ascontiguousarray(constant.read()).data).digest())
        if key in seen:
            yield f"its weight file has the same content at {offset} as before"
        seen.add(key)
    size = (package.path / folder.WEIGHTS).stat().st_size
    if not place - 64 < size <= place:
        yield f"its weight file has {size} bytes, of which {place} are used"


def _sharing(package: mil.Package) -> Iterator[str]:
    """Smaller subnetworks use the matrices of the largest; classifiers may be their own."""
    offsets = {
        name: {constant.offset: result for result, constant in _matrices(function) if constant}
        for name, function in package.functions.items()
    }
    for name, used in offsets.items():
        own = used.keys() - offsets[package.default_function].keys() - {None}
        if not all(used[offset].startswith((graph.HEAD, graph.LOGITS)) for offset in own):
            yield f"{len(own)} matrices of function {name} are not those of {package.default_function}"


def _description(package: mil.Package) -> Iterator[str]:
    if package.build_info or set(package.metadata) - _METADATA:
        yield "it contains build information, which differs between machines"
    foreign = [name for name in package.user_metadata if not name.startswith(METADATA_PREFIX)]
    if foreign:
        yield f"it has the metadata {foreign[0]!r}"
    for signature in package.signatures.values():
        names = [each.name for each in signature.outputs]
        if [each.name for each in signature.inputs] != ["image"] or not {*graph.OUTPUTS} & set(names):
            yield "it has inputs or outputs other than an image and logits"
        if not all(each.description for each in (*signature.inputs, *signature.outputs)):
            yield "an input or output has no description"
