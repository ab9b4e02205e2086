"""hydra-export: one Vision Transformer as verified ONNX, TFLite and Core ML files of every size that devices can run.

Importing this is quick: torch and timm are loaded with the first name that needs them.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from hydra_export.api import Bundle as Bundle
    from hydra_export.api import BundleArtifact as BundleArtifact
    from hydra_export.api import ImageSession as ImageSession
    from hydra_export.api import choose as choose
    from hydra_export.api import export as export
    from hydra_export.api import make_elastic as make_elastic
    from hydra_export.api import open_bundle as open_bundle
    from hydra_export.api import train_model as train_model
    from hydra_export.architecture import HydraConfig as HydraConfig
    from hydra_export.bundle import DeviceEntry as DeviceEntry
    from hydra_export.bundle import Manifest as Manifest
    from hydra_export.checkpoint import Checkpoint as Checkpoint
    from hydra_export.checkpoint import load as load_checkpoint
    from hydra_export.checkpoint_file import CheckpointInfo as CheckpointInfo
    from hydra_export.checkpoint_file import write as save_checkpoint
    from hydra_export.errors import BadInput as BadInput
    from hydra_export.errors import CheckFailed as CheckFailed
    from hydra_export.errors import HydraExportError as HydraExportError
    from hydra_export.model import HydraViT as HydraViT
    from hydra_export.preprocess import Preprocessing as Preprocessing
    from hydra_export.reference import save_reference as save_reference

    __version__: str

_PUBLIC = {
    "BadInput": "errors:BadInput",
    "Bundle": "api:Bundle",
    "BundleArtifact": "api:BundleArtifact",
    "CheckFailed": "errors:CheckFailed",
    "Checkpoint": "checkpoint:Checkpoint",
    "CheckpointInfo": "checkpoint_file:CheckpointInfo",
    "DeviceEntry": "bundle:DeviceEntry",
    "HydraConfig": "architecture:HydraConfig",
    "HydraExportError": "errors:HydraExportError",
    "HydraViT": "model:HydraViT",
    "ImageSession": "api:ImageSession",
    "Manifest": "bundle:Manifest",
    "Preprocessing": "preprocess:Preprocessing",
    "choose": "api:choose",
    "export": "api:export",
    "load_checkpoint": "checkpoint:load",
    "make_elastic": "api:make_elastic",
    "open_bundle": "api:open_bundle",
    "save_checkpoint": "checkpoint_file:write",
    "save_reference": "reference:save_reference",
    "train_model": "api:train_model",
}
# Spelled out, as type checkers take a name for public only so.
__all__ = [
    "BadInput",
    "Bundle",
    "BundleArtifact",
    "CheckFailed",
    "Checkpoint",
    "CheckpointInfo",
    "DeviceEntry",
    "HydraConfig",
    "HydraExportError",
    "HydraViT",
    "ImageSession",
    "Manifest",
    "Preprocessing",
    "choose",
    "export",
    "load_checkpoint",
    "make_elastic",
    "open_bundle",
    "save_checkpoint",
    "save_reference",
    "train_model",
]


def __getattr__(name: str) -> Any:
    places = {**_PUBLIC, "__version__": "version:VERSION"}
    if name not in places:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = places[name].split(":")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


class _WithTimm:
    """``timm.create_model('hydravit_base_patch16_224')`` works in whichever order the two are imported."""

    _asks_others = False

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Finds timm as ever, and has our models registered when it was imported."""
        if name != "timm" or cls._asks_others:
            return None
        from importlib.util import find_spec

        cls._asks_others = True
        try:
            found = find_spec(name)
        finally:
            cls._asks_others = False
        if found is not None and found.loader is not None:
            load = found.loader.exec_module

            def load_and_register(module: ModuleType) -> None:
                load(module)
                importlib.import_module(f"{__name__}.model")

            found.loader.exec_module = load_and_register  # type: ignore[method-assign]
        return found


if "timm" in sys.modules:
    importlib.import_module(f"{__name__}.model")
else:
    sys.meta_path.insert(0, _WithTimm)
