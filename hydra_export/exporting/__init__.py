"""The pipeline: an export is planned, its artifacts are written, verified against PyTorch, and sealed into a bundle."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ParamSpec, TypeVar

from hydra_export import archive, bundle, conversion
from hydra_export.cache import Cache
from hydra_export.calibration import Calibration
from hydra_export.checkpoint import Checkpoint
from hydra_export.conversion import Job
from hydra_export.data import ImageSet
from hydra_export.errors import CheckFailed
from hydra_export.exporting.combinations import jobs
from hydra_export.exporting.parities import measured
from hydra_export.exporting.plan import planned
from hydra_export.exporting.quantizing import Quantizing, quantized
from hydra_export.exporting.sample import sampled
from hydra_export.exporting.sealing import sealed
from hydra_export.gate import Gate
from hydra_export.running import Runs

__all__ = ["Quantizing", "export", "jobs"]

P = ParamSpec("P")
T = TypeVar("T")


def _distrusting_the_cache(exporting: Callable[P, T]) -> Callable[P, T]:
    """Where a check fails, what came out of the cache is dropped and everything tried once more: it is not to blame."""

    @functools.wraps(exporting)
    def again(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return exporting(*args, **kwargs)
        except CheckFailed:
            cache = kwargs.get("cache")
            if not isinstance(cache, Cache) or not cache.drop_reused():
                raise
        return exporting(*args, **kwargs)

    return again


@_distrusting_the_cache
def export(
    checkpoint: Checkpoint,
    out: Path | str,
    listed: Sequence[Job] = (),
    *,
    heads: Sequence[int] = (),
    images: ImageSet | Callable[[int], ImageSet] | None = None,
    gate: Gate | None = None,
    progress: bundle.Progress = bundle.silent,
    cache: Cache | None = None,
    verify_with: Sequence[str] = (),
    zipped: Path | None = None,
    devices: Sequence[bundle.DeviceEntry] = (),
    calibration: Calibration | None = None,
    quantizing: Quantizing | None = None,
) -> bundle.Manifest:
    """Writes a bundle at *out*, which is replaced as a whole, or left alone when anything fails.

    Args:
        listed: what ``jobs`` returned; separate ONNX files by default.
        heads: head counts; the checkpoint's own export list by default.
        images: what parity is measured on, or what reads so many of them; by default the packaged images, fitted to
            the model.
        gate: how much accuracy int8 may lose; its labels are those of *images* where they are the model's own.
        cache: of what was written before; everything is verified again.
        verify_with: runtimes that verify beside each target's own, by name.
        zipped: where the bundle's archive goes as well.
        devices: what ``fitting.fit`` chose: each target is written for the head counts of its devices alone.
        calibration: of the model, which becomes part of the bundle.
        quantizing: how activations are counted, for the precisions that count them.

    Raises:
        BadInput: no such subnetwork or classifier, a name of the model that cannot name files, or int8 without images
            that it could be judged by, or too few of them.
        OutputRefused: *out* holds anything but one of our bundles, or cannot be written.
        ParityFailed: an artifact does not compute its subnetwork.
    """
    plan = planned(checkpoint, listed or _default(), heads, devices, verify_with, images is not None)
    sample = sampled(plan, images, gate or Gate())
    with _written(Path(out), zipped, checkpoint.info.name) as folder, Runs(sample.given(plan)) as runs:
        counted = quantized(plan, quantizing, sample, lambda what: progress(what, 0, plan.num_steps))
        artifacts = conversion.written(
            plan.writes,
            lambda precision: counted.checkpoints.get(precision, checkpoint),
            folder,
            lambda what, done: progress(what, done, plan.num_steps),
            cache,
        )
        parities = measured(plan, artifacts, sample, folder, runs, counted, progress)
        progress("sealing", plan.num_steps, plan.num_steps)
        return sealed(plan, artifacts, parities, sample, folder, calibration, counted.how)


def _default() -> list[Job]:
    return jobs()


def _written(out: Path, zipped: Path | None, name: str) -> AbstractContextManager[Path]:
    return bundle.written(out) if zipped is None else archive.written(out, zipped, name)
