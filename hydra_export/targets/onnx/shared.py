"""Small graphs over common weight files: one file per listed head count, holding what it adds to the one before.

Head counts 3, 6, 12 give three *shells*. A device that runs k = 3 fetches the first; an upgrade to k = 6 fetches the
second as well. Each graph puts its weights together with Concat, which runtimes fold when they load it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hydra_export.checkpoint import Checkpoint
from hydra_export.target import Artifact, ExportSpec
from hydra_export.targets.onnx import graph
from hydra_export.targets.onnx.weights import OnnxWeight, onnx_weights

_ALIGNMENT = 64  # bytes: a cache line, and more than any CPU's vector load asks for

Span = tuple[int, int]  # from one head count to another


@dataclass(frozen=True)
class Piece:
    """Where one block of a weight lies: the shell file, and the byte offset and shape there."""

    name: str
    location: str
    offset: int
    shape: tuple[int, ...]

    def value(self) -> ir.Value:
        """The block as an initializer with external data."""
        length = 4 * int(np.prod(self.shape))
        tensor = ir.ExternalTensor(
            self.location, self.offset, length, ir.DataType.FLOAT, shape=ir.Shape(self.shape), name=self.name
        )
        return ir.Value(name=self.name, const_value=tensor)


Rows = list[list[Piece]]  # blocks of a weight: a list of rows of blocks


def write(checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec, opset: int, out: Path) -> list[Artifact]:
    """Writes ``<model>-shared-k3.onnx`` and ``<model>-shared-k3.bin``, ... into *out*."""
    config = checkpoint.info.config
    pixels = checkpoint.info.preprocessing if spec.input == "image" else None
    weights = onnx_weights(checkpoint.model, pixels)
    stem = f"{checkpoint.info.name}-shared"
    spans = list(itertools.pairwise((0, *heads)))
    shells = [f"{stem}-k{k}.bin" for k in heads]
    pieces: dict[str, dict[tuple[Span, ...], Piece]] = {name: {} for name in weights}
    for span, location in zip(spans, shells, strict=True):
        own_classifier = config.classifier(span[1])
        with (out / location).open("wb") as file:
            for name, weight in weights.items():
                if not name.startswith("head.k") or name.startswith(f"{own_classifier}."):
                    pieces[name] |= _write_shell(name, weight, spans, span, location, file)
    inputs, outputs = graph.signature(config, spec)
    artifacts = []
    for index, k in enumerate(heads):
        path = f"{stem}-k{k}.onnx"
        (out / path).write_bytes(_graph(checkpoint, k, spec, opset, spans[: index + 1], weights, pieces))
        artifacts.append(
            Artifact(
                path=path,
                files=(path, *shells[: index + 1]),
                target="onnx",
                spec=spec,
                heads=(k,),
                inputs=inputs,
                outputs=outputs,
            )
        )
    return artifacts


def _write_shell(
    name: str, weight: OnnxWeight, spans: list[Span], span: Span, location: str, file: BinaryIO
) -> dict[tuple[Span, ...], Piece]:
    """Writes what *span* adds to one weight; returns its blocks, keyed by their spans along the growing axes.

    A matrix that grows on both axes gets its new rows whole, and its new columns of the older rows; of the latter,
    the rows of each older shell are one block, contiguous in the file.
    """
    growing = [axis for axis, unit in enumerate(weight.weight.units) if unit]
    if not growing:
        first = span == spans[0] or name.startswith("head.k")
        return {(): _put(name, weight.first(0), location, file)} if first else {}
    if len(growing) == 1:
        array = weight.part(tuple(span if unit else (0, 0) for unit in weight.weight.units))
        return {(span,): _put(f"{name}[{_text(span)}]", array, location, file)}
    new = span[1]
    blocks: dict[tuple[Span, ...], Piece] = {}
    blocks[span, (0, new)] = _put(f"{name}[{_text(span)},0:{new}]", weight.part((span, (0, new))), location, file)
    for rows in spans[: spans.index(span)]:
        array = weight.part((rows, span))
        blocks[rows, span] = _put(f"{name}[{_text(rows)},{_text(span)}]", array, location, file)
    return blocks


def _put(name: str, array: NDArray[np.float32], location: str, file: BinaryIO) -> Piece:
    file.write(b"\0" * (-file.tell() % _ALIGNMENT))
    offset = file.tell()
    file.write(array.data)
    return Piece(name, location, offset, array.shape)


def _text(span: Span) -> str:
    return f"{span[0]}:{span[1]}"


def _graph(
    checkpoint: Checkpoint,
    heads: int,
    spec: ExportSpec,
    opset: int,
    spans: list[Span],
    weights: dict[str, OnnxWeight],
    pieces: dict[str, dict[tuple[Span, ...], Piece]],
) -> bytes:
    initializers: list[ir.Value] = []
    concats: list[ir.Node] = []

    def joined(name: str, parts: list[ir.Value], axis: int, suffix: str = "") -> ir.Value:
        if len(parts) == 1:
            return parts[0]
        node = ir.node(
            "Concat", parts, {"axis": axis}, name=f"{name}{suffix}", outputs=[ir.Value(name=f"{name}{suffix}")]
        )
        concats.append(node)
        return node.outputs[0]

    def value(piece: Piece) -> ir.Value:
        initializers.append(piece.value())
        return initializers[-1]

    def weight(name: str) -> ir.Value:
        growing = [axis for axis, unit in enumerate(weights[name].weight.units) if unit]
        blocks = pieces[name]
        if not growing:
            return value(blocks[()])
        if len(growing) == 1:
            return joined(name, [value(blocks[span,]) for span in spans], growing[0])
        rows = []
        for index, span in enumerate(spans):
            row = [blocks[span, (0, span[1])], *(blocks[span, later] for later in spans[index + 1 :])]
            rows.append(joined(name, [value(piece) for piece in row], 1, f"/rows_{_text(span)}"))
        return joined(name, rows, 0)

    model, _ = graph.build(checkpoint, heads, spec, opset, weight)
    for initializer in initializers:
        model.graph.register_initializer(initializer)
    model.graph.insert_before(model.graph[0], concats)
    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))
