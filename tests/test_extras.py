"""What works with the base install alone, and what a missing extra says."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
from pathlib import Path

import pytest

from hydra_export import bundle
from hydra_export.cli import main
from hydra_export.installation import install_command
from tests.conftest import available_targets

ROOT = Path(__file__).parents[1]
EXTRAS = ("ai_edge_litert", "coreai", "coremltools", "tensorflow", "matplotlib", "tensorboard", "litert_torch", "wandb")
DEVELOPMENT = ("sklearn", "scikit_learn")  # installed for the tests


@pytest.fixture(scope="module")
def base_install(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed packages but for those of the extras, as links."""
    folder = tmp_path_factory.mktemp("site-packages")
    for installed in map(Path, site.getsitepackages()):
        for entry in installed.iterdir():
            if entry.suffix not in (".pth", ".egg-link") and not entry.name.startswith((*EXTRAS, *DEVELOPMENT)):
                (folder / entry.name).symlink_to(entry)
    return folder


def run(base_install: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(base_install)])}
    # -S: the environment's own site-packages stays out.
    command = [sys.executable, "-S", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_the_base_install_has_none_of_the_extras(base_install: Path) -> None:
    for name in (*EXTRAS, "sklearn"):
        assert "No module named" in run(base_install, "-c", f"import {name}").stderr


@pytest.mark.parametrize("target", ["onnx", "coreml"])
def test_the_base_install_exports_and_verifies(base_install: Path, tmp_path: Path, target: str) -> None:
    exported = run(
        base_install, "-m", "hydra_export", "--target", target, "--heads", "3", "--out", str(tmp_path / "bundle")
    )
    assert exported.returncode == 0, exported.stderr
    verified = run(base_install, "-m", "hydra_export", "verify", str(tmp_path / "bundle"))
    assert verified.returncode == 0, verified.stderr
    assert bundle.read(tmp_path / "bundle").artifacts[0].target == target


def test_the_base_install_trains_on_the_digits(base_install: Path, tmp_path: Path) -> None:
    options = ("--recipe", "digits", "--steps", "1", "--threads", "1", "--out", str(tmp_path / "run"))
    trained = run(base_install, "-m", "hydra_export", "train", *options)
    assert trained.returncode == 0, trained.stderr


@pytest.mark.parametrize("target", ["tflite"])
def test_a_target_whose_extra_is_missing_names_the_line_that_installs_it(
    base_install: Path, tmp_path: Path, target: str
) -> None:
    done = run(base_install, "-m", "hydra_export", "--target", target, "--out", str(tmp_path / "bundle"), "--json")
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "missing_extra"
    assert install_command(target) in error["remedy"]
    assert not (tmp_path / "bundle").exists()


def exported(target: str, out: Path) -> None:
    if target not in available_targets():
        pytest.skip(f"target '{target}' is not installed")
    assert main(["--target", target, "--heads", "1", "--out", str(out)]) == 0


def test_a_tflite_bundle_that_cannot_be_run_here_is_not_verified(base_install: Path, tmp_path: Path) -> None:
    exported("tflite", tmp_path / "bundle")
    refused = run(base_install, "-m", "hydra_export", "verify", str(tmp_path / "bundle"))
    assert refused.returncode == 2
    assert install_command("tflite") in refused.stderr
