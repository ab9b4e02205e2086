"""What a process may find where it starts: full or closed outputs, limits, folders that are gone, poor locales.

Each is status 2 with its cause in one line, or no matter at all; never a bug of ours.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hydra_export import refusal

HERE = str(Path(__file__).parents[1])
QUICK = {"help": ["--help"], "profile": ["profile", "list"], "refused": ["verify", "none"]}


def run(
    arguments: list[str], place: Path, redirected: str = "", limit: Callable[[], None] | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Our command line in a shell, with what is *redirected* there."""
    env = {**os.environ, "PYTHONPATH": HERE, "XDG_CONFIG_HOME": str(place / "config"), **variables}
    command = ["sh", "-c", f'exec "$@" {redirected}', "sh", sys.executable, "-m", "hydra_export", *arguments]
    return subprocess.run(
        command,
        cwd=place,
        env={name: value for name, value in env.items() if value},
        capture_output=True,
        text=True,
        errors="surrogateescape",
        preexec_fn=limit,
        check=False,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("arguments", [*QUICK.values(), ["profile", "list", "--json"]])
@pytest.mark.parametrize(
    ("redirected", "said"),
    [
        (">/dev/full", "Cannot write to standard output: No space left on device."),
        (">&-", "Standard output is closed."),
    ],
)
def test_an_output_that_takes_nothing_is_refused_on_standard_error(
    arguments: list[str], redirected: str, said: str, tmp_path: Path
) -> None:
    done = run(arguments, tmp_path, redirected)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert f"error: {said}" in done.stderr or (arguments == QUICK["refused"] and "full" in redirected)


@pytest.mark.parametrize("redirected", ["2>/dev/full", "2>&-", "<&- 2>&-"])
def test_talk_that_nobody_hears_changes_nothing(redirected: str, tmp_path: Path) -> None:
    refused = run(QUICK["refused"], tmp_path, redirected)
    assert (refused.returncode, refused.stdout, refused.stderr) == (2, "", "")
    listed = run(QUICK["profile"], tmp_path, redirected)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "Google Pixel 7" in listed.stdout


def test_a_file_never_takes_the_place_of_a_closed_output(tmp_path: Path) -> None:
    """Else libraries would print into it."""
    program = """
import os, sys
from hydra_export import streams
streams.open_all()
number = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)
with open(sys.argv[2], "w") as file:
    file.write(str(number))
"""
    paths = [str(tmp_path / "file"), str(tmp_path / "number")]
    command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", program, *paths]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": HERE})
    assert int((tmp_path / "number").read_text()) > 2


@pytest.mark.parametrize("arguments", [["profile", "list"], ["report", "bundle"], ["--json"]])
def test_a_working_directory_that_was_deleted_is_named(arguments: list[str], tmp_path: Path) -> None:
    command = ["sh", "-c", 'mkdir gone; cd gone; rmdir ../gone; exec "$@"', "sh", sys.executable, "-m", "hydra_export"]
    done = subprocess.run(
        [*command, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": HERE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "The working directory was deleted." in done.stderr + done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="a limit that Linux enforces")
def test_a_limit_of_memory_is_named(tmp_path: Path) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (400 * 2**20, 400 * 2**20))

    # In words of the dynamic linker; where there is more, in those of whichever library runs short.
    done = run(["export", "--out", "out"], tmp_path, limit=limited, OMP_NUM_THREADS="1")
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: There is not enough memory"), done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE), "x"), "The system refuses to open more files"),
        (ImportError("libx.so: cannot open shared object file: Too many open files"), "refuses to open more files"),
        (MemoryError(), "There is not enough memory."),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), "There is not enough memory"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/a\nb"), "The system refused: /a\nb: Permission"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_the_system_refuses_is_no_bug_of_ours(error: Exception, said: str) -> None:
    refused = refusal.of(error)
    assert refused is not None
    assert said in refused.message
    assert refused.exit_status == 2
    wrapping = ValueError("of a library")
    wrapping.__cause__ = error
    assert refusal.of(wrapping) is not None
    assert refusal.of(ValueError("of ours")) is None


def test_no_home_is_named() -> None:
    program = """
import pwd, sys
def unknown(number):
    raise KeyError(number)
pwd.getpwuid = unknown
sys.argv = ["hydra-export", "profile", "list"]
from hydra_export.cli import run
run()
"""
    env = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CONFIG_HOME")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env={**env, "PYTHONPATH": HERE}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: There is no home folder for settings and caches. Set HOME.\n"


@pytest.mark.parametrize(
    "variables",
    [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii"}],
    ids=["C", "ascii"],
)
def test_a_locale_without_letters_is_no_error(variables: dict[str, Any], tmp_path: Path) -> None:
    name = "größe 猫 \x1b[2J"
    refused = run(["verify", name], tmp_path, **variables)
    assert refused.returncode == 2
    assert refused.stderr.isascii()
    assert r"\x1b[2J" in refused.stderr
    document = run(["verify", name, "--json"], tmp_path, **variables)
    assert document.stdout.isascii()
    assert "gr" in json.loads(document.stdout)["error"]["message"]
    assert run(QUICK["profile"], tmp_path, **variables).returncode == 0


def test_a_folder_of_settings_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Not an empty one: the user's devices would be missing without a word."""
    folder = tmp_path / "config" / "hydra-export" / "profiles"
    folder.parent.mkdir(parents=True)
    folder.symlink_to(folder.name)  # a loop, which root cannot read either
    done = run(["profile", "list"], tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"error: The profiles in {folder} cannot be read: " in done.stderr
