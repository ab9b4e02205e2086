"""What times ONNX files in ``bench``, here and on boards.

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


def _has_cuda() -> bool:
    if not _has("onnxruntime"):
        return False
    import onnxruntime as ort

    return "CUDAExecutionProvider" in ort.get_available_providers()


def _has_bf16() -> bool:
    if not _has("openvino"):
        return False
    ov = importlib.import_module("openvino")

    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _onnxruntime(path: Path, threads: int, provider: str = "CPUExecutionProvider") -> Callable[[int], Run]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4  # fatal: errors are raised
    options.intra_op_num_threads = threads
    # Between calls others have the cores: threads that wait busily for the next one would take them.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(
        str(path), options, providers=list(dict.fromkeys([provider, "CPUExecutionProvider"]))
    )
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"{provider} could not be used")
    names = [one.name for one in session.get_inputs()]

    def at(heads: int) -> Run:
        chosen = {"k": np.array(heads, np.int64)} if "k" in names else {}
        return lambda image: session.run(None, {names[0]: image, **chosen})[0]

    return at


def _openvino(path: Path, threads: int, compute: str = "f32") -> Callable[[int], Run]:
    ov = importlib.import_module("openvino")

    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": compute,
    }
    compiled = ov.Core().compile_model(str(path), "CPU", config)
    request = compiled.create_infer_request()
    names = [one.get_any_name() for one in compiled.inputs]

    def at(heads: int) -> Run:
        chosen = {"k": np.array(heads, np.int64)} if "k" in names else {}

        def run(image: Any) -> Any:
            request.infer({names[0]: image, **chosen})
            return np.array(request.get_output_tensor(0).data)

        return run

    return at


def _version(package: str) -> str:
    return str(importlib.import_module(package).__version__)


RUNNERS = {
    "onnxruntime": {
        "unit": "cpu",
        "compute": "fp32",
        "times": "onnxruntime",
        "installed": lambda: _has("onnxruntime"),
        "version": lambda: _version("onnxruntime"),
        "open": _onnxruntime,
    },
    "onnxruntime-cuda": {
        "unit": "gpu",
        "compute": "fp32",
        "times": "onnxruntime",
        "installed": _has_cuda,
        "version": lambda: _version("onnxruntime"),
        "open": lambda path, threads: _onnxruntime(path, threads, "CUDAExecutionProvider"),
    },
    "openvino": {
        "unit": "cpu",
        "compute": "fp32",
        "times": "openvino",
        "installed": lambda: _has("openvino"),
        "version": lambda: _version("openvino"),
        "open": _openvino,
    },
    "openvino-bf16": {
        "unit": "cpu",
        "compute": "bf16",
        "times": "openvino",
        "installed": _has_bf16,
        "version": lambda: _version("openvino"),
        "open": lambda path, threads: _openvino(path, threads, "bf16"),
    },
}
NEEDS = "onnxruntime"
