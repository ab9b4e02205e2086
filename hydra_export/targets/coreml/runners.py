"""What times Core ML packages in ``bench``, here and on boards.

The text of this module is part of the program that boards run: it takes Python 3.8, numpy and the runtime.
"""

# B batch, C channels, H height, W width
from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # Python 3.8 does not know these forms
    from collections.abc import Callable
    from typing import Any

    Run = Callable[[Any], Any]  # a batch of images to its logits


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _coreml(path: Path, _threads: int) -> Callable[[int], Run]:
    ct = importlib.import_module("coremltools")

    def at(heads: int) -> Run:
        model = ct.models.MLModel(str(path))
        if f"k{heads}" in (model._get_function_names() if hasattr(model, "_get_function_names") else ()):
            model = ct.models.MLModel(str(path), function_name=f"k{heads}")
        return lambda image: model.predict({"image": image})["logits"]

    return at


RUNNERS = {
    "coreml": {
        "unit": "npu",
        "compute": "fp16",
        "times": "coreml",
        "installed": lambda: sys.platform == "darwin" and _has("coremltools"),
        "version": lambda: str(importlib.import_module("coremltools").__version__),
        "open": _coreml,
    },
}
NEEDS = "coremltools (on a Mac)"
