"""Running an ONNX artifact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from hydra_export.errors import CheckFailed
from hydra_export.target import Array

_ERRORS_ONLY = 3


class OnnxSession:
    """An onnxruntime session on the CPU, with as many threads as it chooses unless *threads* says."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        options.intra_op_num_threads = threads
        try:
            self.runtime = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise CheckFailed(f"onnxruntime {ort.__version__} cannot load {path}: {error}.") from error
        inputs, outputs = self.runtime.get_inputs(), self.runtime.get_outputs()
        if len(inputs) != 1 or [output.name for output in outputs] not in (["logits"], ["features"]):
            raise CheckFailed(f"{path} has other inputs and outputs than one image and its logits.")
        self.path, self.input = path, inputs[0]
        batch = self.input.shape[0]
        self.batch = batch if isinstance(batch, int) else None

    def run(self, image: Array) -> Array:
        """Logits of any number of images, in batches of the graph's own size."""
        if self.batch is None:
            return self._run(image)
        padded = np.concatenate([image, np.repeat(image[-1:], -len(image) % self.batch, axis=0)])
        batches = [self._run(padded[at : at + self.batch]) for at in range(0, len(padded), self.batch)]
        return np.concatenate(batches)[: len(image)]

    def _run(self, image: Array) -> Array:
        try:
            (logits,) = self.runtime.run(None, {self.input.name: image})
        except Exception as error:
            raise CheckFailed(f"onnxruntime {ort.__version__} cannot run {self.path}: {error}.") from error
        return np.asarray(logits)
