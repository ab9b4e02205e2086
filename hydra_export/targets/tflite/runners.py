"""What times TFLite files in ``bench``, here and on boards.

The text of this module is part of the program that boards run: it takes Python 3.8, numpy and the runtime.
"""

# B batch, C channels, H height, W width
from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # Python 3.8 does not know these forms
    from collections.abc import Callable
    from typing import Any

    Run = Callable[[Any], Any]  # a batch of images to its logits


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _package() -> str:
    return "ai_edge_litert" if _has("ai_edge_litert") else "tflite_runtime"


def _litert(path: Path, threads: int) -> Callable[[int], Run]:
    interpreter = importlib.import_module(f"{_package()}.interpreter").Interpreter(str(path), num_threads=threads)
    interpreter.allocate_tensors()
    signatures = interpreter.get_signature_list()

    def at(heads: int) -> Run:
        key = f"k{heads}" if f"k{heads}" in signatures else next(iter(signatures))
        runner = interpreter.get_signature_runner(key)
        (output,) = signatures[key]["outputs"]
        chosen = {"k": np.array([heads], np.int32)} if "k" in signatures[key]["inputs"] else {}
        to_integers, to_numbers = _counted(runner.get_input_details()["image"], runner.get_output_details()[output])
        return lambda image_BHWC: to_numbers(runner(image=to_integers(image_BHWC), **chosen)[output])

    return at


def _counted(image: dict[str, Any], output: dict[str, Any]) -> tuple[Run, Run]:
    """What makes the integers that a graph takes of numbers, and numbers of those that it gives."""

    def to_integers(numbers: Any) -> Any:
        if numbers.dtype == image["dtype"]:
            return numbers
        (scale, zero_point), ends = image["quantization"], np.iinfo(image["dtype"])
        return np.clip(np.rint(numbers / scale) + zero_point, ends.min, ends.max).astype(image["dtype"])

    def to_numbers(integers: Any) -> Any:
        if integers.dtype == np.float32:
            return integers
        scale, zero_point = output["quantization"]
        return (integers.astype(np.float32) - zero_point) * np.float32(scale)

    return to_integers, to_numbers


RUNNERS = {
    "litert": {
        "unit": "cpu",
        "compute": "fp32",
        "times": "litert",
        "installed": lambda: _has(_package()),
        "version": lambda: str(importlib.import_module(_package()).__version__),
        "open": _litert,
    },
}
NEEDS = "ai-edge-litert"
