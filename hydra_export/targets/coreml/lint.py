"""What every package of ours promises, checked on the files themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from hydra_export import mil
from hydra_export.errors import CheckFailed
from hydra_export.mil.types import NAMED, TensorType
from hydra_export.targets.coreml import folder, graph

_LARGEST_RANK = 4  # what the Neural Engine takes
_OPERATIONS = {
    *("add", "cast", "concat", "conv", "gelu", "identity", "layer_norm", "linear"),
    *("mul", "reshape", "slice_by_index", "softmax", "squeeze", "transpose", "classify"),
}
_ATTENTION = ({"matmul"}, {"scaled_dot_product_attention"})
_METADATA = {"description", "version", "author", "license"}


def lint(path: Path) -> None:
    """Raises CheckFailed naming *path* and the first promise that it breaks."""
    package = mil.load(path)
    for problem in (*_files(path), *_program(package), *_description(package)):
        raise CheckFailed(f"{path} is not portable: {problem}.")


def _files(path: Path) -> Iterator[str]:
    present = {each.relative_to(path).as_posix() for each in path.rglob("*") if not each.is_dir()}
    if present != set(folder.FILES):
        yield f"it holds {sorted(present)}"
        return
    digest = hashlib.sha256((path / folder.MODEL).read_bytes()).hexdigest()
    if (path / folder.MANIFEST).read_bytes() != folder.manifest(digest):
        yield f"its {folder.MANIFEST} is not the one that goes with its model"


def _program(package: mil.Package) -> Iterator[str]:
    if set(package.functions) != {"main"}:
        yield f"it has functions {sorted(package.functions)}"
    for function in package.functions.values():
        if function.ios != package.ios:
            yield f"it says iOS {package.ios} and its operations are those of iOS {function.ios}"
        others = function.operations - _OPERATIONS
        if others not in _ATTENTION:
            yield f"it uses operations {sorted(others)}"
        for declared in function.types:
            if (rank := getattr(declared, "rank", 0)) > _LARGEST_RANK:
                yield f"a value has rank {rank}"
        for name in function.unused:
            yield f"constant {name} is not used"
    if package.weight_files != (folder.WEIGHTS,):
        yield f"its weights lie in {list(package.weight_files)}"
        return
    yield from _weights(package)


def _weights(package: mil.Package) -> Iterator[str]:
    """The weight file holds what the program uses, one after the other, and nothing else."""
    sizes = {
        constant.offset: constant.type.size * NAMED[constant.type.dtype].bits // 8
        for function in package.functions.values()
        for constant in function.constants.values()
        if constant.offset is not None and isinstance(constant.type, TensorType)
    }
    place = 64
    for offset in sorted(sizes):
        if offset != place:
            yield f"its weight file holds something at {place} that is not used"
            return
        place = offset + 64 + -(-sizes[offset] // 64) * 64
    size = (package.path / folder.WEIGHTS).stat().st_size
    if not place - 64 < size <= place:
        yield f"its weight file has {size} bytes, used are {place}"


def _description(package: mil.Package) -> Iterator[str]:
    if package.build_info or set(package.metadata) - _METADATA:
        yield "it says how it was built, which differs between machines"
    foreign = [name for name in package.user_metadata if not name.startswith("hydra_export.")]
    if foreign:
        yield f"it has the metadata {foreign[0]!r}"
    for signature in package.signatures.values():
        names = [each.name for each in signature.outputs]
        if [each.name for each in signature.inputs] != ["image"] or not {graph.LOGITS, graph.FEATURES} & set(names):
            yield "it has other inputs and outputs than an image and logits"
        if not all(each.description for each in (*signature.inputs, *signature.outputs)):
            yield "an input or output has no description"
