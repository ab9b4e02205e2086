"""The same as a folder, for a host of static files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hydra_export import serving
from hydra_export.errors import OutputRefused, Unreadable
from tests.conftest import snapshot


def written(listing: serving.Listing, out: Path) -> dict[str, tuple[int, str]]:
    serving.write(listing.with_session(is_static=True, is_secure=True), out)
    return snapshot(out)


def test_the_folder_has_what_is_served_and_nothing_else(listing: serving.Listing, tmp_path: Path) -> None:
    written(listing, tmp_path / "out")
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {*listing.resources, "session.json"}
    for name, resource in listing.resources.items():
        with resource.opened() as content:
            assert (tmp_path / "out" / name).read_bytes() == content.read(), name
    session = json.loads((tmp_path / "out" / "session.json").read_bytes())
    assert (session["can_save"], session["static"]) == (False, True)
    assert set(session["files"]) == found
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_what_was_written_before_is_replaced(listing: serving.Listing, tmp_path: Path) -> None:
    first = written(listing, tmp_path / "out")
    (tmp_path / "out" / "bundle" / "README.md").write_text("changed")
    assert written(listing, tmp_path / "out") == first


@pytest.mark.parametrize("place", ["mine.txt", "bundle/mine.txt", "session.json", "page/.hidden"])
def test_a_folder_with_something_else_is_refused_and_stays(
    listing: serving.Listing, tmp_path: Path, place: str
) -> None:
    if place != "session.json":
        written(listing, tmp_path / "out")
    (tmp_path / "out" / place).parent.mkdir(exist_ok=True)
    (tmp_path / "out" / place).write_text('{"static": false, "files": ["session.json"]}')
    before = snapshot(tmp_path)
    with pytest.raises(OutputRefused, match=r"contains .*"):
        written(listing, tmp_path / "out")
    assert snapshot(tmp_path) == before


def test_a_file_and_a_link_are_refused(listing: serving.Listing, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputRefused, match="is not a folder"):
        written(listing, tmp_path / "file")
    written(listing, tmp_path / "out")
    (tmp_path / "out" / "link").symlink_to(tmp_path / "file")
    with pytest.raises(OutputRefused, match="link"):
        written(listing, tmp_path / "out")


def test_a_file_that_changed_leaves_no_folder(folder: Path, package_folder: Path, tmp_path: Path) -> None:
    with serving.opened(folder, package_folder) as listing:
        (folder / "README.md").write_text("other")
        with pytest.raises(Unreadable, match="changed"):
            written(listing, tmp_path / "out")
    assert not (tmp_path / "out").exists()
