"""Files and folders that appear whole or not at all, whenever the process is killed."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hydra_export import files
from hydra_export.errors import OutputRefused

KILLS = 30  # at least
CUT_SHORT = 10  # of these, at least so many must have hit a write, or the test shows nothing

_WRITE_FILES = """
import sys
from pathlib import Path
from hydra_export.files import replaced_file
path = Path(sys.argv[1])
print("ready", flush=True)
for n in range(10**6):
    with replaced_file(path) as partial:
        with partial.open("wb") as file:
            for _ in range(64):
                file.write(bytes([n % 256]) * 4096)
"""

_WRITE_FOLDERS = """
import sys
from pathlib import Path
from hydra_export.files import replaced_folder
path = Path(sys.argv[1])
print("ready", flush=True)
for n in range(10**6):
    with replaced_folder(path) as partial:
        (partial / "inner").mkdir()
        for i in range(8):
            (partial / f"{i}").write_text(f"{n}")
            (partial / "inner" / f"{i}").write_text(f"{n}")
"""


def started(program: str, path: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def killed_at_random(program: str, path: Path, check: Callable[[], None]) -> None:
    """Kills the writer again and again, and checks each time what is there."""
    chance, kills, cut, latest = random.Random(0), 0, 0, 0.02
    while kills < KILLS or cut < CUT_SHORT or not path.exists():
        assert kills < 20 * KILLS
        process = started(program, path)
        time.sleep(chance.uniform(0, latest))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        kills += 1
        cut += bool(left_over(path))
        if not path.exists():  # a slow or busy machine
            latest *= 1.2
        check()


def left_over(path: Path) -> list[Path]:
    return list(path.parent.glob(f".{path.name}.*.partial"))


def test_a_file_is_whole_after_any_kill(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"

    def check() -> None:
        if path.exists():
            content = path.read_bytes()
            assert len(content) == 64 * 4096
            assert len(set(content)) == 1

    killed_at_random(_WRITE_FILES, path, check)
    assert path.exists()
    with files.replaced_file(path) as partial:
        partial.write_bytes(b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.bin"]


def test_a_folder_is_whole_after_any_kill(tmp_path: Path) -> None:
    path = tmp_path / "bundle"

    def check() -> None:
        if path.exists():
            names = sorted(str(entry.relative_to(path)) for entry in path.rglob("*"))
            assert names == [*map(str, range(8)), "inner", *(f"inner/{i}" for i in range(8))]
            assert len({entry.read_text() for entry in path.rglob("*") if entry.is_file()}) == 1

    killed_at_random(_WRITE_FOLDERS, path, check)
    assert path.exists()
    with files.replaced_folder(path) as partial:
        (partial / "new").touch()
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]
    assert [entry.name for entry in path.iterdir()] == ["new"]


@pytest.mark.parametrize("replaced", [files.replaced_file, files.replaced_folder])
def test_what_a_live_process_is_writing_stays(tmp_path: Path, replaced: Callable[..., Iterator[Path]]) -> None:
    path = tmp_path / "out"
    program = (
        f"import sys\nfrom pathlib import Path\nfrom hydra_export.files import {replaced.__name__} as replaced\n"
        "with replaced(Path(sys.argv[1])):\n    print('ready', flush=True)\n    sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    abandoned = tmp_path / ".out.killed.partial"
    abandoned.mkdir()
    (abandoned / "large").touch()
    with replaced(path):  # type: ignore[attr-defined]
        assert not abandoned.exists()
        assert len(left_over(path)) == 2
    process.communicate()
    assert process.returncode == 0
    assert left_over(path) == []


def test_other_names_are_left_alone(tmp_path: Path) -> None:
    others = [".other.x.partial", "a[b].x.partial", ".a[b].x.partial.keep", ".ab.x.partial", "partial"]
    for name in others:
        (tmp_path / name).mkdir()
    (tmp_path / ".a[b].x.partial").mkdir()
    (tmp_path / ".a[b].link.partial").symlink_to(tmp_path / ".other.x.partial")
    with files.replaced_folder(tmp_path / "a[b]") as partial:
        assert partial.parent == tmp_path
    left = {entry.name for entry in tmp_path.iterdir()}
    assert left == {*others, "a[b]", ".a[b].link.partial"}


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077, 0o002])
def test_modes_follow_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with files.replaced_file(tmp_path / "file") as partial:
            partial.write_text("x")
        with files.replaced_folder(tmp_path / "folder"):
            pass
    finally:
        assert os.umask(before) == mask
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~mask
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o777 & ~mask


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_while_writing_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("old")
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(error), files.replaced_file(file) as partial:
        partial.write_text("new")
        raise error
    with pytest.raises(error), files.replaced_folder(folder) as partial:
        (partial / "new").touch()
        raise error
    assert file.read_text() == "old"
    assert [entry.name for entry in folder.iterdir()] == ["old"]
    assert {entry.name for entry in tmp_path.iterdir()} == {"file", "folder"}


def test_parents_are_made_and_links_stay(tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(tmp_path / "a" / "bundle")
    (tmp_path / "model").symlink_to(tmp_path / "b" / "model-1")
    for content in ("first", "second"):
        with files.replaced_folder(tmp_path / "current") as partial:
            (partial / "text").write_text(content)
        with files.replaced_file(tmp_path / "model") as partial:
            partial.write_text(content)
        assert (tmp_path / "a" / "bundle" / "text").read_text() == content
        assert (tmp_path / "b" / "model-1").read_text() == content
    assert (tmp_path / "current").is_symlink()
    assert (tmp_path / "model").is_symlink()
    assert {entry.name for entry in tmp_path.iterdir()} == {"a", "b", "current", "model"}


def test_a_file_system_without_exchange_still_gets_the_new_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "another")
    for content in ("first", "second"):
        with files.replaced_folder(tmp_path / "bundle") as partial:
            (partial / content).touch()
        assert [entry.name for entry in (tmp_path / "bundle").iterdir()] == [content]
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


def blocked(tmp_path: Path, case: str) -> Path:
    """A path that nothing can be written to."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return {
        "below a file": tmp_path / "file" / "out",
        "far below a file": tmp_path / "file" / "a" / "out",
        "too long": tmp_path / ("x" * 300),
        "through a loop": tmp_path / "loop" / "out",
    }[case]


