"""Packages of every choice that a model has."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import torch

from hydra_export import mil
from hydra_export.architecture import HydraConfig
from hydra_export.checkpoint import Checkpoint, load
from hydra_export.errors import CheckFailed
from hydra_export.target import STATIC, Artifact, InputForm, Precision
from hydra_export.targets.coreml import MACOS, TARGET
from tests.targets.conftest import Case, given
from tests.targets.coreml.conftest import Opened, Proof
from tests.targets.coreml.test_lint import sealed
from tests.targets.coreml.test_package import READ_BACK, relabelled
from tests.variants import VARIANTS, checkpoint, turns

_MODELS = VARIANTS | {
    "distilled, own classifiers": msgspec.structs.replace(VARIANTS["distilled"], separate_classifiers=(1, 2, 4)),
    "whole attention, norms": msgspec.structs.replace(VARIANTS["RMSNorm"], head_dim=16),
    "whole attention, pooling": msgspec.structs.replace(VARIANTS["attention pooling"], head_dim=16),
}
_QUICK: list[tuple[Case, dict[str, Any]]] = [
    (Case(TARGET, "separate", "fp32"), {"ios": 15, "batch": 3}),
    (Case(TARGET, "universal", "fp16"), {}),
    (Case(TARGET, "universal", "int8"), {"input": "image"}),
]


def _every() -> Iterator[tuple[Case, dict[str, Any]]]:
    forms = itertools.product(get_args(InputForm), (1, 3))
    precisions = [precision for precision in TARGET.precisions if precision not in STATIC]  # of others: test_static
    for graph, precision, ios, (form, batch) in itertools.product(TARGET.graphs, precisions, MACOS, forms):
        case, choices = Case(TARGET, graph, precision), {"ios": ios, "input": form, "batch": batch}
        if not case.refuses(**choices):
            yield case, choices


def _written(model: Checkpoint, out: Path, case: Case, choices: dict[str, Any]) -> Iterator[tuple[Artifact, Path]]:
    for artifact in case.write(model, (1, 2, 4), out, **choices):
        yield artifact, out / artifact.path


def _prove(config: HydraConfig, out: Path, cases: list[tuple[Case, dict[str, Any]]]) -> None:
    model = checkpoint(config)
    for number, (case, choices) in enumerate(cases):
        for artifact, path in _written(model, out / str(number), case, choices):
            TARGET.lint(path)
            assert TARGET.signature(path) == (artifact.inputs, artifact.outputs)
            for k in artifact.heads:
                Proof(model, artifact, k).of(path)


@pytest.mark.parametrize("name", _MODELS)
def test_packages_compute_every_choice(name: str, tmp_path: Path) -> None:
    _prove(_MODELS[name], tmp_path, _QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("name", _MODELS)
def test_so_does_every_package(name: str, tmp_path: Path) -> None:
    _prove(_MODELS[name], tmp_path, turns(_every(), list(_MODELS).index(name), 3))


@pytest.mark.slow
def test_coremltools_reads_them_back_and_infers_the_same_types(tmp_path: Path) -> None:
    paths: list[str] = []
    for name, (case, choices) in itertools.product(_MODELS, _QUICK):
        written = _written(checkpoint(_MODELS[name]), tmp_path / str(len(paths)), case, choices)
        paths += [str(path) for _, path in written]
    done = subprocess.run([sys.executable, "-c", READ_BACK, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.split()) == 9 * len(_MODELS)


@pytest.mark.parametrize("name", ["RMSNorm", "plain"])
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_norms_take_tokens_whose_squares_no_float16_holds(name: str, precision: Precision, tmp_path: Path) -> None:
    model = checkpoint(VARIANTS[name]).model
    with torch.no_grad():
        model.get_parameter("pos_embed").mul_(5000)
    large = load(model)
    ((artifact, path),) = _written(large, tmp_path / "out", Case(TARGET, "universal", precision), {})
    for k in artifact.heads:
        Proof(large, artifact, k).of(path)


def test_a_distilled_classifier_says_the_label_of_both_heads(tmp_path: Path) -> None:
    model = checkpoint(VARIANTS["distilled"])
    relabelled(model, tuple(f"class {i}" for i in range(model.info.config.num_classes)))
    case = Case(TARGET, "universal", "fp16")
    ((artifact, path),) = _written(model, tmp_path / "out", case, {"classifier": True})
    package, image = mil.load(path), given(model, artifact.spec)[:1]
    for k in artifact.heads:
        outputs = package.run({"image": image}, f"k{k}")
        assert outputs["classLabel"] == f"class {outputs['logits'].argmax()}"
        Proof(model, artifact, k).of(path)


@pytest.mark.parametrize("name", ["average", "maximum"])
def test_a_reduction_that_does_not_pool_tokens_is_named(name: str, tmp_path: Path) -> None:
    ((_, path),) = _written(checkpoint(VARIANTS[name]), tmp_path / "out", Case(TARGET, "universal", "fp16"), {})
    TARGET.lint(path)
    package = Opened(path, "k4")
    package.numbers(package.named("pool_mean_axes_0", "pool_max_axes_0"))[0] = -2
    sealed(package)
    with pytest.raises(CheckFailed, match=r"reduce_.* and tokens are pooled by"):
        TARGET.lint(path)
