"""Running an ONNX artifact."""

from __future__ import annotations

from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import onnxruntime as ort

from hydra_export.arrays import Array
from hydra_export.errors import CheckFailed
from hydra_export.quantized.interface import as_integers, as_numbers
from hydra_export.target import TensorInfo
from hydra_export.unchanged import stamps

_FATAL_ONLY = 4  # errors are raised
_OUTPUTS = (["logits"], ["features"], ["patch_tokens"])


class OnnxSession:
    """An onnxruntime session on the CPU, with as many threads as it chooses unless *threads* says.

    Where the graph takes the head count as an input, ``heads`` is what it is given; it may be changed between runs.
    Sessions of one file share what onnxruntime makes of it.
    """

    def __init__(self, path: Path, threads: int = 0, heads: int | None = None) -> None:
        self.runtime = _opened(path, threads)
        inputs, outputs = self.runtime.get_inputs(), self.runtime.get_outputs()
        takes_heads = [(info.name, info.type, info.shape) for info in inputs[1:]] == [("k", "tensor(int64)", [])]
        if not (len(inputs) == 1 or takes_heads) or [info.name for info in outputs] not in _OUTPUTS:
            raise CheckFailed(f"{path} has inputs or outputs other than an image, a head count k, and logits.")
        if takes_heads and heads is None:
            raise CheckFailed(f"{path} takes the head count as an input, but none was passed.")
        self.path, self.input, self.takes_heads, self.heads = path, inputs[0], takes_heads, heads
        batch = self.input.shape[0]
        self.batch = batch if isinstance(batch, int) else None
        self._counted = None if outputs[0].type == "tensor(float)" else _counted(path)

    def run(self, image: Array) -> Array:
        """Logits of any number of images, in batches of the graph's own size."""
        if self.batch is None:
            return self._run(image)
        padded = np.concatenate([image, np.repeat(image[-1:], -len(image) % self.batch, axis=0)])
        batches = [self._run(padded[at : at + self.batch]) for at in range(0, len(padded), self.batch)]
        return np.concatenate(batches)[: len(image)]

    def _run(self, image: Array) -> Array:
        try:
            chosen = {"k": np.array(self.heads, np.int64)} if self.takes_heads else {}
            given = image if self._counted is None else as_integers(image, self._counted[0])
            (logits,) = self.runtime.run(None, {self.input.name: given, **chosen})
        except Exception as error:
            raise CheckFailed(f"onnxruntime {ort.__version__} cannot run {self.path}: {error}.") from error
        return np.asarray(logits) if self._counted is None else as_numbers(logits, self._counted[1])


def _counted(path: Path) -> tuple[TensorInfo, TensorInfo]:
    """The image and the output of a graph that takes and gives integers."""
    import onnx

    from hydra_export.targets.onnx import file

    (image, *_), (output,) = file.signature(onnx.load(path, load_external_data=False))
    return image, output


_open: WeakValueDictionary[object, ort.InferenceSession] = WeakValueDictionary()


def _opened(path: Path, threads: int) -> ort.InferenceSession:
    key = (path, threads, stamps(path))
    if (already := _open.get(key)) is not None:
        return already
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = threads
    try:
        opened = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise CheckFailed(f"onnxruntime {ort.__version__} cannot load {path}: {error}.") from error
    _open[key] = opened
    return opened
