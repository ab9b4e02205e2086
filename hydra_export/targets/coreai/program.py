"""What the process beside ours does with an asset: Apple's reader and runtime end the process that they fail in."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from coreai._compiler._mlir_libs._coreaiIR._bindings.compiler import copy_constant_value_to_array
from coreai._compiler.ir import (
    DenseElementsAttr,
    DenseResourceElementsAttr,
    F16Type,
    F32Type,
    FunctionType,
    Location,
    RankedTensorType,
    TypeAttr,
)
from coreai.authoring import AIModelAsset
from coreai.runtime import NDArray

from hydra_export.arrays import Array
from hydra_export.targets.coreai.description import AssetGraph, AssetOperation, AssetTensor

_CONSTANT, _CAST = "coreai.constant", "coreai.cast"
_NOWHERE = '#debuginfo.location<loc("-":0:0) in unit>'  # of what has no place in a source file
_open: _Opened | None = None  # the latest, which the next run may be of as well


def describe(path: str) -> list[dict[str, Any]]:
    """Every graph of the asset at *path*, as ``AssetGraph`` has them."""
    asset = AIModelAsset.load(path)
    summary = asset.summary(include_statistics=False)
    functions = list(summary.function_names) if summary else []
    graphs = [_graph(each, functions) for each in asset.program._module._mlir_module.body.operations]
    return msgspec.to_builtins(graphs)  # type: ignore[no-any-return]


def run(path: str, stamp: str, function: str, wide: bool, images: list[Array], name: str, output: str) -> list[Array]:
    """What *function* of the asset at *path* gives for each of *images*.

    Args:
        stamp: another one where the asset has changed.
        wide: in float32, whatever the program says: its weights are as they are stored.
        name, output: of its input and its output.
    """
    global _open
    if _open is None or _open.key != (path, stamp, wide):
        if _open is not None:
            _open.close()
        _open = _Opened(path, stamp, wide)
    return _open.run(function, images, name, output)


class _Opened:
    """An asset in Apple's runtime, whose calls are all made within one event loop."""

    def __init__(self, path: str, stamp: str, wide: bool) -> None:
        self.key = (path, stamp, wide)
        self._loop, self._ends = asyncio.new_event_loop(), contextlib.AsyncExitStack()
        asset = AIModelAsset.load(path)
        with tempfile.TemporaryDirectory() as folder:
            opening = (_widened(asset, Path(folder)) if wide else asset).executable()
            self._model = self._loop.run_until_complete(self._ends.enter_async_context(opening))

    def run(self, function: str, images: list[Array], name: str, output: str) -> list[Array]:
        loaded = self._model.load_function(function)

        async def every() -> list[Array]:
            return [(await loaded({name: NDArray(image)}))[output].numpy() for image in images]

        return self._loop.run_until_complete(every())

    def close(self) -> None:
        self._loop.run_until_complete(self._ends.aclose())
        self._loop.close()


def _widened(asset: Any, folder: Path) -> Any:
    """*asset* with float32 for float16, saved in *folder*: the same operations on the same weights."""
    program = asset.program
    module = program._module._mlir_module
    constants: dict[str, Any] = {}
    with module.context, Location.unknown():
        for graph in module.body.operations:
            _widen(graph, constants)
    return program.save_asset(folder / "wide.aimodel")


def _widen(graph: Any, constants: dict[str, Any]) -> None:
    block = graph.regions[0].blocks[0]
    for argument in block.arguments:
        argument.set_type(_wide(argument.type))
    for operation in list(block.operations):
        for result in operation.results:
            if (wide := _wide(result.type)) == result.type:
                continue
            if operation.name == _CONSTANT:
                name = str(operation.attributes["value"])
                constants[name] = constants.get(name) or _wide_constant(operation, wide, f"constant {len(constants)}")
                operation.attributes["value"] = constants[name]
            result.set_type(wide)
        if operation.name == _CAST and operation.operands[0].type == operation.results[0].type:
            operation.results[0].replace_all_uses_with(operation.operands[0])
            operation.erase()
    kind = graph.attributes["function_type"].value
    inputs, results = ([_wide(each) for each in types] for types in (kind.inputs, kind.results))
    graph.attributes["function_type"] = TypeAttr.get(FunctionType.get(inputs, results))


def _wide_constant(operation: Any, wide: Any, name: str) -> Any:
    """Its numbers in float32: a cast of Apple's would change those that are subnormal in float16."""
    narrow = np.empty(wide.shape, np.float16)
    copy_constant_value_to_array(constant_op=operation.operation, destination=narrow.reshape(-1).view(np.uint8))
    if wide.shape:
        return DenseResourceElementsAttr.get_from_buffer(narrow.astype(np.float32), name, wide)
    return DenseElementsAttr.get(narrow.astype(np.float32), type=wide.element_type, shape=[])


def _wide(kind: Any) -> Any:
    return RankedTensorType.get(kind.shape, F32Type.get()) if F16Type.isinstance(kind.element_type) else kind


def _graph(graph: Any, functions: list[str]) -> AssetGraph:
    (region,) = graph.regions
    (block,) = region.blocks
    kind, name = graph.attributes["function_type"].value, graph.attributes["sym_name"].value
    return AssetGraph(
        name=name,
        is_function=name in functions,
        inputs=_named(kind.inputs, graph.attributes["arg_attrs"]),
        outputs=_named(kind.results, graph.attributes["res_attrs"]),
        attributes=_attributes(graph),
        operations=tuple(_operations(block)),
    )


def _named(kinds: Any, attributes: Any) -> tuple[tuple[str, AssetTensor], ...]:
    return tuple((each["coreai.name"].value, _tensor(kind)) for kind, each in zip(kinds, attributes, strict=True))


def _operations(block: Any) -> Iterator[AssetOperation]:
    values = {argument: at for at, argument in enumerate(block.arguments)}
    for operation in block.operations:
        operands = tuple(values[operand] for operand in operation.operands)
        for result in operation.results:
            values[result] = len(values)
        yield AssetOperation(
            name=operation.name,
            operands=operands,
            results=tuple(_tensor(result.type) for result in operation.results),
            attributes=_attributes(operation),
            is_plain=not len(operation.regions) and str(operation.location) == _NOWHERE,
        )


def _attributes(operation: Any) -> dict[str, str]:
    """As MLIR prints them, without numbers but for a single one."""
    return {
        each.name: ""
        if DenseElementsAttr.isinstance(each.attr) and len(DenseElementsAttr(each.attr)) > 1
        else str(each.attr)
        for each in operation.attributes
    }


def _tensor(kind: Any) -> AssetTensor:
    if not RankedTensorType.isinstance(kind):
        return AssetTensor(str(kind), ())
    shape = tuple(-1 if kind.is_dynamic_dim(axis) else size for axis, size in enumerate(kind.shape))
    return AssetTensor(str(kind.element_type), shape)
