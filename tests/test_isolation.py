"""An export whose converter dies, or has too little memory: one clear error, and nothing at the output path."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from hydra_export import checkpoint, targets
from hydra_export.cli import main
from hydra_export.errors import BadInput
from hydra_export.exporting import export as export_bundle
from hydra_export.exporting import jobs
from hydra_export.targets.coreml import CoreMLOptions
from tests.conftest import SOON, available_targets

ISOLATED = [name for name in available_targets() if targets.get(name).isolated]

pytestmark = pytest.mark.skipif(not ISOLATED, reason="no target with a converter of its own is installed")


# The tests may run in the background of a shell, where some signals are ignored.
PROGRAM = """
import signal
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
from hydra_export.cli import run
run()
"""


def export(tiny_checkpoint: Path, out: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, "--checkpoint", str(tiny_checkpoint), "--out", str(out)]
    command += ["--target", ",".join(["onnx", *ISOLATED]), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def converters(pid: int) -> Iterator[int]:
    """The workers that process *pid* has started; it also asks ldconfig and the like for libraries."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            with contextlib.suppress(OSError):
                if b"hydra_export.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                    yield int(child)


def await_converter(running: subprocess.Popen[str]) -> int:
    deadline = time.monotonic() + SOON
    while not (found := list(converters(running.pid))):
        assert time.monotonic() < deadline
        assert running.poll() is None
        time.sleep(0.01)
    return found[0]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_converter_that_is_killed_stops_the_export_with_one_clear_error(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    running = export(tiny_checkpoint, tmp_path / "out")
    os.kill(await_converter(running), signal.SIGKILL)
    out, said = running.communicate(timeout=SOON)
    assert running.returncode == 1
    assert out == ""
    assert said.count("error:") == 1
    assert "converter for k = " in said
    assert "was killed by SIGKILL" in said
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not hold memory limits")
def test_a_converter_with_too_little_memory_stops_the_export_with_one_clear_error(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    running = export(tiny_checkpoint, tmp_path / "out", "--converter-memory-mib", "150")
    _out, said = running.communicate(timeout=SOON)
    assert running.returncode == 1
    assert said.count("error:") == 1
    assert "150 MiB" in said
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "asked",
    [signal.SIGINT, *(pytest.param(each, marks=pytest.mark.slow) for each in (signal.SIGTERM, signal.SIGHUP))],
    ids=["SIGINT", "SIGTERM", "SIGHUP"],
)
def test_an_export_that_is_asked_to_end_clears_everything_away(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: signal.Signals
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    before = sorted(tmp_path.iterdir())
    running = export(tiny_checkpoint, tmp_path / "out", "--json")
    await_converter(running)
    assert list(temporary.iterdir())  # the model that the converter reads
    running.send_signal(asked)
    out, _said = running.communicate(timeout=SOON)
    assert running.returncode == 128 + asked
    assert json.loads(out)["error"]["code"] == "interrupted"
    assert sorted(tmp_path.iterdir()) == before
    assert not [path for path in temporary.iterdir() if path.name.startswith("hydra")]


@pytest.mark.parametrize("option", ["--jobs", "--converter-memory-mib"])
def test_options_of_converters_are_refused_where_none_is_needed(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert main(["--checkpoint", str(tiny_checkpoint), "--out", str(tmp_path / "out"), option, "3"]) == 2
    assert f"{option} 3 is for converters, and onnx needs none." in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_classifier_without_labels_is_refused_before_anything_is_written(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    loaded = checkpoint.load(tiny_checkpoint)
    bare = replace(loaded, info=msgspec.structs.replace(loaded.info, labels=()))
    told: list[str] = []
    with pytest.raises(BadInput, match="tiny has none") as refused:
        export_bundle(
            bare,
            tmp_path / "out",
            jobs(["coreml"], options=CoreMLOptions(classifier=True)),
            progress=lambda what, _done, _all: told.append(what),
        )
    assert "`labels`" in refused.value.remedy
    assert told == []


@pytest.mark.slow
def test_what_a_converter_prints_stays_off_our_output(tiny_checkpoint: Path, tmp_path: Path) -> None:
    running = export(tiny_checkpoint, tmp_path / "out", "--json", "--jobs", "2")
    out, said = running.communicate(timeout=SOON)
    assert running.returncode == 0, said
    assert said == ""
    assert out.startswith("{")
    assert out.endswith("}\n")
