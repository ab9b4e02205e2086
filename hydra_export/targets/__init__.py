"""The targets, found by file name: adding one is adding one file or folder here that holds a ``TARGET``."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import cast

from hydra_export.errors import UnknownName
from hydra_export.target import DeviceRuntime, Target

DEFAULT = "onnx"  # what is exported where nothing else is asked for


def names() -> tuple[str, ...]:
    """Every target's name, installed requirements or not."""
    return _in(tuple(__path__))


@functools.cache
def _in(folders: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(module.name for module in pkgutil.iter_modules(folders)))


def get(name: str) -> Target:
    """The target called *name*; UnknownName with the nearest otherwise."""
    if name not in names():
        raise UnknownName("target", name, names(), field="targets")
    return cast(Target, importlib.import_module(f"{__name__}.{name}").TARGET)


def device_runtimes() -> dict[str, DeviceRuntime]:
    """What runs artifacts on devices, by name: what needs no special tools first, of these the default target's."""
    return {name: runtime for name, (_target, runtime) in _runtimes(tuple(__path__)).items()}


def formats() -> dict[str, str]:
    """The target whose artifacts each of ``device_runtimes`` takes."""
    return {name: target for name, (target, _runtime) in _runtimes(tuple(__path__)).items()}


@functools.cache
def _runtimes(folders: tuple[str, ...]) -> dict[str, tuple[str, DeviceRuntime]]:
    in_order = sorted(_in(folders), key=lambda name: name != DEFAULT)
    runtimes = [(name, runtime) for name in in_order for runtime in get(name).device_runtimes]
    runtimes.sort(key=lambda each: (not each[1].usual, each[1].converts))
    return {runtime.name: (name, runtime) for name, runtime in runtimes}
