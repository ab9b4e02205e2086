"""What tests of training share."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest

from hydra_export import board


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two processes may read images, as on any machine of today, though the one that tests may have a single core."""
    monkeypatch.setattr(board, "usable_cores", lambda: 2)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create 2 worker processes")
        yield
