"""The layout that `shared` was compared with: one file of full weights, and a Slice of each in every graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from hydra_export.checkpoint import Checkpoint
from hydra_export.target import ExportSpec
from hydra_export.targets.onnx import DEFAULT_OPSET, graph
from hydra_export.targets.onnx.weights import onnx_weights

_ALIGNMENT = 64


def write(checkpoint: Checkpoint, heads: Sequence[int], out: Path) -> list[Path]:
    """Writes ``single.bin`` and ``single-k3.onnx``, ... into *out*."""
    largest = max(heads)
    weights = onnx_weights(checkpoint.model)
    full = {}
    with (out / "single.bin").open("wb") as file:
        for name, weight in weights.items():
            array = weight.first(largest)
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            shape = ir.Shape(array.shape)
            full[name] = ("single.bin", file.tell(), array.nbytes, shape)
            file.write(array.data)
    paths = []
    for k in heads:
        slices: list[ir.Node] = []
        values: list[ir.Value] = []
        small: dict[tuple[int, ...], ir.Value] = {}

        def constant(numbers: tuple[int, ...], small: dict[tuple[int, ...], ir.Value] = small) -> ir.Value:
            if numbers not in small:
                name = "slice_" + "_".join(map(str, numbers))
                small[numbers] = ir.Value(name=name, const_value=ir.tensor(list(numbers), ir.DataType.INT64, name=name))
            return small[numbers]

        def weight_value(
            name: str, k: int = k, slices: list[ir.Node] = slices, values: list[ir.Value] = values
        ) -> ir.Value:
            location, offset, length, shape = full[name]
            tensor = ir.ExternalTensor(location, offset, length, ir.DataType.FLOAT, shape=shape, name=name)
            whole = ir.Value(name=name, const_value=tensor)
            values.append(whole)
            axes = tuple(axis for axis, unit in enumerate(weights[name].weight.units) if unit)
            if k == largest or not axes:
                return whole
            ends = tuple(weights[name].weight.units[axis] * k for axis in axes)
            cut = ir.Value(name=f"{name}/cut")
            inputs = [whole, constant((0,) * len(axes)), constant(ends), constant(axes)]
            slices.append(ir.node("Slice", inputs, name=f"{name}/cut", outputs=[cut]))
            return cut

        model, _ = graph.build(checkpoint, k, ExportSpec(), DEFAULT_OPSET, weight_value)
        for value in (*values, *small.values()):
            model.graph.register_initializer(value)
        model.graph.insert_before(model.graph[0], slices)
        paths.append(out / f"single-k{k}.onnx")
        paths[-1].write_bytes(ir.to_proto(model).SerializeToString())
    return paths
