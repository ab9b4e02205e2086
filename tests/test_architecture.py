"""What importing the package costs and brings."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hydra_export
from hydra_export import targets
from hydra_export.target import Target

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
    ["hydra_export", "hydra_export.errors", "hydra_export.files", "hydra_export.network", "hydra_export.cli"],
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
    allowed |= {"runtime.py"}  # imports nothing of ours: it goes into apps
    root, found = Path(hydra_export.__path__[0]), set()
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
                found.add(path.relative_to(root).as_posix())
    runners = {f"targets/{name}/runners.py" for name in targets.names()}  # import nothing of ours: they run alone
    assert found - runners == allowed


# What names a target, and may: what stands on its own, and texts for others.
_NAMES_A_TARGET = {
    "mil/": "reads and runs the packages of one format, ours or not: public, and no part of a target",
    "runtime.py": "the library that a bundle carries, for apps: it runs what is there with what is installed",
    "data/snippets/": "programs for the readers of a bundle, one for several targets; each target lists its own",
    "protobuf.py": "reads what that library writes, for whichever format",
    "doctor.py": "a key of the output of doctor --json is the name of a runtime",
    "commands/doctor.py": "the same",
}


def test_no_module_outside_the_targets_names_one() -> None:
    """By its name, its title, its packages or its runtimes: in identifiers, texts, and docstrings that are help."""
    known = map(targets.get, targets.names())
    words = {word for target in known for word in (target.name, target.title, *target.packages, *_runtimes(target))}
    pattern = re.compile("|".join(rf"(?<![a-z]){re.escape(word)}(?![a-z])" for word in sorted(words)), re.IGNORECASE)
    root, found = Path(hydra_export.__path__[0]), dict[str, list[str]]()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if not name.startswith("targets/"):
            hits = [text for text in _texts(path, name.startswith("commands/")) if pattern.search(text)]
            found |= {name: hits} if hits else {}
    allowed = {name for name in found if any(name.startswith(prefix) for prefix in _NAMES_A_TARGET)}
    assert {name: hits for name, hits in found.items() if name not in allowed} == {}
    assert {next(p for p in _NAMES_A_TARGET if name.startswith(p)) for name in allowed} == set(_NAMES_A_TARGET)


def _runtimes(target: Target) -> set[str]:
    """Their names, and those of the packages that ``bench`` runs them by."""
    verifying = {runtime.name for precision in target.precisions for runtime in target.runtimes(precision)}
    return verifying | {runtime.name for runtime in target.device_runtimes}


def _texts(path: Path, with_docstrings: bool) -> Iterator[str]:
    """Every identifier and text of a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    documented = [node for node in nodes if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body]
    first = [node.body[0] for node in documented]
    docstrings = {id(each.value) for each in first if isinstance(each, ast.Expr)}
    for node in nodes:
        if id(node) in docstrings and not with_docstrings:
            continue
        yield from (value for _name, value in ast.iter_fields(node) if isinstance(value, str))


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


def test_every_class_name_has_one_meaning() -> None:
    """A name that two classes share, private or not, means two things to a reader of messages and reviews."""
    root, places = Path(hydra_export.__path__[0]), dict[str, list[str]]()
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name.lstrip("_"), []).append(path.relative_to(root).as_posix())
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
