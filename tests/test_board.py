"""The module that times artifacts, here and alone on a board."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydra_export import bench, board, bundle, profiles, targets
from hydra_export.bench import runtimes, standalone
from hydra_export.bench.run import plan
from hydra_export.errors import BadInput, OutputRefused
from hydra_export.target import GraphKind
from tests.conftest import available_targets, children, perturbed

RUNS = 6


def exported(place: Path, *chosen: tuple[str, Sequence[GraphKind]]) -> Path:
    """A bundle of a tiny model, of targets with their graph kinds."""
    from hydra_export import checkpoint, checkpoint_file
    from hydra_export.architecture import HydraConfig
    from hydra_export.exporting import export, jobs
    from hydra_export.preprocess import Preprocessing

    config = HydraConfig(heads=4, head_dim=8, depth=2, patch_size=4, image_size=16, num_classes=7)
    data = Preprocessing(image_size=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), crop=1.0)
    info = checkpoint_file.CheckpointInfo(name="tiny", config=config, preprocessing=data, export_heads=(2, 4))
    checkpoint_file.write(place / "tiny.safetensors", perturbed(config).state_dict(), info)
    listed = [job for name, graphs in chosen for job in jobs([name], graphs)]
    export(checkpoint.load(place / "tiny.safetensors"), place / "bundle", listed)
    return place / "bundle"


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with every graph kind of everything that can be timed here."""
    names = [name for name in ("onnx", "tflite") if name in available_targets()]
    return exported(tmp_path_factory.mktemp("every"), *((name, targets.get(name).graphs) for name in names))


@pytest.fixture(scope="module")
def measured(every: Path) -> dict[str, Any]:
    manifest = bundle.read(every)
    here = [name for name in runtimes.installed() if name in ("onnxruntime", "litert")]
    return board.measure(every, plan(manifest, manifest.artifacts), RUNS, [1, 2], here)


def test_every_artifact_is_timed_at_every_head_count_with_every_number_of_threads(
    every: Path, measured: dict[str, Any]
) -> None:
    assert measured["failed"] == []
    timed = {(t["path"], t["heads"], t["threads"]) for t in measured["timings"]}
    assert timed == {(a.path, k, count) for a in bundle.read(every).artifacts for k in a.heads for count in (1, 2)}
    assert {t["runtime"] for t in measured["timings"]} >= {"onnxruntime"}
    for timing in measured["timings"]:
        assert len(timing["runs_ms"]) == RUNS
        assert 0 < timing["min_ms"] <= timing["p10_ms"] <= timing["median_ms"] <= timing["p90_ms"] <= timing["p99_ms"]
        assert timing["load_ms"] > 0
        assert timing["cpu_ms"] > 0


def test_what_is_timed_computes_the_head_count_that_it_is_said_to(measured: dict[str, Any]) -> None:
    """The golden logits of k = 2 and 4 differ, so a graph that runs another k than asked is far off."""
    universal = [t for t in measured["timings"] if t["graph"] == "universal"]
    assert {t["heads"] for t in universal} == {2, 4}
    for timing in measured["timings"]:
        assert 0 <= timing["max_abs_error"] <= timing["bound"]


def test_memory_is_of_the_artifact_and_not_of_this_process(measured: dict[str, Any]) -> None:
    big = np.ones(2**26)  # 512 MiB here
    manifest_free = max(timing["peak_mib"] for timing in measured["timings"])
    assert manifest_free < big.nbytes / 2**20
    assert all(20 < timing["base_mib"] < timing["peak_mib"] for timing in measured["timings"])


def test_a_process_that_dies_is_named_and_the_others_go_on(every: Path) -> None:
    manifest = bundle.read(every)
    whole = plan(manifest, manifest.artifacts)
    artifact = whole["artifacts"][0]
    source = whole["runners"][artifact["target"]]
    task = {
        "artifact": artifact,
        "runtime": "onnxruntime",
        "source": source,
        "threads": 1,
        "memory_mib": 2000,
        "seconds": 60,
    }
    process = board._Process(task, every, bundle.GOLDEN)
    process.process.kill()
    with pytest.raises(board.CannotRunError, match="signal SIGKILL ended it"):
        process.ask("time", [2, 1])
    process.close()


