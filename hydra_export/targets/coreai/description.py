"""What an asset's program is made of, as the process that reads it tells ours."""

from __future__ import annotations

import msgspec


class AssetTensor(msgspec.Struct, frozen=True):
    """A type: MLIR's name of the elements' and the shape, -1 for a size that is chosen later."""

    dtype: str
    shape: tuple[int, ...]


class AssetOperation(msgspec.Struct, frozen=True):
    """One operation of a graph.

    Attributes:
        operands: numbers of values of the graph: its inputs, then the results of each operation.
        attributes: as MLIR prints them; numbers that stand in the program itself are left out.
        is_plain: it holds no operations of its own, and does not say where it was made.
    """

    name: str
    operands: tuple[int, ...]
    results: tuple[AssetTensor, ...]
    attributes: dict[str, str]
    is_plain: bool


class AssetGraph(msgspec.Struct, frozen=True):
    """A function, or what functions call.

    Attributes:
        is_function: Apple's summary of the asset lists it.
    """

    name: str
    is_function: bool
    inputs: tuple[tuple[str, AssetTensor], ...]
    outputs: tuple[tuple[str, AssetTensor], ...]
    attributes: dict[str, str]
    operations: tuple[AssetOperation, ...]
