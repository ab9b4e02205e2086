"""The GitHub Action: its steps are commands, run here one after the other as a runner does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hydra_export.files import sha256

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[1]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
EXAMPLE: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "workflows" / "bundle.yml").read_text())
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"] if "run" in step}


NOTHING: Mapping[str, str] = {}


def outputs(place: Path) -> dict[str, str]:
    """What the steps have written for the runner."""
    file = place / "output"
    return dict(line.split("=", 1) for line in file.read_text().splitlines()) if file.exists() else {}


def run(
    name: str, place: Path, inputs: Mapping[str, str] = NOTHING, first: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """One step, with *inputs* beside the action's defaults; *first* comes before all else on PATH."""
    given = {f"inputs.{key}": value["default"] for key, value in ACTION["inputs"].items()}
    given |= {f"inputs.{key}": value for key, value in inputs.items()}
    given |= {f"steps.bundle.outputs.{key}": value for key, value in outputs(place).items()}
    given["github.action_path"] = str(ROOT)
    environment = {"GITHUB_OUTPUT": str(place / "output"), "GITHUB_STEP_SUMMARY": str(place / "summary")}
    for variable, expression in STEPS[name].get("env", {}).items():
        environment[variable] = given[expression.removeprefix("${{ ").removesuffix(" }}")]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if first:
        path = f"{first}{os.pathsep}{path}"
    script = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", STEPS[name]["run"]]
    return subprocess.run(
        script, cwd=place, env={**os.environ, **environment, "PATH": path}, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_the_steps_make_prove_time_and_report_a_bundle(tiny_checkpoint: Path, tmp_path: Path) -> None:
    inputs = {
        "options": f"--checkpoint '{tiny_checkpoint}'\n--heads 2,4\n  --graph separate,universal --no-cache\n",
        "out": "dist/",
    }
    for name in ("Bundle", "Verify", "Time", "Report"):
        done = run(name, tmp_path, inputs)
        assert done.returncode == 0, (name, done.stderr)
    assert {"dist", "dist.zip", "dist-bench.json", "dist-report.html"} <= {path.name for path in tmp_path.iterdir()}
    assert outputs(tmp_path) == {"archive": "dist.zip", "sha256": sha256(tmp_path / "dist.zip"), "folder": "dist"}
    assert "tiny" in (tmp_path / "summary").read_text()

    # The next run: nothing changed, and the old times are a hundred times shorter.
    (tmp_path / "dist.zip").rename(tmp_path / "old.zip")
    document = json.loads((tmp_path / "dist-bench.json").read_text())
    for timing in document["timings"]:
        timing.update({name: timing[name] / 100 for name in ("median_ms", "min_ms", "p10_ms", "p90_ms")})
        timing["runs_ms"] = [ms / 100 for ms in timing["runs_ms"]]
    (tmp_path / "old.json").write_text(json.dumps(document))
    inputs |= {"against": "old.zip", "baseline": "old.json"}
    assert run("Bundle", tmp_path, inputs).returncode == 0
    slower = run("Time", tmp_path, inputs)
    assert slower.returncode == 1
    assert "longer than in old.json" in " ".join(slower.stderr.split())
    assert run("Report", tmp_path, inputs).returncode == 0
    damaged = bytearray((tmp_path / "dist.zip").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "dist.zip").write_bytes(damaged)
    assert run("Verify", tmp_path, inputs).returncode == 1


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ({"out": "dist\nsha256=0"}, "out"),
        ({"against": "a\rb"}, "against"),
        ({"artifact": "a\nb"}, "artifact"),
        ({"max-regression": "1\n0"}, "max-regression"),
        ({"out": ""}, "out"),
        ({"options": "--heads '3"}, "options"),
        ({"options": "--heads 3\n--out elsewhere"}, "--out"),
        ({"extras": "tflite] evil"}, "extras"),
        ({"bench": "yes"}, "bench"),
    ],
)
def test_an_input_that_no_step_can_use_is_refused_before_anything_is_installed(
    inputs: dict[str, str], named: str, tmp_path: Path
) -> None:
    done = run("Install", tmp_path, inputs)
    assert done.returncode == 2
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("extras", "installed"),
    [("", str(ROOT)), ("tflite", f"{ROOT}[tflite]"), ("tflite,coreml,coreai", f"{ROOT}[tflite,coreml,coreai]")],
)
def test_extras_may_be_empty(extras: str, installed: str, tmp_path: Path) -> None:
    """A python on PATH before ours shows what pip would be asked for, and does the rest."""
    stand_in = tmp_path / "bin" / "python"
    stand_in.parent.mkdir()
    stand_in.write_text(
        f'#!/bin/sh\nif [ "$2" = pip ]; then printf "%s\\n" "$@"; else exec {sys.executable} "$@"; fi\n'
    )
    stand_in.chmod(0o755)
    done = run("Install", tmp_path, {"extras": extras}, stand_in.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == installed


def test_a_bundle_that_fails_fails_its_step_and_has_no_outputs(tmp_path: Path) -> None:
    done = run("Bundle", tmp_path, {"options": "--checkpoint 'not here.pth'"})
    assert done.returncode == 2
    assert "not here.pth" in done.stderr
    assert outputs(tmp_path) == {}


def test_what_is_typed_into_options_is_no_shell(tmp_path: Path) -> None:
    done = run("Bundle", tmp_path, {"options": "--heads 3; touch evil $(touch evil) `touch evil`"})
    assert done.returncode != 0
    assert not (tmp_path / "evil").exists()


def test_no_script_has_an_expression_in_it() -> None:
    scripts = [step["run"] for step in STEPS.values()]
    scripts += [step["run"] for job in EXAMPLE["jobs"].values() for step in job["steps"] if "run" in step]
    assert len(scripts) >= 6
    assert not [script for script in scripts if "${{" in script]


def test_actions_of_others_are_pinned_and_checkouts_keep_no_credentials() -> None:
    workflows = [ROOT / "action.yml", *ROOT.glob(".github/workflows/*.yml"), *ROOT.glob("examples/workflows/*.yml")]
    assert len(workflows) == 5
    for path in workflows:
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines):
            if "uses: " not in line or "OWNER/" in line:
                continue
            pinned = re.search(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line)
            assert pinned or "narrowest tag" in lines[number - 1], (path, line)
            if "actions/checkout" in line:
                assert lines[number + 1].strip() == "with:"
                assert "persist-credentials: false" in "".join(lines[number + 2 : number + 4]), (path, line)


def test_the_example_gives_the_action_inputs_that_it_has() -> None:
    (step,) = [s for s in EXAMPLE["jobs"]["bundle"]["steps"] if "hydra-export" in s.get("uses", "")]
    assert set(step["with"]) <= set(ACTION["inputs"])
