"""Running a package."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from hydra_export import mil
from hydra_export.arrays import Array
from hydra_export.errors import CheckFailed
from hydra_export.target import Interface, TensorInfo
from hydra_export.targets.coreml.graph import OUTPUTS
from hydra_export.unchanged import Latest

opened = Latest(mil.load)
_DTYPES = {"fp16": "float16", "fp32": "float32", "int32": "int32"}


class EvaluatorSession:
    """Our evaluator: it runs anywhere, and verifies the file.

    One thread by default: attention's products are so small that BLAS spends more on waking its threads than they
    save, and twenty times the work itself where other processes want the cores.
    """

    def __init__(self, path: Path, heads: int, compute: mil.Compute, threads: int = 0) -> None:
        self.package, self.compute, self.threads = opened(path), compute, threads or 1
        self.function, self.input, self.output = _interface(self.package, heads)

    def run(self, image: Array) -> Array:
        """Outputs of any number of images, in batches of the package's own size."""
        return _in_batches(image, self.input, self._run)

    def _run(self, batches_BCHW: list[Array]) -> list[Array]:
        batches = [{self.input.name: image_BCHW} for image_BCHW in batches_BCHW]
        with _blas_threads(self.threads):
            results = self.package.run_each(batches, self.function, self.compute)
        return [outputs[self.output] for outputs in results]


class CoreMLSession:
    """Core ML itself, on a Mac."""

    def __init__(self, path: Path, heads: int) -> None:
        import coremltools as ct

        package = opened(path)
        function, self.input, self.output = _interface(package, heads)
        try:
            self.model = ct.models.MLModel(str(path), function_name=None if function == "main" else function)
        except Exception as error:  # its errors share no base
            raise CheckFailed(f"Core ML cannot load {path}: {error}.") from error
        self.path = path

    def run(self, image: Array) -> Array:
        """Outputs of any number of images, in batches of the package's own size."""
        return _in_batches(image, self.input, self._run)

    def _run(self, batches_BCHW: list[Array]) -> list[Array]:
        return [self._predict(image_BCHW) for image_BCHW in batches_BCHW]

    def _predict(self, image_BCHW: Array) -> Array:
        given: Any = np.asarray(image_BCHW, np.float32)
        if self.input.kind == "image":
            from PIL import Image

            given = Image.fromarray(image_BCHW[0].transpose(1, 2, 0).astype(np.uint8).squeeze())
        try:
            outputs = self.model.predict({self.input.name: given})
        except Exception as error:  # its errors share no base
            raise CheckFailed(f"Core ML cannot run {self.path}: {error}.") from error
        return np.asarray(outputs[self.output], np.float32)


def signature(package: mil.Package) -> Interface:
    """What a package that lint passes takes and gives, beside what a classifier says."""
    default = package.signatures[package.default_function]
    (image,) = default.inputs
    batch, channels, height, width = image.shape
    if image.kind == "image":
        taken = TensorInfo(name=image.name, dtype="uint8", shape=(batch, height, width, channels))
    else:
        taken = TensorInfo(name=image.name, dtype=_DTYPES[image.dtype], shape=image.shape)
    (given,) = (each for each in default.outputs if each.name in OUTPUTS)
    shapes = {each.shape for of in package.signatures.values() for each in of.outputs if each.name in OUTPUTS}
    shape: tuple[int | str, ...] = given.shape if len(shapes) == 1 else (*given.shape[:-1], "width")
    return (taken,), (TensorInfo(name=given.name, dtype=_DTYPES[given.dtype], shape=shape),)


def _blas_threads(count: int) -> contextlib.AbstractContextManager[object]:
    """Limits numpy's BLAS to *count* threads, where threadpoolctl is there to do it."""
    if importlib.util.find_spec("threadpoolctl") is None:
        return contextlib.nullcontext()
    import threadpoolctl

    return cast(contextlib.AbstractContextManager[object], threadpoolctl.threadpool_limits(count, "blas"))


def _interface(package: mil.Package, heads: int) -> tuple[str, mil.Feature, str]:
    """The function of *heads*, its image input, and the output that parity is measured on."""
    function = "main" if set(package.functions) == {"main"} else f"k{heads}"
    if function not in package.functions:
        listed = ", ".join(sorted(package.functions, key=lambda name: (len(name), name)))
        raise CheckFailed(f"{package.path} has functions {listed}, none for heads {heads}.")
    signature = package.signatures[function]
    outputs = [each.name for each in signature.outputs if each.kind == "tensor" and each.name in OUTPUTS]
    if len(signature.inputs) != 1 or len(signature.inputs[0].shape) != 4 or len(outputs) != 1:
        raise CheckFailed(f"{package.path} has inputs or outputs other than an image and logits.")
    return function, signature.inputs[0], outputs[0]


def _in_batches(image: Array, declared: mil.Feature, run: Callable[[list[Array]], list[Array]]) -> Array:
    image_BCHW = image.transpose(0, 3, 1, 2) if declared.kind == "image" else image
    size = declared.shape[0]
    padded = np.concatenate([image_BCHW, np.repeat(image_BCHW[-1:], -len(image) % size, axis=0)])
    return np.concatenate(run([padded[at : at + size] for at in range(0, len(padded), size)]))[: len(image)]
