"""A bundle is calibrated: its artifacts answer images, and what these say of its confidence becomes part of it."""

# n images, H height, W width, C channels, K classes
from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np

from hydra_export import archive, bundle, card, files
from hydra_export.arrays import Array, Pixels
from hydra_export.bundle import Manifest, Progress
from hydra_export.calibration import Calibration, calibrated
from hydra_export.card import licences
from hydra_export.data import ImageSet
from hydra_export.data.of_model import check_classes
from hydra_export.guard import Guard, RunLimits
from hydra_export.prediction import answered, candidates

_PIECE = 256  # images of a call


def calibrate(
    path: Path,
    images: ImageSet,
    *,
    within: float = 0.0,
    artifact: str | None = None,
    limits: RunLimits | None = None,
    progress: Progress = bundle.silent,
) -> Calibration:
    """Calibrates the bundle at *path*, a folder or an archive, which is replaced as a whole.

    Args:
        images: fitted to the model; those without labels are judged by the answers of the largest head count.
        within: percentage points that a cascade may lose where it is fitted.
        artifact: whose answers count, by its path in the bundle; by default an exact and quick one for each head count.

    Raises:
        BadInput: *path* is no bundle, its model has no classes, one head count alone, or there are too few images.
        LimitExceeded, VerificationFailed: as ``verify`` raises them.
    """
    with _folder(path) as folder:
        manifest = bundle.read(folder)
        model = manifest.model
        check_classes(model)
        logits = _logits(folder, manifest, images.pixels, artifact, limits or RunLimits(), progress)
        gmacs = {k: model.gmacs[k] for k in logits}
        found = calibrated(logits, images.labels, gmacs, images.source, within=within)
        with _replaced(path, folder) as copy:
            _rewrite(copy, msgspec.structs.replace(manifest, calibration=found))
    return found


@contextmanager
def _folder(path: Path) -> Iterator[Path]:
    """The bundle's folder; of an archive, a temporary one that stays when the archive is replaced."""
    if not path.is_file():
        yield path
        return
    with files.temporary_folder() as place:
        with archive.unpacked(path) as unpacked:
            folder = Path(shutil.copytree(unpacked, place / unpacked.name))
        yield folder


@contextmanager
def _replaced(path: Path, folder: Path) -> Iterator[Path]:
    """A folder to change like *folder*, which takes the place of *path* at the end."""
    if path.is_file():
        with files.replaced_file(path) as partial:
            yield folder
            archive.write(folder, partial, folder.name)
        return
    with bundle.written(path) as copy:
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        yield copy


def _logits(
    folder: Path, manifest: Manifest, pixels_nHWC: Pixels, artifact: str | None, limits: RunLimits, progress: Progress
) -> dict[int, Array]:
    """[n, K] by head count, of the artifacts that are tried first where they are asked for answers."""
    heads = [
        k for k in manifest.model.heads if artifact is None or k in candidates(manifest, None, None, artifact)[0].heads
    ]
    total, found = len(heads) * len(pixels_nHWC), dict[int, Array]()
    with Guard(folder, manifest, limits) as guard:
        for k in heads:
            listed, pieces = [{k: entry} for entry in candidates(manifest, k, None, artifact)], list[Array]()
            for start in range(0, len(pixels_nHWC), _PIECE):
                progress(f"k = {k}", len(found) * len(pixels_nHWC) + start, total)
                pieces.append(answered(guard, manifest, listed, pixels_nHWC[start : start + _PIECE]).outputs)
            found[k] = np.concatenate(pieces)
    progress("fitting", total, total)
    return found


def _rewrite(folder: Path, manifest: Manifest) -> None:
    """Card and manifest anew, of which all else stays as it is."""
    golden = bundle.read_golden(folder, manifest)
    last = {k: by_precision["fp32"].exact[-1] for k, by_precision in golden.expected.items()}
    best = {k: (int(outputs.argmax()), float(outputs.max())) for k, outputs in last.items()}
    card.write(folder, manifest, golden.pixels, best, licences.of_images(manifest))
    for name in (bundle.MANIFEST, bundle.SUMS):
        (folder / name).unlink()
    kept = {path for entry in manifest.artifacts for path in entry.files} | {bundle.GOLDEN}
    listed = tuple(entry for entry in manifest.files if entry.path in kept)
    bundle.seal(folder, msgspec.structs.replace(manifest, files=listed))
