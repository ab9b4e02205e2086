"""Running a TFLite artifact."""

# B batch, H height, W width, C channels
from __future__ import annotations

import atexit
import contextlib
import functools
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from hydra_export.arrays import Array
from hydra_export.errors import CheckFailed
from hydra_export.quantized.interface import as_integers, as_numbers
from hydra_export.targets.tflite.lint import chosen, linted, listed_heads
from hydra_export.targets.tflite.lint import signature as interface
from hydra_export.targets.tflite.operators import DYNAMIC
from hydra_export.targets.tflite.runtimes import Call, Opening, open_here
from hydra_export.worker import Worker

# LiteRT's compiled model writes to the terminal when it is loaded, first run, and when the process ends; TensorFlow
# cannot share a process with coremltools.
_IN_A_WORKER = ("litert-compiled", "tensorflow")
# In ai-edge-litert 2.3.0 the output of a compiled model keeps its size when the input gets another, and what is
# computed is written beyond its end.
_NEVER_RESIZED = ("litert-compiled",)
_redirecting = threading.Lock()


class TFLiteSession:
    """One head count of a file, in one runtime; the file is linted first.

    Where the file takes the head count as an input too, the first images are also given to that signature: the logits
    have to be the same.
    """

    def __init__(self, path: Path, threads: int, runtime: str, heads: int) -> None:
        model = linted(path)
        signature, image, chooser = chosen(model, path, heads)
        self._listed = listed_heads(model)
        status = path.stat()
        self.heads, self._proven = heads, not chooser
        self.opening = Opening(
            runtime=runtime,
            path=str(path.absolute()),
            signature=signature.key,
            output=next(iter(signature.outputs)),
            threads=threads,
            stamp=(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns),
            chooser=chooser,
        )
        self.dtype, self.shape_BHWC = image.dtype, image.shape
        (self._given, *_), (self._made,) = interface(model)
        self._call = _in_a_worker(self.opening) if runtime in _IN_A_WORKER else _quietly(self.opening)

    def run(self, image: Array) -> Array:
        """Logits of any number of images, in batches of the graph's own size."""
        logits = self._run(image, None)
        if not self._proven:
            chosen_logits = self.run_choosing(image, self.heads)
            if not np.array_equal(chosen_logits, logits, equal_nan=True):
                raise CheckFailed(
                    f"{self.opening.runtime}: in {self.opening.path}, signature '{self.opening.chooser}' with "
                    f"k = {self.heads} has other logits than signature '{self.opening.signature}': they differ by "
                    f"{np.abs(chosen_logits - logits).max():.3g}."
                )
            self._proven = True
        return logits

    def run_choosing(self, image: Array, heads: int) -> Array:
        """The same through the signature that takes the head count as an input, whichever this session is of.

        Raises:
            CheckFailed: the file has no such signature, or does not hold subnetwork *heads*.
        """
        if not self.opening.chooser:
            raise CheckFailed(f"{self.opening.path} has no signature that takes the head count.")
        try:
            return self._run(image, np.array([heads], np.int32))
        except CheckFailed as error:
            raise CheckFailed(error.message, f"It has k = {', '.join(map(str, self._listed))}.") from error

    def _run(self, image: Array, k: Array | None) -> Array:
        images_BHWC = image
        if self.dtype != "uint8":
            images_BHWC = as_integers(np.ascontiguousarray(image.transpose(0, 2, 3, 1)), self._given)
        if images_BHWC.dtype != self.dtype or images_BHWC.shape[1:] != self.shape_BHWC[1:]:
            raise CheckFailed(
                f"{self.opening.runtime} cannot run {self.opening.path}: it takes {self.dtype} "
                f"{list(self.shape_BHWC)} (channels last), not {images_BHWC.dtype} {list(images_BHWC.shape)}."
            )
        batch = self.shape_BHWC[0]
        if batch == DYNAMIC:
            batch = 1 if self.opening.runtime in _NEVER_RESIZED else len(images_BHWC)
        padded = np.concatenate([images_BHWC, np.repeat(images_BHWC[-1:], -len(images_BHWC) % batch, axis=0)])
        batches = [self._call(padded[at : at + batch], k) for at in range(0, len(padded), batch)]
        return as_numbers(np.concatenate(batches)[: len(images_BHWC)], self._made)


def _quietly(opening: Opening) -> Call:
    with _native_output_dropped():
        return open_here(opening)


def _in_a_worker(opening: Opening) -> Call:
    asked = msgspec.to_builtins(opening)
    worker = _worker(opening.runtime)

    def call(image: Array | None, k: Array | None = None) -> Array:
        what = f"{opening.runtime} with {opening.path}"
        return worker.call(f"{open_here.__module__}:serve", what=what, opening=asked, image=image, k=k)  # type: ignore[no-any-return]

    call(None)
    _close_at_exit(opening.runtime)
    return call


@functools.cache
def _worker(runtime: str) -> Worker:
    """One process per runtime, kept: TensorFlow takes seconds to import."""
    return Worker()


@functools.cache
def _close_at_exit(runtime: str) -> None:
    """Asked for once it runs: so that it ends before Python looks for temporary folders that were left behind."""
    atexit.register(_worker(runtime).close)


@contextlib.contextmanager
def _native_output_dropped() -> Iterator[None]:
    """Keeps off the terminal what LiteRT says while it loads; it has no switch for that in Python."""
    with _redirecting, Path(os.devnull).open("wb") as dropped:
        stderr = os.dup(2)
        os.dup2(dropped.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
