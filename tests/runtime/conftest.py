"""Bundles for the run-time library."""

from __future__ import annotations

from pathlib import Path

import pytest

from hydra_export import archive, checkpoint
from hydra_export.calibrating import calibrate
from hydra_export.data import packaged_images
from hydra_export.exporting import export, jobs


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The packaged model at three head counts: in both formats, calibrated, and packed; and as pixels by threes."""
    place, packaged = tmp_path_factory.mktemp("runtime"), checkpoint.load()
    listed = [*jobs(["onnx"], ["separate", "shared", "universal"]), *jobs(["tflite"], ["separate", "universal"])]
    export(packaged, place / "all", listed, heads=[3, 6, 12])
    calibrate(place / "all", packaged_images(packaged.info.preprocessing))
    images = [*jobs(["onnx", "tflite"], ["universal"], input="image", batch=3)]
    export(packaged, place / "images", images, heads=[3, 6, 12])
    archive.write(place / "all", place / "all.zip", "all")
    return {path.name: path for path in place.iterdir()}
