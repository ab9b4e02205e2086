"""What a file computes by, operator for operator, for tables of what delegates take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from hydra_export.target import UsedOperator, UsedTensor
from hydra_export.targets.tflite.lint import linted, operator_of
from hydra_export.targets.tflite.reader import Graph, ModelFile

_ANY_TYPE = {"QUANTIZE", "DEQUANTIZE", "IF", "CAST"}  # neither in float nor in integers
_INTEGERS = {"int8", "int16"}  # as activations


def operators(path: Path) -> Iterator[UsedOperator]:
    """Those of a file that lint passed, subgraph for subgraph."""
    return of(linted(path))


def of(model: ModelFile) -> Iterator[UsedOperator]:
    """Those of a file whose operators are known."""
    for graph in model.graphs:
        tensors = _tensors(model, graph)
        in_integers = any(tensor.dtype in _INTEGERS and not tensor.constant for tensor in tensors)
        for node in graph.operations:
            name, given = operator_of(model, node).name, tuple(tensors[index] for index in node.inputs)
            if all(tensor.constant for tensor in given):
                for index in node.outputs:
                    tensors[index] = msgspec.structs.replace(tensors[index], constant=True)
            made = tuple(tensors[index] for index in node.outputs)
            in_float = any(tensor.dtype == "float32" and not tensor.constant for tensor in (*given, *made))
            yield UsedOperator(
                name=name,
                place=graph.tensors[node.outputs[0]].name,
                graph=graph.name if len(model.graphs) > 1 else "",
                version=model.opcodes[node.opcode][1],
                inputs=given,
                outputs=made,
                is_island=in_integers and in_float and name not in _ANY_TYPE,
            )


def _tensors(model: ModelFile, graph: Graph) -> list[UsedTensor]:
    return [
        UsedTensor(
            dtype=tensor.dtype,
            shape=tensor.shape,
            constant=bool(tensor.buffer),
            behind=model.buffers[tensor.buffer].behind,
        )
        for tensor in graph.tensors
    ]