def test_an_artifact_that_a_runtime_does_not_take_is_told_and_the_others_are_timed(every: Path, tmp_path: Path) -> None:
    manifest = bundle.read(every)
    whole = plan(manifest, [a for a in manifest.artifacts if a.path.endswith("tiny-k2.onnx")])
    broken = {**whole["artifacts"][0], "path": "onnx/none.onnx"}
    result = board.measure(every, {**whole, "artifacts": [broken, *whole["artifacts"]]}, 2, [1], ["onnxruntime"])
    assert [failure["path"] for failure in result["failed"]] == ["onnx/none.onnx"]
    assert "none.onnx" in result["failed"][0]["why"]
    assert [timing["path"] for timing in result["timings"]] == ["onnx/tiny-k2.onnx"]


def test_a_process_that_dies_while_it_is_timed_is_told_and_the_others_go_on(every: Path) -> None:
    manifest, killed = bundle.read(every), list[int]()

    def kill(what: str, _done: int, _total: int) -> None:
        if what == "timing" and not killed:
            killed.append(min(children(os.getpid(), "--serve")))
            os.kill(killed[0], signal.SIGKILL)

    artifacts = [a for a in manifest.artifacts if a.path in ("onnx/tiny-k2.onnx", "onnx/tiny-k4.onnx")]
    result = board.measure(every, plan(manifest, artifacts), 50, [1], ["onnxruntime"], kill)
    assert len(result["timings"]) == len(result["failed"]) == 1
    assert "signal SIGKILL ended it" in result["failed"][0]["why"]
    assert {result["timings"][0]["path"], result["failed"][0]["path"]} == {artifact.path for artifact in artifacts}


QUIET = [1.0] * 30


@pytest.mark.parametrize(
    ("runs", "cpu", "expected"),
    [
        (QUIET, 1.0, []),
        (QUIET, None, []),
        ([1.0] * 26 + [2.0] * 4, 1.0, ["scattered"]),
        ([1.0] * 28 + [2.0] * 2, 1.0, []),
        ([1.0] * 15 + [1.15] * 15, None, ["drifted"]),
        ([1.15] * 15 + [1.0] * 15, None, ["drifted"]),
        (QUIET, 0.8, ["waited"]),
        ([1.0, 3.0, 1.0], None, []),
    ],
)
def test_noise_is_named(runs: list[float], cpu: float | None, expected: list[str]) -> None:
    assert list(board.noise(runs, cpu)) == expected


def test_the_module_needs_numpy_and_python_3_8_alone() -> None:
    sources = runtimes.sources(targets.names())
    whole = standalone.program(sources)
    trees = [ast.parse(text, feature_version=(3, 8)) for text in (whole, *sources.values())]
    assert [name for text in (whole, *sources.values()) if "hydra_export import" in (name := text)] == []
    tree = ast.Module([each for tree in trees for each in tree.body], [])
    named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    named |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    foreign = {name.partition(".")[0] for name in named} - sys.stdlib_module_names - {"__future__"}
    assert foreign == {"numpy", "onnxruntime"}
    newer = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "removeprefix"]
    assert newer == []


# The folder for a board


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    return profiles.user_folder()


