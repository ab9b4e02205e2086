"""What importing the package costs and brings."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import hydra_export

HEAVY = ("torch", "timm", "torchvision", "onnx", "onnxruntime", "sklearn", "scipy", "PIL")


def modules() -> list[str]:
    found = pkgutil.walk_packages(hydra_export.__path__, "hydra_export.")
    return [module.name for module in found if not module.name.endswith("__main__")]


@pytest.mark.parametrize("name", modules())
def test_every_module_can_be_imported_and_says_what_it_holds(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no first line"


@pytest.mark.parametrize("name", hydra_export.__all__)
def test_every_public_name_exists(name: str) -> None:
    assert getattr(hydra_export, name) is not None


@pytest.mark.parametrize(
    "name",
    ["hydra_export", "hydra_export.errors", "hydra_export.files", "hydra_export.architecture", "hydra_export.cli"],
)
def test_importing_it_loads_nothing_heavy(name: str) -> None:
    program = f"import sys, {name}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []


def test_what_the_package_says_of_types_is_installed() -> None:
    from importlib import resources

    assert resources.files("hydra_export").joinpath("py.typed").is_file()
