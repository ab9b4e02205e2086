"""What a file of integer activations promises of its integers: kernels take nothing else, or compute something else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from hydra_export.quantized.grid import unit
from hydra_export.targets.tflite.operators import BY_CODE, INT32, MOVING
from hydra_export.targets.tflite.reader import Graph, ModelFile, Node, Tensor

_UNITS = {"int8": ("int8", (unit(8).scale,), unit(8).zero_point), "int16": ("int16", (unit(16).scale,), 0)}
_PIXELS = ("uint8", (1.0,), 0)
_ENDS = ("QUANTIZE", "DEQUANTIZE", "IF")
_SHIFTS = {"int8": 20, "int16": 15}  # of ADD, tensorflow/lite/kernels/add.cc
_CLOSE = 1e-6  # of float32's own steps


def problems(graphs: Sequence[Graph], model: ModelFile, products: Sequence[str]) -> Iterator[str]:
    """Of *graphs* of the file, whose products are of the types *products*."""
    for graph in graphs:
        biases = {
            index for operation in graph.operations if _is_product(operation, model) for index in operation.inputs[2:]
        }
        for index, tensor in enumerate(graph.tensors):
            yield from _tensor(tensor, index in {*graph.inputs, *graph.outputs}, index in biases)
        for operation in graph.operations:
            given, made = ([graph.tensors[i] for i in ids] for ids in (operation.inputs, operation.outputs))
            name = BY_CODE[model.opcodes[operation.opcode]].name
            if _is_product(operation, model) and given[0].dtype not in products:
                yield f"{made[0].name} is a product of {given[0].dtype}"
            for problem in _operation(name, operation, given, made):
                yield f"{', '.join(tensor.name for tensor in made)} cannot be: {problem}"


def _is_product(operation: Node, model: ModelFile) -> bool:
    return BY_CODE[model.opcodes[operation.opcode]].name in ("CONV_2D", "FULLY_CONNECTED")


def _tensor(tensor: Tensor, is_end: bool, is_bias: bool) -> Iterator[str]:
    if tensor.dtype.startswith("float") and (tensor.buffer or not is_end):
        yield f"{tensor.name} is {tensor.dtype} between integers"
    counts = is_bias or tensor.dtype in ("int8", "int16", "uint8")
    if counts != bool(tensor.scales):
        yield f"{tensor.name} is {tensor.dtype} with or without a scale"
    if tensor.dtype == "uint8" and tensor.grid != _PIXELS:
        yield f"{tensor.name} has pixels with a scale other than 1"


def _operation(name: str, operation: Node, given: list[Tensor], made: list[Tensor]) -> Iterator[str]:
    floats = [tensor.name for tensor in (*given, *made) if tensor.dtype.startswith("float")]
    if floats and name not in _ENDS:
        yield f"{name} takes or makes {floats[0]}, which is float"
    if name in MOVING:
        grids = {tensor.grid for tensor in (*given, *made) if tensor.dtype != "int32"}
        if len(grids) != 1:
            yield f"{name} is given {len(grids)} scales"
    elif name == "CAST" and made[0].grid != ("int16", given[0].scales, 0):
        yield "CAST makes other units"
    elif name in ("SOFTMAX", "LOGISTIC") and made[0].grid != _UNITS[made[0].dtype]:
        yield f"{name} makes other units than 0 to 1"
    elif name in ("CONV_2D", "FULLY_CONNECTED"):
        yield from _product(name, operation, *given)
    elif name in ("ADD", "SUB"):
        yield from _sum(name, operation, given, made[0])


def _product(name: str, operation: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Iterator[str]:
    if len(weight.scales) != weight.shape[0] or weight.zero_point or not weight.buffer:
        yield f"{name} has {len(weight.scales)} scales for {weight.shape[0]} rows, or a zero point"
    elif bias is not None:
        wanted = np.float32(x.scales[0]) * np.array(weight.scales, np.float32)
        if len(bias.scales) != len(wanted) or not np.allclose(bias.scales, wanted, _CLOSE, 0):
            yield f"the scale of {bias.name} is not that of {x.name} times that of {weight.name}"
    if operation.options["quantized_bias_type"] != (INT32 if x.dtype == "int16" else 0):
        yield f"{name} states that its bias has type {operation.options['quantized_bias_type']}"


def _sum(name: str, operation: Node, given: list[Tensor], made: Tensor) -> Iterator[str]:
    """ADD ends the process where an input's unit is too many of the output's."""
    if operation.options["pot_scale_int16"] != (made.dtype != "int16"):
        yield f"{name} of {made.dtype} states other scales"
    largest = max(tensor.scales[0] for tensor in given)
    if 2 * largest >= made.scales[0] * 2 ** _SHIFTS.get(made.dtype, 0):
        yield f"{name} adds units of {largest:.3g} in units of {made.scales[0]:.3g}"
