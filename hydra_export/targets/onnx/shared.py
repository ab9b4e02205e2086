"""Small graphs over common weight files.

By default there is one file per listed head count, its *shell*: what that head count adds to the one before. With head
counts 3, 6, 12 a device that runs k = 3 fetches the first shell, and for an upgrade to k = 6 the second as well. With
one file for all, graphs take parts of it. Either way a graph puts its weights together from blocks with Split, Slice
and Concat, which runtimes fold when they load it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hydra_export.model import Span, Weight, array
from hydra_export.target import Artifact, ExportSpec
from hydra_export.targets.onnx import graph
from hydra_export.targets.onnx.weights import onnx_weights

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint

_ALIGNMENT = 64  # bytes: a cache line, and more than any CPU's vector load asks for


@dataclass(frozen=True)
class Piece:
    """Where a contiguous block of a weight lies: the shell file, and the byte offset and shape there."""

    name: str
    location: str
    offset: int
    shape: tuple[int, ...]

    def rows(self, count: int) -> Piece:
        """The first *count* rows: a byte prefix."""
        return Piece(self.name, self.location, self.offset, (count, *self.shape[1:]))

    def tensor(self) -> ir.ExternalTensor:
        """The block as external data."""
        length = 4 * int(np.prod(self.shape))
        shape = ir.Shape(self.shape)
        return ir.ExternalTensor(self.location, self.offset, length, ir.DataType.FLOAT, shape=shape, name=self.name)


@dataclass(frozen=True)
class Shell:
    """One weight file: what *span* adds.

    A matrix that grows on both axes has its new rows, as wide as the new head count, in ``rows``, and the new columns
    of the older rows in ``columns``. Everything else has what is new in ``rows``.
    """

    span: Span
    location: str
    rows: dict[str, Piece] = field(default_factory=dict)
    columns: dict[str, Piece] = field(default_factory=dict)


def write(checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec, opset: int, out: Path) -> list[Artifact]:
    """Writes ``<model>-shared-k3.onnx`` and ``<model>-shared-k3.bin``, ... into *out*."""
    pixels = checkpoint.info.preprocessing if spec.input == "image" else None
    weights = onnx_weights(checkpoint.model, pixels)
    stem = f"{checkpoint.info.name}-shared"
    bounds = heads if spec.weight_files == "each" else heads[-1:]
    shells = [Shell(span, f"{stem}-k{span[1]}.bin") for span in itertools.pairwise((0, *bounds))]
    for shell in shells:
        classifiers = {checkpoint.info.config.classifier(k) for k in heads if shell.span[0] < k <= shell.span[1]}
        with (out / shell.location).open("wb") as file:
            for name, weight in weights.items():
                if not name.startswith("head.k") or name.rpartition(".")[0] in classifiers:
                    _write_weight(name, weight, shell, file)
    artifacts = []
    for k in heads:
        inputs, outputs = graph.signature(checkpoint.info.config, k, spec)
        path = f"{stem}-k{k}.onnx"
        needed = [shell for shell in shells if shell.span[0] < k]
        (out / path).write_bytes(_graph(checkpoint, k, spec, opset, needed, weights))
        artifacts.append(
            Artifact(
                path=path,
                files=(path, *(shell.location for shell in needed)),
                target="onnx",
                spec=spec,
                heads=(k,),
                inputs=inputs,
                outputs=outputs,
                needs=graph.needs(opset),
            )
        )
    return artifacts


def _write_weight(name: str, weight: Weight, shell: Shell, file: BinaryIO) -> None:
    def put(label: str, array: NDArray[np.float32]) -> Piece:
        file.write(b"\0" * (-file.tell() % _ALIGNMENT))
        offset = file.tell()
        file.write(array.data)
        return Piece(f"{name}{label}", shell.location, offset, array.shape)

    low, high = shell.span
    growing = _growing(weight)
    if len(growing) == 2:
        shell.rows[name] = put(f"[{low}:{high}]", array(weight.part(((low, high), (0, high)))))
        if low:
            shell.columns[name] = put(f"[:{low},{low}:{high}]", array(weight.part(((0, low), (low, high)))))
    elif growing:
        shell.rows[name] = put(f"[{low}:{high}]", array(weight.part(((low, high),) * len(weight.units))))
    elif not low or name.startswith("head.k"):
        shell.rows[name] = put("", array(weight.first(high)))


def _growing(weight: Weight) -> list[int]:
    return [axis for axis, unit in enumerate(weight.units) if unit]


def _graph(
    checkpoint: Checkpoint,
    heads: int,
    spec: ExportSpec,
    opset: int,
    shells: list[Shell],
    weights: dict[str, Weight],
) -> bytes:
    assembly = Assembly(heads, shells)
    model = graph.build(checkpoint, heads, spec, opset, lambda name: assembly.weight(name, weights[name]))
    for initializer in assembly.initializers.values():
        model.graph.register_initializer(initializer)
    model.graph.insert_before(model.graph[0], assembly.nodes)
    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))


class Assembly:
    """Puts the weights of subnetwork *heads* together from the blocks of *shells*; the last may hold more."""

    def __init__(self, heads: int, shells: list[Shell]) -> None:
        self.heads, self.shells = heads, shells
        self.spans = [(shell.span[0], min(shell.span[1], heads)) for shell in shells]
        self.initializers: dict[str, ir.Value] = {}
        self.nodes: list[ir.Node] = []

    def weight(self, name: str, weight: Weight) -> ir.Value:
        """The whole weight *name*."""
        growing, units = _growing(weight), weight.units
        if not growing:
            (piece,) = (shell.rows[name] for shell in self.shells if name in shell.rows)
            return self._external(piece)
        if len(growing) == 2:
            return self._matrix(name, (units[0], units[1]))
        (axis,) = growing
        parts = [
            self._first(self._external(shell.rows[name]), axis, (high - low) * units[axis], shell.span[1] > high)
            for shell, (low, high) in zip(self.shells, self.spans, strict=True)
        ]
        return self._joined(name, parts, axis)

    def _matrix(self, name: str, units: tuple[int, int]) -> ir.Value:
        """Its rows of blocks, each: the shell's own rows, then that row's part of every later shell's columns."""
        short = name.removesuffix(".weight")  # thousands of blocks carry it
        rows: list[list[ir.Value]] = []
        for shell, (low, high) in zip(self.shells, self.spans, strict=True):
            cut = shell.span[1] > high
            if low:
                new = self._first(self._external(shell.columns[name]), 1, (high - low) * units[1], cut)
                parts = self._split_rows(new, f"{short}[{{}},{high}]", units[0], len(rows))
                for row, part in zip(rows, parts, strict=True):
                    row.append(part)
            own = self._external(shell.rows[name].rows((high - low) * units[0]))
            rows.append([self._first(own, 1, high * units[1], cut)])
        labels = [f"{short}[{high}]" for _low, high in self.spans]
        whole_rows = [self._joined(label, row, 1) for label, row in zip(labels, rows, strict=True)]
        return self._joined(name, whole_rows, 0)

    def _external(self, piece: Piece) -> ir.Value:
        return self._initializer(piece.name, piece.tensor())

    def _numbers(self, numbers: Sequence[int]) -> ir.Value:
        name = "shell/" + "_".join(map(str, numbers))
        return self._initializer(name, ir.tensor(list(numbers), ir.DataType.INT64, name=name))

    def _initializer(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        if name not in self.initializers:
            self.initializers[name] = ir.Value(name=name, const_value=tensor)
        return self.initializers[name]

    def _op(self, op_type: str, inputs: list[ir.Value], outputs: list[str], **attributes: Any) -> list[ir.Value]:
        values = [ir.Value(name=output) for output in outputs]
        self.nodes.append(ir.node(op_type, inputs, attributes, outputs=values))  # no name: its outputs say it all
        return values

    def _first(self, whole: ir.Value, axis: int, size: int, cut: bool) -> ir.Value:
        if not cut:
            return whole
        inputs = [whole, self._numbers([0]), self._numbers([size]), self._numbers([axis])]
        return self._op("Slice", inputs, [f"{whole.name}/first"])[0]

    def _split_rows(self, whole: ir.Value, label: str, unit: int, older: int) -> list[ir.Value]:
        """*whole* cut at the first *older* head counts; *label* names the parts."""
        if older == 1:
            return [whole]
        spans = self.spans[:older]
        outputs = [label.format(high) for _low, high in spans]
        sizes = self._numbers([(high - low) * unit for low, high in spans])
        return self._op("Split", [whole, sizes], outputs, axis=0)

    def _joined(self, name: str, parts: list[ir.Value], axis: int) -> ir.Value:
        return parts[0] if len(parts) == 1 else self._op("Concat", parts, [name], axis=axis)[0]
