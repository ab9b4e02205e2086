"""The packaged model, every head count, every target, on the packaged images."""

from __future__ import annotations

from pathlib import Path

import pytest

from hydra_export import checkpoint
from hydra_export.data import packaged_images
from hydra_export.exporting import export, jobs
from hydra_export.verification import verify
from tests.conftest import available_targets

NUM_IMAGES = 32  # by default an export takes 128


@pytest.mark.slow
@pytest.mark.parametrize("target", available_targets())
def test_every_head_count_of_the_packaged_model_is_proven(target: str, tmp_path: Path) -> None:
    loaded = checkpoint.load()
    images = packaged_images(loaded.info.preprocessing, NUM_IMAGES)
    manifest = export(loaded, tmp_path / "bundle", jobs([target]), heads=tuple(range(1, 13)), images=images)
    records = {k: record for artifact in manifest.artifacts for k, record in artifact.parity.items()}
    assert sorted(records) == list(range(1, 13))
    for record in records.values():
        assert record.bound is not None
        assert record.max_abs_error < record.bound / 5  # far from what would be found by chance
        assert record.top1_agreement == 1
        assert record.num_images == NUM_IMAGES
    assert len(verify(tmp_path / "bundle")) == 12