@pytest.mark.parametrize("replaced", [files.replaced_file, files.replaced_folder])
@pytest.mark.parametrize("case", ["below a file", "far below a file", "too long", "through a loop"])
def test_a_path_that_cannot_be_written_is_refused_by_name(tmp_path: Path, replaced: object, case: str) -> None:
    out = blocked(tmp_path, case)
    with pytest.raises(OutputRefused, match="Cannot write") as caught, replaced(out):  # type: ignore[operator]
        raise AssertionError("nothing to write to")
    assert str(out) in caught.value.message
    assert caught.value.remedy.startswith("Choose a")
    assert caught.value.exit_status == 2
    assert (tmp_path / "file").read_text() == "mine"


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    with pytest.raises(OutputRefused, match="Is a directory"), files.replaced_file(tmp_path / "folder") as partial:
        partial.write_text("x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount)], capture_output=True, text=True, check=False
    ) if sys.platform == "linux" and os.geteuid() == 0 else None  # fmt: skip
    if done is None or done.returncode:
        pytest.skip("mounting a small tmpfs needs root on Linux")
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_full_disk_is_refused_and_leaves_what_was_there(full: Path) -> None:
    file, folder = full / "file", full / "folder"
    with files.replaced_file(file) as partial:
        partial.write_bytes(b"old")
    with files.replaced_folder(folder) as partial:
        (partial / "old").touch()
    for replaced, path in ((files.replaced_file, file), (files.replaced_folder, folder)):
        said = f"Cannot write {path}: No space left.*Free some space"
        with pytest.raises(OutputRefused, match=said), replaced(path) as partial:
            (partial / "new" if partial.is_dir() else partial).write_bytes(b"x" * 300_000)
    assert file.read_bytes() == b"old"
    assert [entry.name for entry in folder.iterdir()] == ["old"]
    assert {entry.name for entry in full.iterdir()} == {"file", "folder"}


def test_an_error_that_is_not_about_the_output_is_not_hidden(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.replaced_file(tmp_path / "out"):
        (tmp_path / "input").read_bytes()


def test_sha256_is_that_of_the_whole_file(tmp_path: Path) -> None:
    content = os.urandom(3_000_001)
    (tmp_path / "large").write_bytes(content)
    assert files.sha256(tmp_path / "large") == hashlib.sha256(content).hexdigest()


# One process at a time

_HOLD = """
import sys, time
from pathlib import Path
from hydra_export import files
with files.alone_in(Path(sys.argv[1]), 0):
    print("ready", flush=True)
    time.sleep(600)
"""


def test_a_folder_is_held_by_one_process_until_it_ends_in_whatever_way(tmp_path: Path) -> None:
    holder = started(_HOLD, tmp_path)
    with pytest.raises(OutputRefused, match=f"Another process is writing into {tmp_path}"), files.alone_in(tmp_path, 0):
        pytest.fail("it is held")
    holder.kill()
    holder.communicate()
    with files.alone_in(tmp_path, 0):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_let_go_though_a_fork_lives_on(tmp_path: Path) -> None:
    with files.alone_in(tmp_path / "new", 0):
        (tmp_path / "new" / "kept").touch()
        reading, writing = os.pipe()
        fork = os.fork()
        if not fork:
            os.close(writing)
            os.read(reading, 1)  # until the parent is done
            os._exit(0)
    with files.alone_in(tmp_path / "new", 0):
        os.close(writing)
        os.waitpid(fork, 0)
    os.close(reading)


def test_a_folder_that_was_made_to_be_held_goes_where_nothing_came_of_it(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), files.alone_in(tmp_path / "a/b", 0):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(OutputRefused), files.alone_in(tmp_path / "file", 0):
        pytest.fail("it is a file")


def test_what_waits_in_the_place_of_a_partial_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".out.x.partial")
    with files.replaced_file(tmp_path / "out") as partial:
        partial.write_bytes(b"new")
    assert (tmp_path / "out").read_bytes() == b"new"
