"""What is read once is read again whenever it might have changed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from hydra_export.unchanged import Latest


def settled(path: Path, content: str) -> Path:
    """*path* with *content*, long enough ago that a change of it shows."""
    path.write_text(content, encoding="ascii")
    time.sleep(0.1)
    return path


@pytest.fixture
def reads() -> list[Path]:
    return []


@pytest.fixture
def text(reads: list[Path]) -> Latest[str]:
    def read(path: Path) -> str:
        reads.append(path)
        return (
            path.read_text(encoding="ascii")
            if path.is_file()
            else "".join(sorted(each.name for each in path.iterdir()))
        )

    return Latest(read)


def test_a_file_is_read_once_until_it_changes(text: Latest[str], reads: list[Path], tmp_path: Path) -> None:
    path = settled(tmp_path / "a", "one")
    assert [text(path), text(path)] == ["one", "one"]
    assert reads == [path]
    status = path.stat()
    path.write_text("two", encoding="ascii")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # the system notes the change all the same
    assert text(path) == "two"


def test_a_folder_changes_with_what_is_in_it(text: Latest[str], reads: list[Path], tmp_path: Path) -> None:
    settled(tmp_path / "a", "one")
    assert [text(tmp_path), text(tmp_path)] == ["a", "a"]
    (tmp_path / "b").touch()
    assert text(tmp_path) == "ab"
    assert len(reads) == 2


def test_a_file_that_may_still_change_is_not_kept(text: Latest[str], reads: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one", encoding="ascii")
    text(path)
    path.write_text("two", encoding="ascii")
    assert text(path) == "two"
    assert len(reads) == 2


def test_another_file_takes_the_place_of_the_last(text: Latest[str], reads: list[Path], tmp_path: Path) -> None:
    one, two = settled(tmp_path / "a", "one"), settled(tmp_path / "b", "two")
    assert [text(one), text(two), text(one)] == ["one", "two", "one"]
    assert text.afresh(one) == "one"
    assert len(reads) == 4


def test_what_cannot_be_read_is_refused_every_time(text: Latest[str], tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            text(tmp_path / "none")
