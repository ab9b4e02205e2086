"""What a run of a file takes at least, by the shapes that it declares."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hydra_export.target import Work
from hydra_export.targets.tflite.lint import operator_of
from hydra_export.targets.tflite.reader import ModelFile, Tensor


def of(model: ModelFile) -> Work:
    """Of a file that lint passes, whose declared shapes are those that its operators make."""
    macs = largest = 0
    for graph in model.graphs:
        for operation in graph.operations:
            given = [graph.tensors[index] for index in operation.inputs]
            for made in (graph.tensors[index] for index in operation.outputs):
                macs += _size(made) * _inner(operator_of(model, operation).name, given)
                largest = max(largest, _size(made) * np.dtype(made.dtype).itemsize)
    return Work(macs=macs, tensor_bytes=largest)


def _size(tensor: Tensor) -> int:
    return math.prod(max(1, size) for size in tensor.shape)


def _inner(operator: str, given: Sequence[Tensor]) -> int:
    """Multiply-accumulates for each number that an operator makes."""
    if operator in ("FULLY_CONNECTED", "BATCH_MATMUL"):
        return given[0].shape[-1]
    return math.prod(given[1].shape[1:]) if operator == "CONV_2D" else 0
