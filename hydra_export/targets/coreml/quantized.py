"""ML Programs whose products take and give 8-bit integers.

MIL has no integer form of a LayerNorm, a softmax or a GELU, so these stay in float16: a ``quantize`` and a
``dequantize`` stand around each Linear and the patch embedding, as coremltools' ``linear_quantize_activations`` places
them. By coremltools' guide the Neural Engine multiplies such int8 by int8 from the A17 Pro and the M4 on.
"""

# B batch, N tokens, D width of subnetwork k
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hydra_export.mil.builder import ProgramBuilder
from hydra_export.network import Span
from hydra_export.quantized.grid import Range
from hydra_export.target import ExportSpec
from hydra_export.targets.coreml.graph import CoreMLEmitter
from hydra_export.targets.coreml.weights import Weights


class QuantizedEmitter(CoreMLEmitter):
    """Tensors that calibration gave 16 bits stay in float16."""

    def __init__(self, mb: ProgramBuilder, spans: Sequence[Span], spec: ExportSpec, weights: Weights) -> None:
        super().__init__(mb, spans, spec, weights)
        assert weights.ranges is not None
        self._ranges, self._folded = weights.ranges[self.heads], weights.folded(self.heads)
        self._taps: dict[str, str] = {}  # by names of values: the ranges of what products take

    def _conv(self, image_BCHW: Any, span: Span, name: str) -> Any:
        patches_Bdhw = super()._conv(self._in_integers(image_BCHW, "image"), span, name)
        return self._in_integers(patches_Bdhw, "embed/patches")

    def linear(self, x: Any, place: str, factor: float = 1.0) -> Any:
        """Of integers, into integers."""
        given = self._in_integers(x, self._taps[x.name]) if x.name in self._taps else x
        return self._in_integers(super().linear(given, place, factor), place, factor)

    def norm(self, x_BND: Any, place: str) -> Any:
        return self._tapped(super().norm(x_BND, place), place)

    def activation(self, x: Any, place: str) -> Any:
        return self._tapped(super().activation(x, place), f"{place}/act")

    def product(self, x: Any, y: Any, place: str) -> Any:
        return self._tapped(super().product(x, y, place), f"{place}/product")

    def attention(self, qkv_BHNC: tuple[Any, Any, Any], place: str, num_queries: int) -> Any:
        return self._tapped(super().attention(qkv_BHNC, place, num_queries), f"{place}/values")

    def select(self, x_BND: Any, span: Span, place: str) -> Any:
        """Some tokens have the range of all."""
        chosen = super().select(x_BND, span, place)
        return self._tapped(chosen, self._taps[x_BND.name]) if x_BND.name in self._taps else chosen

    def _tapped(self, x: Any, tap: str) -> Any:
        self._taps[x.name] = tap
        return x

    def _in_integers(self, x: Any, tap: str, factor: float = 1.0) -> Any:
        """*x*, whose range is *factor* times that of *tap*, rounded to 8 bits; once, whoever takes it."""
        own, name = self._ranges[tap], f"{x.name}_dequantized"
        if own.wide:
            return x
        if name not in self._made:
            grid = grid_of(own.times(factor), self.dtype)
            integers = self.mb.quantize(input=x, **grid, output_dtype="int8", name=f"{x.name}_quantized")
            self._made[name] = self.mb.dequantize(input=integers, **grid, name=name)
        return self._made[name]

    def _bias(self, layer: str, rows: Span, factor: float) -> Any:
        """With what the norm before adds to the inputs."""
        cut, bias = self.weights.cut(f"{layer}.weight").along(0), self._folded.bias(layer)
        return self.weights.rounded(f"{layer}.bias", cut.block(bias, (rows,)).numpy(), factor)

    def _affine(self, place: str, factor: float) -> tuple[Any, Any]:
        """Without what is in the biases."""
        gamma, _ = super()._affine(place, factor)
        _, beta = self._folded.affine(place)
        return gamma, None if beta is None else self.weights.rounded(f"{place}.bias", beta.numpy(), factor)


def grid_of(own: Range, dtype: type[np.float16 | np.float32]) -> dict[str, Any]:
    """Scale and zero point as ``quantize`` takes them: the scale rounded up, so that both ends stay within."""
    grid = own.grid(8)
    scale = max(dtype(grid.scale), np.finfo(dtype).smallest_subnormal)
    if float(scale) < grid.scale:
        scale = np.nextafter(scale, dtype(np.inf))
    return {"scale": dtype(scale), "zero_point": np.int8(grid.zero_point)}
