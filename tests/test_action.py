"""The GitHub Action: its steps are commands, run here one after the other as a runner does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[1]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
EXAMPLE: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "workflows" / "bundle.yml").read_text())
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"] if "run" in step}


def run(name: str, place: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """One step, with *inputs* beside the action's defaults."""
    given = {key: value["default"] for key, value in ACTION["inputs"].items()} | inputs
    environment = {"GITHUB_OUTPUT": str(place / "output"), "GITHUB_STEP_SUMMARY": str(place / "summary")}
    for variable, expression in STEPS[name].get("env", {}).items():
        environment[variable] = given[expression.removeprefix("${{ inputs.").removesuffix(" }}")]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", STEPS[name]["run"]]
    return subprocess.run(
        script, cwd=place, env={**os.environ, **environment, "PATH": path}, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_the_steps_make_prove_time_and_report_a_bundle(tiny_checkpoint: Path, tmp_path: Path) -> None:
    inputs = {"options": f"--checkpoint {tiny_checkpoint} --heads 2,4 --graph separate,universal --no-cache"}
    for name in ("Bundle", "Verify", "Time", "Report"):
        done = run(name, tmp_path, **inputs)
        assert done.returncode == 0, (name, done.stderr)
    assert {"dist", "dist.zip", "dist-bench.json", "dist-report.html"} <= {path.name for path in tmp_path.iterdir()}
    outputs = dict(line.split("=", 1) for line in (tmp_path / "output").read_text().splitlines())
    assert outputs["archive"] == "dist.zip"
    assert len(outputs["sha256"]) == 64
    assert "tiny" in (tmp_path / "summary").read_text()

    # The next run: nothing changed, and the old times are a hundred times shorter.
    (tmp_path / "dist.zip").rename(tmp_path / "old.zip")
    document = json.loads((tmp_path / "dist-bench.json").read_text())
    for timing in document["timings"]:
        timing.update({name: timing[name] / 100 for name in ("median_ms", "min_ms", "p10_ms", "p90_ms")})
        timing["runs_ms"] = [ms / 100 for ms in timing["runs_ms"]]
    (tmp_path / "old.json").write_text(json.dumps(document))
    inputs |= {"against": "old.zip", "baseline": "old.json"}
    assert run("Bundle", tmp_path, **inputs).returncode == 0
    slower = run("Time", tmp_path, **inputs)
    assert slower.returncode == 1
    assert "longer than in old.json" in " ".join(slower.stderr.split())
    assert run("Report", tmp_path, **inputs).returncode == 0
    damaged = bytearray((tmp_path / "dist.zip").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "dist.zip").write_bytes(damaged)
    assert run("Verify", tmp_path, **inputs).returncode == 1


def test_what_is_typed_into_options_is_no_shell(tmp_path: Path) -> None:
    done = run("Bundle", tmp_path, options="--heads 3; touch evil $(touch evil) `touch evil`")
    assert done.returncode != 0
    assert not (tmp_path / "evil").exists()


def test_no_script_has_an_expression_in_it() -> None:
    scripts = [step["run"] for step in STEPS.values()]
    scripts += [step["run"] for job in EXAMPLE["jobs"].values() for step in job["steps"] if "run" in step]
    assert len(scripts) >= 6
    assert not [script for script in scripts if "${{" in script]


def test_the_example_gives_the_action_inputs_that_it_has() -> None:
    (step,) = [s for s in EXAMPLE["jobs"]["bundle"]["steps"] if "hydra-export" in s.get("uses", "")]
    assert set(step["with"]) <= set(ACTION["inputs"])
