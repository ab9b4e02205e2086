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
        return lambda image_BHWC: runner(image=image_BHWC, **chosen)[output]

    return at


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
