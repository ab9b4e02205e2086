"""Writes programs of Core AI, the same bytes each time.

Of what Apple's code writes by itself, the places in source files, the names of constants and the order and the date of
the metadata differ from run to run: here there are no places, every constant has the name of its weight, and
``folder.canonical`` writes the metadata.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import coreai.authoring as ca
import numpy as np
from coreai._compiler.dialects._coreai_ops_gen import ConstantOp
from coreai._compiler.ir import Attribute, DenseResourceElementsAttr, InsertionPoint
from coreai._compiler.passmanager import PassManager
from coreai.authoring.graph_builder import GraphOp
from coreai.runtime import AIModelAssetMetadata
from numpy.typing import NDArray

from hydra_export.target import TensorInfo
from hydra_export.targets.coreai import folder

Value = Any  # a coreai.authoring.Value
Shape = tuple[Any, ...]


def write(
    path: Path, declare: Callable[[AssetBuilder], None], texts: Mapping[str, str], own: Mapping[str, str]
) -> None:
    """Writes the asset *path*.

    Args:
        declare: its functions.
        texts: author, license and model_description.
        own: what it says of itself beside these.
    """
    module = ca.Module.create()
    with module:
        declare(AssetBuilder(module))
    with module._context:
        PassManager.parse("builtin.module(strip-debuginfo)").run(module._mlir_module.operation)
    metadata = AIModelAssetMetadata()
    for name, text in texts.items():
        setattr(metadata, name, text)
    for name, text in own.items():
        metadata.set_custom(name, text)
    ca.AIProgram(module).save_asset(path, metadata=metadata)
    written = path / folder.METADATA
    written.write_bytes(folder.canonical(json.loads(written.read_bytes())))


def indices(*numbers: int) -> NDArray[np.int32]:
    """A position along each axis."""
    return np.array(numbers, np.int32)


def sizes(*numbers: int) -> NDArray[np.uint32]:
    """A shape, or an order of axes."""
    return np.array(numbers, np.uint32)


class AssetBuilder:
    """Declares functions in *module*, with the constants and the graphs that they share."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._constants: dict[str, Any] = {}
        self._graphs: dict[str, Any] = {}

    def function(self, name: str, inputs: Sequence[TensorInfo], output: str, body: Callable[..., Value]) -> None:
        """A function that is called from outside."""
        self._graph(name, {each.name: (each.shape, np.dtype(each.dtype).type) for each in inputs}, output, body)

    def call(self, name: str, inputs: Mapping[str, Value], body: Callable[..., Value], *, composite: str = "") -> Value:
        """What *body*, as a graph of its own called *name*, makes of *inputs*. It is declared once, and never inlined.

        Args:
            composite: the declaration of the operation that Core AI may have for it.
        """
        if name not in self._graphs:
            kinds = {each: (shape_of(value), value.type.dtype) for each, value in inputs.items()}
            attributes = {"composite_decl": Attribute.parse(composite)} if composite else {}
            with InsertionPoint.at_block_begin(self._module._body):
                self._graphs[name] = self._graph(
                    name, kinds, "output", body, private=True, no_inline=True, **attributes
                )
        (result,) = self._graphs[name](*(value._to_mlir() for value in inputs.values()))
        return ca.Value._from_mlir(result)

    def constant(self, name: str, make: Callable[[], NDArray[Any]]) -> Value:
        """The weight called *name*, which is made where it was not asked for before."""
        if name not in self._constants:
            array = make()
            assert array.ndim, "Apple's code ends the process for a number with a name"
            kind = ca.TensorType(array.shape, array.dtype.type)._to_mlir()
            self._constants[name] = DenseResourceElementsAttr.get_from_buffer(array, name, kind)
        return ca.Value._from_mlir(ConstantOp(value=self._constants[name]).result)

    def beginning(self, whole: Value, shape: Shape) -> Value:
        """The first entries of *whole* along each axis.

        As a graph of its own: a slice of a constant would be folded into another constant, and stored again.
        """
        full, dtype = shape_of(whole), whole.type.dtype
        name = f"beginning_{dtype}_{joined(full)}_{joined(shape)}"
        origin, steps = indices(*(0 for _ in shape)), indices(*(1 for _ in shape))
        return self.call(name, {"whole": whole}, lambda whole: ca.slice_(whole, origin, indices(*shape), steps))

    def _graph(
        self,
        name: str,
        inputs: Mapping[str, tuple[Shape, Any]],
        output: str,
        body: Callable[..., Value],
        **attributes: Any,
    ) -> Any:
        kinds = [ca.TensorType(shape, dtype)._to_mlir() for shape, dtype in inputs.values()]
        graph = GraphOp(name, kinds, [], list(inputs), [], **attributes)
        with graph.block:
            result = body(*map(ca.Value._from_mlir, graph.arguments))
            graph.outputs_spec = [(output, result._to_mlir())]
        return graph


def shape_of(value: Value) -> Shape:
    """Shape of a value."""
    return tuple(value.type.shape)


def joined(shape: Shape) -> str:
    """As names have it."""
    return "x".join(map(str, shape))
