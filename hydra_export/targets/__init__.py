"""The targets, found by file name: adding one is adding one file or folder here that holds a ``TARGET``."""

from __future__ import annotations

import importlib
import pkgutil
from typing import cast

from hydra_export.errors import UnknownName
from hydra_export.target import Target

DEFAULT = "onnx"  # what is exported where nothing else is asked for


def names() -> tuple[str, ...]:
    """Every target's name, installed requirements or not."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def get(name: str) -> Target:
    """The target called *name*; UnknownName with the nearest otherwise."""
    if name not in names():
        raise UnknownName("target", name, names())
    return cast(Target, importlib.import_module(f"{__name__}.{name}").TARGET)
