"""The choice of a subnetwork when a graph runs, and the guard that it is a listed one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from hydra_export.target import TensorInfo
from hydra_export.targets.onnx.graph import NodeBuilder

HEADS_INFO = TensorInfo(name="k", dtype="int64", shape=())


class Choice:
    """The head count *k* as a place in the list *heads*; a graph stops with an error where it is in none."""

    def __init__(self, g: NodeBuilder, k: ir.Value, heads: Sequence[int]) -> None:
        self.g, self.heads = g, heads
        # Runtimes take a vector where a scalar is declared: this refuses one of several numbers.
        k = g.op("Reshape", [k, g.constant("k/scalar", [])], "k/Reshape")
        self._listed = g.constant("k/listed", heads)
        equal = g.op("Equal", [k, self._listed], "k/Equal")
        places = g.op("NonZero", [equal], "k/NonZero")
        # Of a head count that is not listed there is no place, which cannot be made one: the error says the name.
        name = f"k/must be {'one of ' if len(heads) > 1 else ''}{', '.join(map(str, heads))}"
        self.place = g.op("Reshape", [places, g.constant("k/one", [1])], name)

    def number(self) -> ir.Value:
        """The head count, shape [1]."""
        return self.g.op("Gather", [self._listed, self.place], "k/Gather")

    def among(self, branches: Mapping[int, ir.Graph], name: str) -> ir.Value:
        """The one tensor that the branch of the chosen head count computes.

        The Ifs follow one another, each passing on what came before it, and are not nested: onnxruntime packs weights
        of the outermost graph for the branches of its own Ifs alone (1.32,
        SessionState::PrepackConstantInitializedTensors), and without packing a run takes a tenth longer.
        """
        given = next(iter(branches.values())).outputs[0]
        shape, dtype = given.shape, given.dtype
        assert shape
        assert dtype
        result = self.g.tensor(f"{name}/none", np.zeros((1,) * shape.rank(), dtype.numpy()))
        for place, k in enumerate(self.heads):
            is_k = self.g.op("Equal", [self.place, self.g.constant(f"k/place_{place}", [place])], f"k{k}/Equal")
            passed = ir.Value(name=f"k{k}/passed", shape=ir.Shape([None] * shape.rank()), type=ir.TensorType(dtype))
            otherwise = ir.Graph(
                [],
                [passed],
                nodes=[ir.node("Identity", [result], outputs=[passed], name=f"k{k}/Identity")],
                name=f"not_k{k}",
            )
            result = self.g.op("If", [is_k], f"k{k}/If", then_branch=branches[k], else_branch=otherwise)
        return result
