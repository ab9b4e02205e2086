"""``hydra-export calibrate``: how sure a bundle's model is, and the cascades that this allows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from hydra_export.commands import Result, candidates, say, table, talk, titled
from hydra_export.commands.candidates import one_of

if TYPE_CHECKING:
    from rich.table import Table

    from hydra_export.bundle import ModelEntry
    from hydra_export.calibration import Calibration
    from hydra_export.data import ImageSet


def calibrate(
    bundle: Path,
    *,
    data: Annotated[str | None, one_of(candidates.test_sets)] = None,
    max_images: int = 10_000,
    within: float = 0.0,
    artifact: str | None = None,
    plot: Path | None = None,
    limit_memory: int | None = None,
    limit_seconds: float | None = None,
) -> Result:
    """Calibrate a bundle: fit the confidence of each head count, and cascades that run a larger head count only when a
    smaller one is unsure.

    Three tenths of the images are used to fit, the rest to measure. The bundle is replaced as a whole: its manifest,
    card and hashes change, its artifacts do not.

    Args:
        bundle: Its folder, or its archive.
        data: packaged, fashion-mnist or digits (the whole test set), or a folder, ideally with one folder of images per
            class. Without labels, an answer counts as correct if the largest head count gives it too. The default,
            packaged, is for the packaged model.
        max_images: Use at most this many images, spread evenly over all.
        within: Largest loss of accuracy of a cascade on the images it is fitted on, in percentage points.
        artifact: The artifact to calibrate with, given by its path in the bundle; by default an exact and fast one.
        plot: Plot cascades and single head counts into this file, such as cascades.png.
        limit_memory: Memory limit in MiB of the process that runs artifacts, as for verify.
        limit_seconds: Time limit for each call of an artifact in seconds, as for verify.
    """
    import msgspec
    from rich.console import Group

    from hydra_export import archive
    from hydra_export import bundle as bundles
    from hydra_export.calibrating import calibrate as calibrated
    from hydra_export.commands.progress import shown_progress
    from hydra_export.guard import RunLimits

    if plot is not None:
        from hydra_export import pictures

        pictures.check(plot)
    console = talk()
    if bundle.is_file():
        with archive.unpacked(bundle) as folder:
            model = bundles.read(folder).model
    else:
        model = bundles.read(bundle).model
    images = _images(data, model, max_images)
    if images.note:
        say(console, f"note: {images.note}")
    with shown_progress(console) as progress:
        found = calibrated(
            bundle,
            images,
            within=within,
            artifact=artifact,
            limits=RunLimits(memory_mib=limit_memory, seconds=limit_seconds),
            progress=progress,
        )
    document = {"bundle": str(bundle), "plot": None if plot is None else str(plot), **msgspec.to_builtins(found)}
    right = "matching the images' labels" if found.labels else f"agreeing with k = {max(model.heads)}"
    title = (
        f"{model.name}: fitted on {found.num_fitted:,} of {found.data}; measured on the other {found.num_reported:,}"
    )
    if plot is not None:
        from hydra_export.evaluation.tradeoff import cascades

        cascades(found, model.gmacs, title, plot)
    notes = [f"Correct means {right}; intervals are 95 %. ECE: expected calibration error over 15 bins, in points."]
    if not found.cascades:
        notes += ["No cascade takes less than the single head count that it would replace."]
    tables = [_heads(found, model), *([_cascades(found, model)] if found.cascades else [])]
    return Result(document, titled(title, Group(*tables), *notes))


def _images(data: str | None, model: ModelEntry, limit: int) -> ImageSet:
    from hydra_export.data import FASHION_MNIST_LABELS
    from hydra_export.data.of_model import check_classes, fitted_to
    from hydra_export.errors import BadInput

    check_classes(model)
    if limit < 1:
        raise BadInput(f"`max_images` is {limit}.", "Use 1 or more.")
    if data is None and model.labels != FASHION_MNIST_LABELS:
        raise BadInput(f"No images of {model.name} come with this package.", "Pass `data` with a folder of images.")
    return fitted_to(model, data or "packaged", limit)


def _heads(found: Calibration, model: ModelEntry) -> Table:
    shown = table("k", "top-1 %", "interval", "temperature", "ECE", "calibrated", "GMACs")
    for each in found.subnetworks:
        between = f"{each.low:.1f} to {each.high:.1f}"
        errors = (f"{each.temperature:.2f}", f"{each.ece_before:.1f}", f"{each.ece_after:.1f}")
        shown.add_row(str(each.heads), f"{each.accuracy:.1f}", between, *errors, f"{model.gmacs[each.heads]:.3g}")
    return shown


def _cascades(found: Calibration, model: ModelEntry) -> Table:
    from hydra_export.calibration import COLUMNS

    shown = table(*COLUMNS)
    for each in found.cascades:
        shown.add_row(*each.cells(model.gmacs))
    return shown
