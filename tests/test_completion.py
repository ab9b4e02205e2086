"""Completion: what is offered, and real shells in which somebody types and presses TAB."""

from __future__ import annotations

import importlib
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hydra_export import profiles, targets
from hydra_export.cli import main
from hydra_export.commands import candidates
from tests.conftest import SOON

ROOT = Path(__file__).parents[1]
Capture = pytest.CaptureFixture[str]
COMPLETED = (
    "export",
    "verify",
    "check",
    "predict",
    "bench",
    "profile",
    "report",
    "serve",
    "evaluate",
    "train",
    "calibrate",
    "doctor",
    "completion",
)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CYCLOPTS_COMPLETION_WORDS", raising=False)


def offered(capfd: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert main(["__complete", *words]) == 0
    out, err = capfd.readouterr()
    assert not err
    return [line.split("\t")[0] for line in out.splitlines() if line and not line.startswith("\x1f")]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ver"], ["verify"]),
        (["--ta"], ["--target"]),
        (["--heads", "3", "--we"], ["--weight-files"]),
        (["--json", "ver"], ["verify"]),
        (["--json", "--ta"], ["--target"]),
        (["verify", "--js"], ["--json"]),
        (["export", "--no-c"], ["--no-cache"]),
        (["verify", "bundle", "--de"], ["--debug"]),
        (["--target", "tf"], ["tflite"]),
        (["--target", "onnx,tf"], ["onnx,tflite"]),
        (["export", "--graph=sh"], ["shared"]),
        (["--graph", "separate,"], ["separate,shared", "separate,universal"]),
        (["--precision", "fp"], ["fp32", "fp16"]),
        (["--input", ""], ["tensor", "image"]),
        (["--ios", "1"], ["15", "16", "17", "18"]),
        (["--device", "rpi5,pixel7"], ["rpi5,pixel7", "rpi5,pixel7-pro", "rpi5,pixel7a"]),
        (["profile", "--device", "rpi5"], ["rpi5", "rpi5-hailo10h", "rpi5-hailo8", "rpi5-hailo8l", "rpi500"]),
        (["report", "x", "--device", "rpi4,rpi5-hailo8l"], ["rpi4,rpi5-hailo8l"]),
        (["report", "x", "--format", ""], ["html", "md"]),
        (["profile", "--runtime", "l"], ["litert", "litert-web"]),
        (["train", "--recipe", "image"], ["imagenet-base", "imagenet-small"]),
        (["evaluate", "--data", "p"], ["packaged"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["check", "x", "--for", "rknn,q"], ["rknn,qnn-htp"]),
        (["verify", ""], []),  # files, which the shell knows
        (["--out", ""], []),
        (["verfy", ""], []),  # codespell:ignore
    ],
    ids=" ".join,
)
def test_what_may_follow_is_offered(capfd: pytest.CaptureFixture[str], words: list[str], expected: list[str]) -> None:
    assert offered(capfd, *words) == expected


def test_every_command_is_offered_with_every_option_that_its_help_has(capfd: pytest.CaptureFixture[str]) -> None:
    assert offered(capfd, "") == list(COMPLETED)
    for command in COMPLETED:
        assert main([command, "--help"]) == 0
        documented = set(re.findall(r"^│ (?:[A-Z-]+ )?(--[a-z][a-z-]*)", capfd.readouterr().out, flags=re.MULTILINE))
        assert documented <= set(offered(capfd, command, "--")), command
        assert documented or command == "completion", "the help is not read right"
        assert {"--json", "--help"} < set(offered(capfd, command, "--"))
    assert set(offered(capfd, "--")) == set(offered(capfd, "export", "--"))


def test_the_names_that_are_offered_are_those_that_are_taken() -> None:
    datasets = importlib.import_module("hydra_export.data.datasets")
    recipes = importlib.import_module("hydra_export.train.recipes")
    preprocess = importlib.import_module("hydra_export.preprocess")
    assert tuple(candidates.recipes()) == recipes.names()
    assert set(candidates.test_sets()) - {"packaged"} <= set(datasets.names())
    for name in candidates.preprocessings():
        assert preprocess.named(name, 224)
    assert tuple(candidates.targets()) == targets.names()
    assert set(candidates.devices()) == set(profiles.names())
    assert {"onnxruntime", "openvino-bf16", "litert", "coreml"} <= set(candidates.bench_runtimes())
    for target in map(targets.get, targets.names()):
        assert set(target.graphs) <= set(candidates.graphs())
        assert set(target.precisions) <= set(candidates.precisions())


