"""The doctor: every target is tried for real, and whatever a trial does is told."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import hydra_export
from hydra_export import doctor, targets
from hydra_export.cli import main
from hydra_export.errors import BadInput
from hydra_export.installation import install_command
from hydra_export.target import Target

ROOT = Path(__file__).parents[1]
LIMIT = "300"

TARGET = """
import os, time
from hydra_export.errors import BadInput, CheckFailed, MissingExtra
from hydra_export.target import Target

class Example(Target):
    name = title = {name!r}
    graphs = ("separate",)
    precisions = ("fp32",)
    packages = ("{name}-converter",)

    def requires(self):
        {requires}

    def check(self, spec, model=None):
        {check}

TARGET = Example()
"""

# Bodies of ``requires`` and of ``check``, which an export calls before anything else.
EXAMPLES = {
    "absent": ('raise MissingExtra("Target \'absent\'", "absent-converter", "absent")', "pass"),
    "crashing": ("pass", "os.write(2, b'about to crash\\n'); os.abort()"),
    "hanging": ("pass", "time.sleep(600)"),
    "impossible": ('raise BadInput("No such wheels for this machine.", "Use another.")', "pass"),
    "wrong": ("pass", 'raise CheckFailed("It computes something else.", "Report it.")'),
}

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the doctor of this package with the targets *names* in place of its own: those above, or real ones."""

    def doctor_of(names: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
        package, original = tmp_path / "hydra_export", Path(hydra_export.__file__).parent
        (package / "targets").mkdir(parents=True)
        for path in original.iterdir():
            if path.name not in ("targets", "__pycache__"):
                (package / path.name).symlink_to(path)
        for name in ("__init__.py", *names):
            if name in EXAMPLES:
                requires, check = EXAMPLES[name]
                text = TARGET.format(name=name, requires=requires, check=check)
                (package / "targets" / f"{name}.py").write_text(text)
            else:
                (package / "targets" / name).symlink_to(original / "targets" / name)
        program = (
            "import sys; from hydra_export.cli import main; status = main(sys.argv[1:]); "
            "assert not {'torch', 'onnxruntime'} & set(sys.modules), 'loaded here'; sys.exit(status)"
        )
        return subprocess.run(
            [sys.executable, "-c", program, "doctor", *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        )

    return doctor_of


def states(document: dict[str, Any]) -> dict[str, str]:
    return {target["name"]: target["state"] for target in document["targets"]}


def refusal_of(target: Target) -> BadInput | None:
    try:
        target.requires()
    except BadInput as error:
        return error
    return None


@pytest.mark.slow
def test_every_target_is_tried_here_in_each_of_its_runtimes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [target["name"] for target in document["targets"]] == list(targets.names())
    for found in document["targets"]:
        target = targets.get(found["name"])
        assert found["precision"] == target.precisions[0]
        refusal = refusal_of(target)
        if refusal:
            assert found["state"] in ("not installed", "not available")
            assert (found["message"], found["remedy"]) == (refusal.message, refusal.remedy)
            continue
        assert found["state"] == "works"
        assert found["runtimes"].keys() == {runtime.name for runtime in target.runtimes(target.precisions[0])}
        for runtime in target.runtimes(target.precisions[0]):
            assert 0 <= found["runtimes"][runtime.name] < (1e-5 if runtime.exact else 0.1)  # logits are about 1
        assert found["seconds"] > 0
    packages = {package["name"]: package for package in document["packages"]}
    assert packages["torch"]["version"] == version("torch")
    assert {name for found in document["targets"] for name in targets.get(found["name"]).packages} <= packages.keys()
    assert document["hydra_export"] == version("hydra-export")
    assert document["machine"]["python"] == platform.python_version()
    assert document["accelerators"]["onnxruntime_providers"]


def test_targets_that_are_not_installed_are_no_failure(run: Run) -> None:
    done = run(["absent", "impossible"], "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    document = json.loads(done.stdout)
    assert states(document) == {"absent": "not installed", "impossible": "not available"}
    absent, impossible = document["targets"]
    assert absent["message"] == "Target 'absent' needs absent-converter."
    assert absent["remedy"] == f"Run: {install_command('absent')}"
    assert impossible["message"] == "No such wheels for this machine."
    packages = {package["name"]: package for package in document["packages"]}
    missing = {"name": "absent-converter", "version": None, "purpose": "target absent", "remedy": absent["remedy"]}
    assert packages["absent-converter"] == missing
    assert packages["impossible-converter"]["remedy"] == "Use another."
    assert packages["torch"] == {"name": "torch", "version": version("torch"), "purpose": "every export", "remedy": ""}
    assert document["machine"]["cores"] >= 1
    assert document["machine"]["memory_mib"] >= (document["machine"]["available_memory_mib"] or 1)
    assert "CPUExecutionProvider" in document["accelerators"]["onnxruntime_providers"]


@pytest.mark.slow
def test_a_target_that_fails_is_named_and_the_others_are_tried(run: Run) -> None:
    done = run(["absent", "crashing", "onnx", "wrong"], "--time-limit", LIMIT, "--debug")
    assert done.returncode == 1
    assert done.stdout == ""
    rows = {line.split()[0]: line for line in done.stderr.splitlines() if line.strip()}
    assert "not installed" in rows["absent"]
    assert "works" in rows["onnx"]
    assert "onnxruntime " in rows["onnx"]
    assert "fails" in rows["crashing"]
    assert "fails" in rows["wrong"]
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "Target 'crashing' does not work here: The trial of target 'crashing' crashed with SIGABRT" in error
    assert "about to crash" in error
    assert "Target 'wrong' does not work here: It computes something else." in error
    assert error.endswith("Report it.")
    assert "absent" not in error
    assert "onnx" not in error
    assert "in check" in done.stderr  # the worker's traceback


def test_a_target_that_hangs_is_stopped_and_named(run: Run) -> None:
    done = run(["hanging", "absent"], "--time-limit", "2", "--json")
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "check_failed"
    said = "Target 'hanging' does not work here: The trial of target 'hanging' was stopped: it took longer than 2 s."
    assert error["message"].startswith(said)
    assert error["remedy"]
    assert "not installed" in done.stderr  # the table goes where talk goes


def test_without_torch_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # as where it is not installed
    state = doctor._state(targets.get("onnx"), seconds=0.001)
    assert state.state == "not installed"
    assert state.message == "Exports need torch; bundles are verified without it."
    assert doctor.find_accelerators()["gpus"] == []


@pytest.mark.parametrize("limit", ["0", "-1", "nan", "inf"])
def test_a_time_limit_that_is_none_is_refused(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--time-limit", limit]) == 2
    assert "Pass a number above 0." in capsys.readouterr().err


def test_the_extras_that_it_names_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name, _, what in doctor._FURTHER:
        if "[" in what:
            extra = what.split("[")[1].split("]")[0]
            assert any(requirement.startswith(name) for requirement in project["optional-dependencies"][extra])
    for name in doctor._BASE:
        assert any(requirement.startswith(name) for requirement in project["dependencies"])


def test_the_model_of_the_trials_is_always_the_same(tmp_path: Path) -> None:
    folders = tmp_path / "a", tmp_path / "b"
    for folder in folders:
        folder.mkdir()
    first, second = map(doctor.tiny_checkpoint, folders)
    assert first.sha256 == second.sha256
    assert all(parameter.abs().max() > 0.01 for parameter in first.model.parameters())
