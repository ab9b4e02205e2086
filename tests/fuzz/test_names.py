"""Nasty names in documents; ``python -m tests.fuzz.names`` takes a thousand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import nasty
from tests.fuzz import names


def test_no_output_shows_what_is_in_a_document_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "10000")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    found = names.drive([nasty.NASTY["color"] + nasty.NASTY["html"], *nasty.names(2)], tmp_path / "names")
    assert not found.wrong
    assert found.statuses.keys() == {0, 1, 2}
