"""The normalised weights as Core ML packages hold them: cut at head counts, rounded or quantized."""

# O output channels of a Linear or of the patch embedding
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hydra_export.errors import BadInput
from hydra_export.network import Cut, Span
from hydra_export.target import ExportSpec

if TYPE_CHECKING:  # running and linting a package needs no torch
    from hydra_export.checkpoint import Checkpoint
    from hydra_export.quantized.folded import Folded

_LARGEST_FP16 = float(np.finfo(np.float16).max)
_SMALLEST_FP16 = float(np.finfo(np.float16).smallest_subnormal)
_LARGEST_INT8 = 127  # symmetric: -128 would have no counterpart


@dataclass(frozen=True)
class Quantized:
    """A matrix, or a convolution's kernel, as int8 in units of *scale* [O], one for each output channel."""

    data: NDArray[np.int8]
    scale: NDArray[np.float16]


class Weights:
    """Hands out blocks of the normalised form, one at a time.

    Attributes:
        dtype: what they are rounded to, and computed with: int8 packages compute in fp16.
        ranges: of activations that are integers, by head count; None where none are.
    """

    def __init__(self, checkpoint: Checkpoint, spec: ExportSpec) -> None:
        from hydra_export import normalised

        self.config, self._name = checkpoint.info.config, checkpoint.info.name
        self._normalised = normalised.weights(self.config, checkpoint.state)
        self._quantized = spec.precision in ("int8", "int8-static")
        self.ranges = None if checkpoint.activations is None else checkpoint.activations.get(spec.precision)
        self.dtype: type[np.float16 | np.float32] = np.float32 if spec.precision == "fp32" else np.float16

    def cut(self, name: str) -> Cut:
        """How subnetworks are cut from *name*."""
        return self._normalised[name].cut

    def factor(self, name: str) -> float:
        """What *name* is multiplied by in the normalised form."""
        return self._normalised[name].factor

    def folded(self, heads: int) -> Folded:
        """The biases of subnetwork *heads* with what the norms before them add."""
        from hydra_export.quantized.folded import Folded

        return Folded(self.config, self._normalised, heads)

    def vector(self, name: str, span: Span, factor: float = 1.0) -> NDArray[Any]:
        """What the heads of *span* bring to *name*, which is never quantized: it grows on one axis at most."""
        return self.rounded(name, self._part(name, (span,) * len(self.cut(name).units)), factor)

    def matrix(self, name: str, rows: Span, columns: Span, factor: float = 1.0) -> NDArray[Any] | Quantized:
        """The block of *name* between head counts on its first axis, and on its second."""
        part = self._part(name, (rows, columns, *((0, 0),) * (len(self.cut(name).units) - 2)))
        rounded = self.rounded(name, part, factor)
        return _quantized(_scaled(part, factor)) if self._quantized else rounded

    def _part(self, name: str, spans: tuple[Span, ...]) -> NDArray[np.float32]:
        from hydra_export.normalised import array

        return array(self._normalised[name].part(spans))

    def rounded(self, name: str, part: NDArray[np.float32], factor: float = 1.0) -> NDArray[Any]:
        """*part* of *name*, or of what replaces it, as it is stored, times *factor*."""
        if self.dtype == np.float16 and not np.abs(part).max() <= _LARGEST_FP16:
            raise BadInput(
                f"{self._name}: {name} contains {np.abs(part).max():.3g}; the largest fp16 value is {_LARGEST_FP16:g}.",
                "Pass `precision=fp32`.",
            )
        return _scaled(part.astype(self.dtype), factor)


def _scaled(part: NDArray[Any], factor: float) -> NDArray[Any]:
    return part if factor == 1.0 else part * part.dtype.type(factor)


def _quantized(matrix: NDArray[np.float32]) -> Quantized:
    """In units of the scale as it is stored, so that its own rounding costs nothing."""
    along = tuple(range(1, matrix.ndim))
    largest_O = np.abs(matrix).max(axis=along)
    scale_O = np.maximum(largest_O / _LARGEST_INT8, _SMALLEST_FP16).astype(np.float16)
    data = np.rint(matrix / np.expand_dims(scale_O.astype(np.float32), along))
    return Quantized(data.clip(-_LARGEST_INT8, _LARGEST_INT8).astype(np.int8), scale_O)
