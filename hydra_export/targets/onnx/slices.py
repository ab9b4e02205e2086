"""Building the graph of a subnetwork that is chosen when it runs: sizes are computed, weights are cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import onnx_ir as ir

from hydra_export.stored_weight import StoredWeight
from hydra_export.target import Precision
from hydra_export.targets.onnx.graph import NodeBuilder, OnnxGraphBuilder, PerHead, Size


class SlicingBuilder(OnnxGraphBuilder):
    """An OnnxGraphBuilder whose head count is the value *number*, of shape [1].

    What computes sizes and cuts weights is kept apart, in ``before``: with all of it in front of the other nodes,
    onnxruntime's plan of buffers takes a third less memory than with each cut in front of its use.

    Args:
        heads: the largest.
        whole: gives the weights of the largest subnetwork by their names.
        stored: says how they grow.
    """

    def __init__(
        self,
        heads: int,
        number: ir.Value,
        whole: Callable[[str], ir.Value],
        stored: Mapping[str, StoredWeight],
        precision: Precision,
    ) -> None:
        super().__init__(heads, self._first, precision)
        self.number, self._whole, self._stored = number, whole, stored
        self.before = NodeBuilder()
        self._computed: dict[str, ir.Value] = {}

    def sizes(self, name: str, sizes: Sequence[Size]) -> ir.Value:
        """A constant, or the head count times what each head adds, plus what does not grow: one per content.

        Of a fraction the whole part: integers are divided.
        """
        if not any(isinstance(size, PerHead) for size in sizes):
            return super().sizes(name, sizes)
        label = "sizes/" + "_".join(f"{s.size}k" if isinstance(s, PerHead) else str(s) for s in sizes)
        if label not in self._computed:
            per_head = [Fraction(size.size if isinstance(size, PerHead) else 0) for size in sizes]
            fixed = [0 if isinstance(size, PerHead) else size for size in sizes]
            factors = self.before.constant(f"{label}/per_head", [unit.numerator for unit in per_head])
            value = self.before.op("Mul", [self.number, factors], f"{label}/Mul")
            if any(unit.denominator > 1 for unit in per_head):
                shares = self.before.constant(f"{label}/shares", [unit.denominator for unit in per_head])
                value = self.before.op("Div", [value, shares], f"{label}/Div")
            if any(fixed):
                value = self.before.op("Add", [value, self.before.constant(f"{label}/fixed", fixed)], f"{label}/Add")
            self._computed[label] = value
        return self._computed[label]

    def reshape(self, x: ir.Value, name: str, shape_name: str, shape: Sequence[Size]) -> ir.Value:
        """As usual; says the rank, which cannot be inferred."""
        result = super().reshape(x, name, shape_name, shape)
        result.type = ir.TensorType(ir.DataType.FLOAT)
        result.shape = ir.Shape([size if isinstance(size, int) and size > 0 else None for size in shape])
        return result

    def _first(self, name: str) -> ir.Value:
        cut = self._stored[name].cut
        growing = cut.growing
        if not growing:
            return self._whole(name)
        axes = "_".join(map(str, growing))
        starts = self.before.constant(f"slice/start_{len(growing)}", [0] * len(growing))
        ends = self.sizes("", [PerHead(cut.units[axis]) for axis in growing])
        inputs = [self._whole(name), starts, ends, self.before.constant(f"slice/axes_{axes}", growing)]
        return self.before.op("Slice", inputs, f"{name}/Slice")
