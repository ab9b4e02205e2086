"""What importing the package costs and brings."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

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


def test_no_module_of_ours_is_imported_by_its_name_in_a_string() -> None:
    """What import-linter cannot see: but for the lazy public names, the targets, and what a worker is asked for."""
    allowed = {"__init__.py", "targets/__init__.py", "worker/child.py"}
    root, found = Path(hydra_export.__path__[0]), set()
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
                found.add(path.relative_to(root).as_posix())
    assert found - {"board.py"} == allowed  # board.py imports nothing of ours: it runs alone


@pytest.mark.slow
def test_importing_in_any_order_registers_the_models_with_timm() -> None:
    for name in ("hydra_export.checkpoint_file", "hydra_export.importing.sources", "hydra_export.model"):
        program = f"import {name}, timm; assert timm.list_models('hydravit*')"
        subprocess.run([sys.executable, "-c", program], check=True)


def test_no_module_bears_the_name_of_a_function_beside_it() -> None:
    """Which of the two an import gives would depend on what was imported before."""
    for name in ("hydra_export", "hydra_export.bundle", "hydra_export.exporting", "hydra_export.evaluation"):
        package = importlib.import_module(name)
        beside = {module.name for module in pkgutil.iter_modules(package.__path__)}
        assert not beside & {*getattr(package, "__all__", ())}, name
