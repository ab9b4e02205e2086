"""The process beside ours, in which Apple's code reads and runs assets, and what it says of them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from hydra_export.errors import BadInput, CheckFailed, MissingExtra
from hydra_export.target import Interface, TensorInfo
from hydra_export.targets.coreai import TARGET, folder
from hydra_export.targets.coreai.description import AssetGraph, AssetTensor
from hydra_export.unchanged import Latest
from hydra_export.worker import Worker

_DTYPES = {"f32": "float32", "ui8": "uint8"}
_worker, _turn = Worker(), threading.Lock()


def call(function: str, what: str, /, **arguments: Any) -> Any:
    """What ``program``'s *function* returns.

    Raises:
        CheckFailed: it failed, or ended its process, whose files are deleted then.
        MissingExtra: Apple's package is not installed, or there is none for this system.
    """
    _check_installed()
    with _turn:
        return _worker.call(f"{__package__}.program:{function}", what=what, **arguments)


def _check_installed() -> None:
    """What cannot be read here may be as it should: that is no failed check."""
    try:
        TARGET.requires()
    except MissingExtra:
        raise
    except BadInput as error:
        remedy = "Read it on Linux (x86-64) or on a Mac with Apple silicon."
        raise MissingExtra("A Core AI asset", "coreai-core", "coreai", why=error.message, remedy=remedy) from error


def _described(path: Path) -> list[AssetGraph]:
    folder.check(path)
    return msgspec.convert(call("describe", f"Reading {path}", path=str(path)), list[AssetGraph])


described = Latest(_described)


def functions(path: Path) -> dict[str, AssetGraph]:
    """The functions of the asset at *path*, by name; CheckFailed where one does not take an image and give numbers."""
    found = {graph.name: graph for graph in described(path) if graph.is_function}
    ranks = {(_ranks(graph.inputs), _ranks(graph.outputs)) for graph in found.values()}
    if len(ranks) != 1 or not ranks <= {((4,), (2,)), ((4,), (3,))}:
        raise CheckFailed(f"{path} has inputs or outputs other than an image and logits.")
    return found


def _ranks(tensors: Sequence[tuple[str, AssetTensor]]) -> tuple[int, ...]:
    """0 for one without a fixed size."""
    return tuple(len(tensor.shape) if min(tensor.shape, default=0) > 0 else 0 for _, tensor in tensors)


def signature(path: Path) -> Interface:
    """What the functions of the asset at *path* take and give."""
    every = list(functions(path).values())
    ((name, image),), ((output, given),) = every[-1].inputs, every[-1].outputs
    shapes = {graph.outputs[0][1].shape for graph in every}
    shape: tuple[int | str, ...] = given.shape if len(shapes) == 1 else (*given.shape[:-1], "width")
    return (_info(name, image, image.shape),), (_info(output, given, shape),)


def _info(name: str, tensor: AssetTensor, shape: tuple[int | str, ...]) -> TensorInfo:
    return TensorInfo(name=name, dtype=_DTYPES.get(tensor.dtype, tensor.dtype), shape=shape)
