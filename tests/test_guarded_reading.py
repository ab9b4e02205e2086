"""A file from somewhere else is opened only where it is regular and small enough; nothing is waited for."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from hydra_export import files
from hydra_export.cli import main
from hydra_export.errors import Unreadable

_LIMIT = 1000


def _fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _link(path: Path, to: str) -> Path:
    path.symlink_to(to)
    return path


def _socket(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
    return path


def _sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


_NASTY = {
    "a named pipe": (lambda folder: _fifo(folder / "pipe"), "is a named pipe, not a file"),
    "a link to one": (
        lambda folder: _link(folder / "link", str(_fifo(folder / "pipe"))),
        "is a named pipe, not a file",
    ),
    "endless zeros": (lambda folder: _link(folder / "link", "/dev/zero"), "is a device, not a file"),
    "a terminal": (lambda _folder: Path("/dev/tty"), "is a device, not a file"),
    "a socket": (lambda folder: _socket(folder / "socket"), "is a socket, not a file"),
    "a folder": (lambda folder: folder, "is a folder, not a file"),
    "nothing": (lambda folder: folder / "none", "No such file"),
    "a broken link": (lambda folder: _link(folder / "link", "none"), "No such file"),
    "a loop": (lambda folder: _link(folder / "link", "link"), "symbolic links"),
    "below a file": (lambda folder: _sparse(folder / "file", 1) / "below", "Not a directory"),
    "an impossible name": (lambda folder: folder / "zero\0byte", "null"),
    "too long a name": (lambda folder: folder / ("x" * 300), "File name too long"),
    "a sparse terabyte": (lambda folder: _sparse(folder / "sparse", 2**40), "allowed: at most 1,000 bytes"),
    "a byte too many": (lambda folder: _sparse(folder / "large", _LIMIT + 1), "it has 1,001 bytes; allowed"),
}


@pytest.mark.parametrize("what", _NASTY)
def test_what_is_no_regular_small_file_is_refused_at_once(tmp_path: Path, what: str) -> None:
    make, reason = _NASTY[what]
    path = make(tmp_path)
    with pytest.raises(Unreadable, match=reason) as refused:
        files.read(path, _LIMIT, "The list")
    assert refused.value.message.startswith("The list cannot be read: ")
    assert refused.value.remedy
    assert refused.value.missing == (what in ("nothing", "a broken link"))


def test_a_regular_file_and_a_link_to_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * _LIMIT)
    assert files.read(tmp_path / "file", _LIMIT) == b"x" * _LIMIT
    assert files.read(_link(tmp_path / "link", "file"), _LIMIT) == b"x" * _LIMIT
    with pytest.raises(Unreadable, match="it is a link, not a file"), files.opened(tmp_path / "link", links=False):
        pass


def test_a_file_that_says_it_is_empty_and_is_not_is_refused() -> None:
    with pytest.raises(Unreadable, match="grew"):
        files.read("/proc/self/status", _LIMIT)


def _commands(bundle: Path, nasty: Path, out: Path) -> dict[str, list[str]]:
    """Every option that names a file or a bundle of somebody else."""
    report = ["report", str(bundle), "--out", str(out)]
    return {
        "verify": ["verify", str(nasty)],
        "report": ["report", str(nasty), "--out", str(out)],
        "report --against": [*report, "--against", str(nasty)],
        "report --bench": [*report, "--bench", str(nasty)],
        "report --profiles": [*report, "--profiles", str(nasty.parent)],
        "bench compare": ["bench", "compare", str(nasty), str(nasty)],
        "profile import": ["profile", "import", str(nasty), "--device", "pixel7"],
        "profile fleet": ["profile", "fleet", str(nasty)],
        "profile --profiles": ["profile", "list", "--profiles", str(nasty.parent)],
        "profile --bundle": ["profile", "--device", "pixel7", "--bundle", str(nasty)],
    }


@pytest.mark.parametrize("kind", ["pipe", "endless zeros"])
@pytest.mark.parametrize("command", _commands(Path("b"), Path("n"), Path("o")))
def test_no_command_waits_for_or_reads_what_is_no_file(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, kind: str
) -> None:
    nasty = tmp_path / "profiles" / "nasty.toml"
    nasty.parent.mkdir()
    if kind == "pipe":
        os.mkfifo(nasty)
    else:
        nasty.symlink_to("/dev/zero")
    arguments = _commands(folder, nasty, tmp_path / "report.html")[command]
    assert main(arguments) == 2
    assert str(nasty) in "".join(capsys.readouterr().err.split("\n"))
