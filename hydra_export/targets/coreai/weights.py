"""The normalised weights as Core AI assets hold them: layout, precision, quantization."""

# I input channels of a Linear, O output channels
from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from hydra_export import normalised
from hydra_export.normalised import Weight
from hydra_export.stored_weight import LARGEST_INT8, StoredWeight
from hydra_export.target import ExportSpec

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint

_SMALLEST_FP16 = 2.0**-24  # above 0


def stored(checkpoint: Checkpoint, spec: ExportSpec, heads: int) -> dict[str, StoredWeight]:
    """What the asset of subnetwork *heads*, or of several of which it is the largest, holds; Linears as [I, O].

    int8: the Linears alone, symmetric, in units of a scale per output channel, ``<name>.scale``. It is that of the
    largest subnetwork, so that all of them have the same numbers. The patch embedding stays fp16.
    """
    dtype, kept = "float32" if spec.precision == "fp32" else "float16", dict[str, StoredWeight]()
    for name, weight in normalised.weights(checkpoint.info.config, checkpoint.state).items():
        if not weight.is_matrix:
            kept[name] = StoredWeight(weight, dtype)
            continue
        matrix = weight.permuted(1, 0)
        if spec.precision != "int8":
            kept[name] = StoredWeight(matrix, dtype)
            continue
        scale_O = _scale(matrix.first(heads).detach())
        kept[name] = StoredWeight(matrix, "int8", scale_O, output_axis=1)
        kept[f"{name}.scale"] = StoredWeight(Weight(scale_O, matrix.cut.along(1)), dtype)
    return kept


def _scale(weight_IO: Tensor) -> Tensor:
    """Per output channel, rounded to fp16 as it is stored, so that its own rounding costs nothing."""
    return (weight_IO.abs().amax(0) / LARGEST_INT8).clamp_min(_SMALLEST_FP16).half().float()