@pytest.mark.parametrize("words", [["--ta"], ["--target", ""], ["--device", ""], ["train", "--recipe", ""]])
def test_nothing_slow_is_imported_to_complete(words: list[str]) -> None:
    program = (
        "import sys; from hydra_export.cli import main; main(['__complete', *sys.argv[1:]]); "
        "print(*sorted({'torch', 'timm', 'onnx', 'onnxruntime', 'sklearn'} & set(sys.modules)), file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    assert found.stderr.strip() == ""


def test_the_script_is_printed_alone(capsys: Capture) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert main(["completion", shell]) == 0
        out, err = capsys.readouterr()
        assert "hydra-export" in out
        assert not err


def test_a_shell_for_which_there_is_none_is_refused(capsys: Capture) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert 'Choose from: "bash", "zsh", "fish"' in capsys.readouterr().err


# Real shells

SHELLS = {
    "bash": (
        ["bash", "--noprofile", "--norc", "-i"],
        ["bind 'set bell-style none' 'set enable-bracketed-paste off'", 'eval "$(hydra-export completion bash)"'],
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        ["autoload -U compinit && compinit -u -D", 'eval "$(hydra-export completion zsh)"'],
    ),
    "fish": (
        ["fish", "--no-config", "--private", "--interactive"],
        ["hydra-export completion fish | source"],
    ),
}


def read_until(terminal: int, end: str, seconds: float = SOON) -> str:
    seen, deadline = "", time.monotonic() + seconds
    while end not in seen:
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"no {end!r} within {seconds} s of: {seen!r}"
        seen += os.read(terminal, 65536).decode(errors="replace")
    return seen


def typed(shell: str, place: Path, *lines: str) -> list[list[str]]:
    """The words of each line as a *shell* would run it, after what is typed into a terminal: its TABs complete."""
    (place / "bin").mkdir()
    script = place / "bin" / "hydra-export"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m hydra_export "$@"\n')
    script.chmod(0o755)
    command, setup = SHELLS[shell]
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("PROMPT_COMMAND", "ZDOTDIR")},
        "PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(place),
        "TERM": "vt100",
        "INPUTRC": os.devnull,
    }
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(place)
        os.execvpe(command[0], command, environment)
    found = []
    try:
        for number, line in enumerate([*setup, "true"]):
            os.write(terminal, f"{line}; echo rea''dy{number}\r".encode())
            read_until(terminal, f"ready{number}")
        for number, line in enumerate(lines):
            # Ctrl-A goes to the start of the line, so that its words are printed and not run.
            os.write(terminal, f"{line}\x01printf '<%s>\\n' \x05; echo do''ne{number}\r".encode())
            seen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00\x0e\x0f]", "", read_until(terminal, f"done{number}"))
            found.append(re.findall(r"^<(.*)>\r?$", seen, flags=re.MULTILINE))
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)
    return found


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_what_is_typed(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "my bundle").mkdir()
    lines = typed(
        shell,
        tmp_path,
        "hydra-export ver\tmy\t",
        "hydra-export --ta\tonnx,tf\t",
        "hydra-export export --graph=sh\t--out=my\t",
        "hydra-export timm:vit_tiny --ta\tonnx",
        "hydra-export train --start timm:vit --data=a:b --rec\tdig\t",
    )
    assert [[word.rstrip("/") for word in line] for line in lines] == [
        ["hydra-export", "verify", "my bundle"],
        ["hydra-export", "--target", "onnx,tflite"],
        ["hydra-export", "export", "--graph=shared", "--out=my bundle"],
        ["hydra-export", "timm:vit_tiny", "--target", "onnx"],
        ["hydra-export", "train", "--start", "timm:vit", "--data=a:b", "--recipe", "digits"],
    ]
