"""What ends the program of a classifier."""

from __future__ import annotations

from collections.abc import Sequence

from hydra_export.mil.operation import Array, Outputs, Param, expect, operation, value
from hydra_export.mil.types import DictionaryType, ListType, TensorType


def _classified(probabilities: TensorType, classes: ListType) -> Outputs:
    expect(probabilities.size == classes.length, f"{probabilities} does not fit {classes}")
    return TensorType("string", ()), DictionaryType("fp64")


@operation(_classified, {"probabilities": value("fp32"), "classes": Param("weight", ("list",))})
def classify(probabilities: Array, classes: Sequence[str]) -> tuple[str, dict[str, float]]:
    flat = probabilities.reshape(-1)
    return classes[int(flat.argmax())], dict(zip(classes, flat.tolist(), strict=True))
