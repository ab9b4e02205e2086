"""An export whose converter dies, or has too little memory: one clear error, and nothing at the output path."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hydra_export import targets
from tests.conftest import available_targets

ISOLATED = [name for name in available_targets() if targets.get(name).isolated]

pytestmark = pytest.mark.skipif(not ISOLATED, reason="no target with a converter of its own is installed")


def export(tiny_checkpoint: Path, out: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hydra_export", "--checkpoint", str(tiny_checkpoint), "--out", str(out)]
    command += ["--target", ",".join(["onnx", *ISOLATED]), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def converters(pid: int) -> Iterator[int]:
    """The workers that process *pid* has started; it also asks ldconfig and the like for libraries."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            with contextlib.suppress(OSError):
                if b"hydra_export.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                    yield int(child)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_converter_that_is_killed_stops_the_export_with_one_clear_error(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    running = export(tiny_checkpoint, tmp_path / "out")
    deadline = time.monotonic() + 60
    while not (found := list(converters(running.pid))):
        assert time.monotonic() < deadline
        assert running.poll() is None
        time.sleep(0.01)
    subprocess.run(["kill", "-9", str(found[0])], check=True)
    out, said = running.communicate(timeout=60)
    assert running.returncode == 1
    assert out == ""
    assert said.count("error:") == 1
    assert "k = " in said
    assert "was killed by SIGKILL" in said
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not hold memory limits")
def test_a_converter_with_too_little_memory_stops_the_export_with_one_clear_error(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    running = export(tiny_checkpoint, tmp_path / "out", "--memory", "150")
    _out, said = running.communicate(timeout=120)
    assert running.returncode == 1
    assert said.count("error:") == 1
    assert "150 MiB" in said
    assert sorted(tmp_path.iterdir()) == before


def test_what_a_converter_prints_stays_off_our_output(tiny_checkpoint: Path, tmp_path: Path) -> None:
    running = export(tiny_checkpoint, tmp_path / "out", "--json", "--jobs", "2")
    out, said = running.communicate(timeout=120)
    assert running.returncode == 0, said
    assert said == ""
    assert out.startswith("{")
    assert out.endswith("}\n")