def test_a_board_times_it_and_the_answer_comes_from_its_times(
    every: Path, tmp_path: Path, settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hydra_export.cli import main

    out = tmp_path / "hydra-bench"
    assert main(["bench", "standalone", str(every), str(out), "--heads", "2"]) == 0
    assert "scp -r" in capsys.readouterr().out
    assert (out / "bench.py").read_text() == standalone.program(runtimes.sources(["onnx", "tflite"]))
    assert {a["path"] for a in json.loads((out / "plan.json").read_bytes())["artifacts"]} >= {"onnx/tiny-k2.onnx"}
    assert not (out / "onnx/tiny-k4.onnx").exists()
    command = [sys.executable, "bench.py", "--runs", "3", "--threads", "1", "--runtime", "onnxruntime"]
    ran = subprocess.run(command, cwd=out, capture_output=True, text=True, check=True)
    assert "onnx/tiny-k2.onnx" in ran.stdout
    assert not ran.stderr, "progress is for terminals"
    assert "hydra-export profile import bench.json" in ran.stdout
    assert main(["profile", "import", str(out / "bench.json"), "--bundle", str(every)]) == 0
    capsys.readouterr()
    assert main(["profile", "--bundle", str(every), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["device"]["recognised_by"]
    assert answer["estimates"][0]["provenance"] == "measured"
    result = bench.read(out / "bench.json")
    fastest = next(t for t in result.timings if t.path == "onnx/tiny-k2.onnx")
    assert answer["estimates"][0]["ms"] == pytest.approx(fastest.median_ms, rel=1e-4)
    with pytest.raises(OutputRefused, match="contains a result"):
        bench.write_standalone(every, out)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--out", "nodir/x.json"], "--out nodir/x.json cannot be written"),
        (["--out", "onnx"], "--out onnx cannot be written"),
        (["--runs", "0"], "--runs is 0; use 1 or more"),
        (["--threads", "0"], "--threads is 0; use 1 or more"),
        (["--threads", "two"], "--threads is two; use 1 or more"),
        (["--runtime", "onnxruntme"], "--runtime: no 'onnxruntme'; known: onnxruntime,"),
        (["--runtime", "onnxruntime-cuda"], "onnxruntime-cuda is not installed here; what is: onnxruntime"),
    ],
)
def test_what_a_board_cannot_do_is_told_before_it_measures(
    every: Path, tmp_path: Path, arguments: list[str], told: str
) -> None:
    out = tmp_path / "hydra-bench"
    bench.write_standalone(every, out, heads=(2,))
    ran = subprocess.run([sys.executable, "bench.py", *arguments], cwd=out, capture_output=True, text=True)
    assert ran.returncode == 2
    assert told in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not ran.stdout


def test_a_folder_for_a_board_replaces_its_own_kind_alone(every: Path, tmp_path: Path) -> None:
    bench.write_standalone(every, tmp_path / "out", heads=(2,))
    bench.write_standalone(every, tmp_path / "out", heads=(4,))
    assert (tmp_path / "out/onnx/tiny-k4.onnx").exists()
    assert not (tmp_path / "out/onnx/tiny-k2.onnx").exists()
    (tmp_path / "out/thesis.txt").write_text("years of work")
    with pytest.raises(OutputRefused, match="contains other files"):
        bench.write_standalone(every, tmp_path / "out")
    assert (tmp_path / "out/thesis.txt").exists()
    with pytest.raises(BadInput, match="contains no such artifact"):
        bench.write_standalone(every, tmp_path / "new", heads=(9,))


def test_a_board_gets_only_what_it_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from hydra_export.cli import main

    source, out = exported(tmp_path, ("onnx", ["separate"]), ("coreml", ["separate"])), tmp_path / "board"
    assert main(["bench", "standalone", str(source), str(out)]) == 0
    assert "Left out, because boards do not run it: coreml." in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"bench.py", "plan.json", "golden", "onnx"}
    assert {artifact["target"] for artifact in json.loads((out / "plan.json").read_bytes())["artifacts"]} == {"onnx"}
    (tmp_path / "apple").mkdir()
    apple = exported(tmp_path / "apple", ("coreml", ["separate"]))
    assert main(["bench", "standalone", str(apple), str(tmp_path / "none")]) == 2
    assert "it contains coreml k = 2, coreml k = 4. Boards run onnx, tflite: " in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("flags\t\t: fpu avx avx2 fma avx512f avx512_vnni\nbugs : x\n", ["avx2", "avx512f", "avx512_vnni"]),
        ("processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n", ["asimddp", "i8mm"]),
        ("processor\t: 0\n", []),
    ],
)
def test_the_instructions_that_speed_depends_on_are_listed(
    monkeypatch: pytest.MonkeyPatch, text: str, flags: list[str]
) -> None:
    monkeypatch.setattr(board, "_text", lambda path: text if path == "/proc/cpuinfo" else "")
    assert board.machine()["cpu_flags"] == flags
