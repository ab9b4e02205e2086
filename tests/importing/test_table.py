"""Every checkpoint of the table ends as it must: none is accepted, computes something else and says nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.importing.cases import Case, cases, outcome


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.name)
def test_a_checkpoint_is_equal_assumed_aloud_or_refused(case: Case, tmp_path: Path) -> None:
    found = outcome(case, tmp_path)
    assert found.end == case.end, found
    if case.end == "refused":
        assert case.says in found.detail
    if case.end == "assumed":
        assert any(line.startswith(case.says) for line in found.assumed)
