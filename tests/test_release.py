"""Releases: the workflow's steps are commands, run here as a runner does, and `make release` writes what it says."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from hydra_export.version import VERSION

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[1]
WORKFLOWS = ROOT / ".github" / "workflows"
RELEASE: dict[str, Any] = yaml.safe_load((WORKFLOWS / "release.yml").read_text())
JOBS: dict[str, Any] = RELEASE["jobs"]
STEPS = {step["name"]: step for job in JOBS.values() for step in job["steps"] if "run" in step}

CHANGELOG = """\
# Changelog

## [Unreleased]

## [0.2.0] - 2026-12-01

### Added

- What is new.

## [0.1.0] - 2026-11-01

- The first.
"""


def run(name: str, place: Path, **contexts: str) -> subprocess.CompletedProcess[str]:
    """A step of the workflow in *place*, with *contexts* for the expressions of its environment."""
    variables = {key: contexts[value[4:-3]] for key, value in STEPS[name].get("env", {}).items()}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", STEPS[name]["run"]]
    environment = {**os.environ, **variables, "PATH": path}
    return subprocess.run(script, cwd=place, env=environment, capture_output=True, text=True, check=False)


def notes(place: Path, tag: str, version: str, changelog: str) -> subprocess.CompletedProcess[str]:
    (place / "scripts").mkdir(exist_ok=True)
    shutil.copy(ROOT / "scripts" / "release_notes.py", place / "scripts")
    (place / "pyproject.toml").write_text(f'[project]\nname = "hydra-export"\nversion = "{version}"\n')
    (place / "CHANGELOG.md").write_text(changelog)
    return run("Notes", place, **{"github.ref_name": tag})


def test_the_notes_of_a_release_are_its_section_of_the_changelog(tmp_path: Path) -> None:
    done = notes(tmp_path, "v0.2.0", "0.2.0", CHANGELOG)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "notes.md").read_text() == "### Added\n\n- What is new.\n"


@pytest.mark.parametrize(
    ("tag", "version", "changelog", "said"),
    [
        ("v0.2.1", "0.2.0", CHANGELOG, "The tag is 'v0.2.1', pyproject.toml says version '0.2.0'. Tag v0.2.0"),
        ("0.2.0", "0.2.0", CHANGELOG, "The tag is '0.2.0'"),
        ("v0.2.0; touch evil", "0.2.0", CHANGELOG, "The tag is 'v0.2.0; touch evil'"),
        ("v0.3.0", "0.3.0", CHANGELOG, "CHANGELOG.md says nothing of 0.3.0. Write a section '## [0.3.0] - "),
        ("v0.2.0", "0.2.0", CHANGELOG.replace(" - 2026-12-01", ""), "CHANGELOG.md says nothing of 0.2.0."),
        ("v0.2.0", "0.2.0", CHANGELOG.replace("\n## [0.2.0]", "\n- More.\n\n## [0.2.0]"), "unreleased changes"),
    ],
)
def test_a_tag_that_is_no_release_stops_the_workflow(
    tmp_path: Path, tag: str, version: str, changelog: str, said: str
) -> None:
    done = notes(tmp_path, tag, version, changelog)
    assert done.returncode == 1
    assert said in done.stderr
    assert not (tmp_path / "evil").exists()


def test_a_release_is_published_only_after_it_was_built_and_verified() -> None:
    assert [step for step in STEPS if step in ("Notes", "Build", "Verify", "Publish")] == [*STEPS]
    assert all(job["needs"] == "build" for name, job in JOBS.items() if name != "build")
    assert STEPS["Build"]["run"] == "make release"
    assert STEPS["Verify"]["run"] == "make verify-release"


def test_every_job_may_do_what_it_needs_and_no_more() -> None:
    assert RELEASE["permissions"] == {}
    assert {name: job["permissions"] for name, job in JOBS.items()} == {
        "build": {"contents": "read"},
        "release": {"contents": "write"},
        "index": {"id-token": "write"},
    }
    assert JOBS["index"]["environment"] == "pypi"


def test_no_script_has_an_expression_in_it() -> None:
    assert not [step["run"] for step in STEPS.values() if "${{" in step["run"]]


@pytest.mark.parametrize("name", ["release", "docs"])
def test_actions_are_of_the_versions_that_ci_uses(name: str) -> None:
    used = re.compile(r"uses: (\S+)@(\S+)")
    ci = dict(used.findall((WORKFLOWS / "ci.yml").read_text()))
    other = dict(used.findall((WORKFLOWS / f"{name}.yml").read_text()))
    both = ci.keys() & other.keys()
    assert both >= {"actions/checkout", "actions/setup-python"}
    assert {action: other[action] for action in both} == {action: ci[action] for action in both}


def make(target: str, dist: Path) -> subprocess.CompletedProcess[str]:
    """With the tools of the environment that runs the tests, as if make had installed them."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = ["make", target, f"VENV={sys.prefix}", f"DIST={dist}", "-o", f"{sys.prefix}/bin/.installed-release"]
    command.append("TARGETS=onnx")  # of the others a minute
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_a_release_has_every_target_and_both_graph_kinds() -> None:
    command = ["make", "--dry-run", "release", "TARGETS=onnx,tflite,coreml"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "export --zip --target onnx,tflite,coreml --heads 3,6,12 --graph separate,universal" in said


@pytest.mark.slow
def test_make_release_writes_what_can_be_verified(tmp_path: Path) -> None:
    for module in ("build", "hatchling", "cyclonedx_py"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install -r requirements/release.txt")
    dist = tmp_path / "dist"
    done = make("release", dist)
    assert done.returncode == 0, done.stderr
    wheel, archive = f"hydra_export-{VERSION}-py3-none-any.whl", f"hydravit-fashion-mnist-{VERSION}.zip"
    sbom = f"hydra_export-{VERSION}.cdx.json"
    released = {wheel, archive, sbom, f"hydra_export-{VERSION}.tar.gz", f"hydra_runtime-{VERSION}-py3-none-any.whl"}
    assert {path.name for path in dist.iterdir()} == {*released, "SHA256SUMS"}
    assert {line.split()[1] for line in (dist / "SHA256SUMS").read_text().splitlines()} == released

    bom = json.loads((dist / sbom).read_text())
    scopes = {component["name"]: component["scope"] for component in bom["components"]}
    assert scopes["torch"] == scopes["sympy"] == "required"  # sympy: of torch
    assert "pytest" not in scopes
    assert "hydra-export" not in scopes
    assert {scopes.get(name) for name in ("ai-edge-litert", "coremltools")} <= {"optional", None}
    assert {edge["ref"] for edge in bom["dependencies"]} == {
        bom["metadata"]["component"]["bom-ref"],
        *(component["bom-ref"] for component in bom["components"]),
    }
    assert sys.prefix not in json.dumps(bom)
    with zipfile.ZipFile(dist / archive) as bundle:
        assert any(name.endswith("onnx/hydravit-fashion-mnist-universal.onnx") for name in bundle.namelist())

    assert make("verify-release", dist).returncode == 0
    (dist / sbom).write_text("{}")
    refused = make("verify-release", dist)
    assert refused.returncode != 0
    assert f"{sbom}: FAILED" in refused.stdout


def test_make_release_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    done = make("release", tmp_path)
    assert done.returncode != 0
    assert "holds files that no release has" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
