"""Weight files that several graphs use, and how a graph puts its weights together from them.

A file is a *shell*: what the head counts of its span add to those before. A graph puts its weights together from
blocks with Split, Slice and Concat, which runtimes fold when they load it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx_ir as ir

from hydra_export.network import Cut, Span
from hydra_export.stored_weight import StoredWeight
from hydra_export.targets.onnx.weights import onnx_type

_ALIGNMENT = 64  # bytes: a cache line, and more than any CPU's vector load asks for


@dataclass(frozen=True)
class Piece:
    """Where a contiguous block of a weight lies: the shell file, and the byte offset, shape and type there."""

    name: str
    location: str
    offset: int
    shape: tuple[int, ...]
    dtype: ir.DataType

    def rows(self, count: int) -> Piece:
        """The first *count* rows: a byte prefix."""
        return replace(self, shape=(count, *self.shape[1:]))

    def tensor(self, name: str) -> ir.ExternalTensor:
        """The block as external data, called *name*."""
        length = self.dtype.numpy().itemsize * int(np.prod(self.shape))
        return ir.ExternalTensor(self.location, self.offset, length, self.dtype, shape=ir.Shape(self.shape), name=name)


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


def write(
    weights: Mapping[str, StoredWeight], heads: Sequence[int], locations: Mapping[int, str], out: Path
) -> list[Shell]:
    """Writes shells into *out*.

    Args:
        heads: the listed head counts; classifiers of others are left out.
        locations: the names of the files, by the head counts that they go up to, ascending.
    """
    shells = [Shell(span, location) for span, location in spans(locations)]
    for shell in shells:
        with (out / shell.location).open("wb") as file:
            for name, weight in weights.items():
                if weight.cut.used_by(heads):
                    _write_weight(name, weight, shell, file)
    return shells


def spans(locations: Mapping[int, str]) -> Iterator[tuple[Span, str]]:
    """What each of the files at *locations* adds, from one head count up to another."""
    for low, high in itertools.pairwise((0, *locations)):
        yield (low, high), locations[high]


def _write_weight(name: str, weight: StoredWeight, shell: Shell, file: BinaryIO) -> None:
    low, high = shell.span
    labels = (f"[{low}:{high}]", f"[:{low},{low}:{high}]") if weight.cut.growing else ("",)
    for pieces, label, block in zip((shell.rows, shell.columns), labels, weight.cut.shell(low, high), strict=False):
        array = weight.part(block)
        file.write(b"\0" * (-file.tell() % _ALIGNMENT))
        pieces[name] = Piece(f"{name}{label}", shell.location, file.tell(), array.shape, onnx_type(weight))
        file.write(array.data)


def _length(cut: Cut, axis: int, span: Span) -> int:
    low, high = span
    return cut.place(axis, high) - cut.place(axis, low)


def needed(shells: Iterable[Shell], heads: int) -> list[Shell]:
    """The shells that hold parts of subnetwork *heads*."""
    return [shell for shell in shells if shell.span[0] < heads]


class Assembly:
    """Puts the weights of subnetwork *heads* together from the blocks of *shells*; the last may hold more.

    *scope* comes before the name of all that it adds to the graph.
    """

    def __init__(
        self, heads: int, shells: Iterable[Shell], weights: Mapping[str, StoredWeight], scope: str = ""
    ) -> None:
        self.heads, self.scope = heads, scope
        self.shells, self.weights = needed(shells, heads), weights
        self.spans = [(shell.span[0], min(shell.span[1], heads)) for shell in self.shells]
        self.initializers: dict[str, ir.Value] = {}
        self.nodes: list[ir.Node] = []

    def weight(self, name: str) -> ir.Value:
        """The whole weight *name*."""
        weight = self.weights[name]
        growing = weight.cut.growing
        if not growing:
            (piece,) = (shell.rows[name] for shell in self.shells if name in shell.rows)
            return self._external(piece)
        if len(growing) == 2:
            return self._matrix(name, weight.cut)
        (axis,) = growing
        parts = [
            self._first(self._external(shell.rows[name]), axis, _length(weight.cut, axis, span), shell.span != span)
            for shell, span in zip(self.shells, self.spans, strict=True)
        ]
        return self._joined(name, parts, axis)

    def _matrix(self, name: str, cut: Cut) -> ir.Value:
        """Its rows of blocks, each: the shell's own rows, then that row's part of every later shell's columns."""
        short = name.removesuffix(".weight")  # thousands of blocks carry it
        rows: list[list[ir.Value]] = []
        for shell, (low, high) in zip(self.shells, self.spans, strict=True):
            is_cut = shell.span[1] > high
            if low:
                new = self._first(self._external(shell.columns[name]), 1, _length(cut, 1, (low, high)), is_cut)
                parts = self._split_rows(new, f"{short}[{{}},{high}]", cut, len(rows))
                for row, part in zip(rows, parts, strict=True):
                    row.append(part)
            own = self._external(shell.rows[name].rows(_length(cut, 0, (low, high))))
            rows.append([self._first(own, 1, cut.place(1, high), is_cut)])
        labels = [f"{short}[{high}]" for _low, high in self.spans]
        whole_rows = [self._joined(label, row, 1) for label, row in zip(labels, rows, strict=True)]
        return self._joined(name, whole_rows, 0)

    def _external(self, piece: Piece) -> ir.Value:
        return self._initializer(piece.tensor(self.scope + piece.name))

    def _numbers(self, numbers: Sequence[int]) -> ir.Value:
        name = f"{self.scope}shell/" + "_".join(map(str, numbers))
        return self._initializer(ir.tensor(list(numbers), ir.DataType.INT64, name=name))

    def _initializer(self, tensor: ir.TensorProtocol) -> ir.Value:
        name = tensor.name
        assert name
        if name not in self.initializers:
            self.initializers[name] = ir.Value(name=name, const_value=tensor)
        return self.initializers[name]

    def _op(self, op_type: str, inputs: list[ir.Value], outputs: list[str], **attributes: Any) -> list[ir.Value]:
        values = [ir.Value(name=output) for output in outputs]
        self.nodes.append(ir.node(op_type, inputs, attributes, outputs=values))  # no name: its outputs say it all
        return values

    def _first(self, whole: ir.Value, axis: int, size: int, is_cut: bool) -> ir.Value:
        if not is_cut:
            return whole
        inputs = [whole, self._numbers([0]), self._numbers([size]), self._numbers([axis])]
        return self._op("Slice", inputs, [f"{whole.name}/first"])[0]

    def _split_rows(self, whole: ir.Value, label: str, cut: Cut, older: int) -> list[ir.Value]:
        """*whole* cut at the first *older* head counts; *label* names the parts."""
        if older == 1:
            return [whole]
        spans = self.spans[:older]
        outputs = [self.scope + label.format(high) for _low, high in spans]
        sizes = self._numbers([_length(cut, 0, span) for span in spans])
        return self._op("Split", [whole, sizes], outputs, axis=0)

    def _joined(self, name: str, parts: list[ir.Value], axis: int) -> ir.Value:
        return parts[0] if len(parts) == 1 else self._op("Concat", parts, [self.scope + name], axis=axis)[0]
