"""What ExecuTorch's benchmark app for Android writes as JSON: pytorch/executorch, extension/benchmark/android.

Its iOS app and ``executor_runner`` print no compute unit, and are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra_export.errors import BadInput
from hydra_export.printed import Measured, positive
from hydra_export.target import ComputeUnit

if TYPE_CHECKING:
    from hydra_export.device import NumberFormat

_METRIC = "avg_inference_latency(ms)"
# A file is called MODEL_BACKEND_QUANTIZATION.pte, which the app takes apart where MODEL is one word to it.
_UNITS: dict[str, ComputeUnit] = {"xnnpack": "cpu", "qnn": "npu", "vulkan": "gpu", "mps": "gpu"}
_PRECISIONS: dict[str, NumberFormat] = {"fp32": "fp32", "fp16": "fp16", "bf16": "bf16", "q8": "int8", "int8": "int8"}


def runs(document: Any, path: Path) -> Iterator[Measured]:
    """The runs in *document*; none where it is of another tool."""
    metrics = document if isinstance(document, list) else []
    for at, metric in enumerate(metrics):
        if isinstance(metric, dict) and metric.get("metric") == _METRIC:
            yield _run(metric, f"[{at}]", path)


def _run(metric: dict[str, Any], place: str, path: Path) -> Measured:
    model = metric.get("benchmarkModel")
    parts = [model.get(key) for key in ("name", "backend", "quantization")] if isinstance(model, dict) else []
    words = "_".join(part for part in parts if isinstance(part, str) and part).split("_")
    at = next((index for index, word in enumerate(words) if word.lower() in _UNITS), None)
    if at is None:
        raise BadInput(
            f"{path}: {place}.benchmarkModel: '{'_'.join(words)[:80]}' does not state its backend.",
            f"Name the file MODEL_BACKEND_QUANTIZATION.pte, with a BACKEND from {', '.join(_UNITS)}.",
        )
    return Measured(
        tool="ExecuTorch's minibench",
        ms=positive(metric.get("actualValue"), f"{place}.actualValue", path),
        statistic="mean",
        unit=_UNITS[words[at].lower()],
        graph="_".join(words[:at]),
        precision=_PRECISIONS.get("_".join(words[at + 1 :]).lower()),
    )
