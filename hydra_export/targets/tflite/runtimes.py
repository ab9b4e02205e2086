"""The interpreters that run a .tflite here: each opens a file that passed lint, and gives a function that runs it."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

import msgspec
import numpy as np

from hydra_export.arrays import Array
from hydra_export.errors import CheckFailed

Call = Callable[..., Array]  # of an image, and of a head count where that is an input


class Opening(msgspec.Struct, frozen=True):
    """What to open, and how: signatures of the file at *path*, in *runtime*.

    Attributes:
        signature: what runs where no head count is given.
        chooser: what runs where one is, "" for a file without.
        output: the signature's name for what it returns.
        threads: 0 for the runtime's choice.
        stamp: when and what file it was, so that another one at the same path is opened anew.
    """

    runtime: str
    path: str
    signature: str
    output: str
    threads: int
    stamp: tuple[int, ...]
    chooser: str = ""


def open_here(opening: Opening) -> Call:
    """Opens the file in this process.

    Raises:
        CheckFailed: the runtime cannot load it; the function raises it where it cannot run it.
    """
    try:
        call = _RUNTIMES[opening.runtime](opening)
    except (RuntimeError, ValueError) as error:
        raise CheckFailed(f"{opening.runtime} cannot load {opening.path}: {error}.") from error

    def checked(image: Array, k: Array | None = None) -> Array:
        try:
            return call(image, k)
        except (RuntimeError, ValueError) as error:
            with_k = "" if k is None else f" with k = {k.tolist()}"
            raise CheckFailed(f"{opening.runtime} cannot run {opening.path}{with_k}: {error}.") from error

    return checked


_kept_open = functools.lru_cache(maxsize=1)(open_here)


def serve(opening: dict[str, Any], image: Array | None, k: Array | None) -> Array | None:
    """What a worker does: runs *image*, or opens the file alone. It keeps the last file open."""
    call = _kept_open(msgspec.convert(opening, Opening))
    return None if image is None else call(image, k)


def _litert(opening: Opening) -> Call:
    from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-untyped]

    return _signature_runner(Interpreter, opening)


def _tensorflow(opening: Opening) -> Call:
    try:
        import tensorflow as tf  # type: ignore[import-untyped]
    except ImportError as error:
        raise CheckFailed(
            f"tensorflow is installed but cannot be imported: {error}.", "Install it again, or uninstall it."
        ) from error
    return _signature_runner(tf.lite.Interpreter, opening)


def _signature_runner(interpreter: Any, opening: Opening) -> Call:
    """LiteRT and TensorFlow have the same interface."""
    shared = _shared(opening, lambda: _allocated(interpreter(opening.path, num_threads=opening.threads or None)))
    by_signature = shared.model.get_signature_runner(opening.signature)
    by_k = shared.model.get_signature_runner(opening.chooser) if opening.chooser else None

    def call(image: Array, k: Array | None) -> Array:
        with shared.lock:
            if k is None:
                return np.array(by_signature(image=image)[opening.output])
            assert by_k is not None
            return np.array(by_k(image=image, k=k)[opening.output])

    return call


def _allocated(opened: Any) -> Any:
    opened.allocate_tensors()
    return opened


def _litert_compiled(opening: Opening) -> Call:
    """LiteRT's newer interface, on the CPU."""
    from ai_edge_litert.compiled_model import CompiledModel  # type: ignore[import-untyped]
    from ai_edge_litert.options import CpuOptions, Options  # type: ignore[import-untyped]

    options = Options(cpu_options=CpuOptions(num_threads=opening.threads))
    shared = _shared(opening, lambda: CompiledModel.from_file(opening.path, options=options))
    model = shared.model
    details = model.get_output_tensor_details(opening.signature)[opening.output]
    shape, dtype = tuple(details["shape"]), np.dtype(details["dtype"])
    through = np.dtype(np.int8) if dtype == np.int16 else dtype  # of which ai-edge-litert 2.3 knows no more than bytes
    buffers = {}
    for key in filter(None, (opening.signature, opening.chooser)):
        index = model.get_signature_index(key)
        inputs = dict(zip(model.get_input_tensor_details(key), model.create_input_buffers(index), strict=True))
        buffers[key] = (index, inputs, model.create_output_buffers(index))

    def call(image: Array, k: Array | None) -> Array:
        index, inputs, (output,) = buffers[opening.signature if k is None else opening.chooser]
        with shared.lock:
            inputs["image"].write(image.view(np.int8) if image.dtype == np.int16 else image)
            if k is not None:
                inputs["k"].write(k)
            model.run_by_index(index, list(inputs.values()), [output])
            read: Array = output.read(math.prod(shape) * dtype.itemsize // through.itemsize, through)
            logits: Array = read.view(dtype).reshape(shape)
            return logits

    return call


class _Shared:
    """What a runtime made of a file, for all sessions of it; it runs one signature at a time."""

    def __init__(self, model: Any) -> None:
        self.model, self.lock = model, threading.Lock()


_open: WeakValueDictionary[object, _Shared] = WeakValueDictionary()


def _shared(opening: Opening, open_file: Callable[[], Any]) -> _Shared:
    """What *open_file* makes of the file, once for all sessions that there are of it."""
    key = (opening.runtime, opening.path, opening.threads, opening.stamp)
    if (shared := _open.get(key)) is None:
        shared = _open[key] = _Shared(open_file())
    return shared


_RUNTIMES: dict[str, Callable[[Opening], Call]] = {
    "litert": _litert,
    "litert-compiled": _litert_compiled,
    "tensorflow": _tensorflow,
}
