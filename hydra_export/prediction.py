"""What a bundle's model sees on images, by whichever of its artifacts this machine runs."""

# B images, H height, W width, C channels
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hydra_export import archive, bundle, targets
from hydra_export.arrays import Array, Pixels
from hydra_export.bundle import ArtifactEntry, Manifest, Progress
from hydra_export.data.decoding import decoded
from hydra_export.errors import BadInput, MissingExtra
from hydra_export.guard import Guard, RunLimits
from hydra_export.verification import check_artifact, check_files


@dataclass(frozen=True)
class Guess:
    """A class and how sure the model is of it; *name* is its number where the model does not name its classes."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What is on an image, the surest first; of a model without classes nothing."""

    image: Path
    guesses: tuple[Guess, ...]


@dataclass(frozen=True)
class Predictions:
    """What ran, and what it says of every image.

    Attributes:
        outputs: float32 [num_images, *output_shape], what the artifact gave.
    """

    artifact: ArtifactEntry
    heads: int
    runtime: str
    images: tuple[Prediction, ...]
    outputs: Array


def predict(
    path: Path,
    images: Sequence[Path],
    *,
    heads: int | None = None,
    top: int = 5,
    target: str | None = None,
    artifact: str | None = None,
    limits: RunLimits | None = None,
    progress: Progress = bundle.silent,
) -> Predictions:
    """Runs one artifact, in a process of its own, on *images*, which are preprocessed as the manifest says.

    Args:
        path: the bundle's folder, or its archive.
        heads: a head count; by default the largest that the artifact has.
        top: how many classes to name, where the model has classes.
        target: only artifacts of this one.
        artifact: this one alone, by its path in the bundle.

    Raises:
        BadInput: *path* is no bundle, or holds nothing of that kind; an image cannot be read.
        MissingExtra: nothing here runs such an artifact.
        LimitExceeded, VerificationFailed: as ``verify`` raises them, of what is run.
    """
    if top < 1:
        raise BadInput(f"`top` is {top}.", "Give 1 or more.")
    with ExitStack() as stack:
        folder = stack.enter_context(archive.unpacked(path)) if path.is_file() else path
        manifest = bundle.read(folder)
        listed, preprocessing = candidates(manifest, heads, target, artifact), manifest.model.preprocessing
        pixels_BHWC = np.stack([preprocessing.fit(decoded(image)) for image in images])
        guard = stack.enter_context(Guard(folder, manifest, limits or RunLimits()))
        progress(f"running {listed[0].path}", 0, len(images))
        (entry, *_), given = answered(guard, manifest, listed, heads, pixels_BHWC)
        progress("done", len(images), len(images))
        guesses = (
            _guesses(given, manifest.model.labels, top) if manifest.model.config.num_classes else [()] * len(images)
        )
        found = tuple(Prediction(*pair) for pair in zip(images, guesses, strict=True))
        return Predictions(entry, heads or max(entry.heads), _runtime(entry), found, given)


def answered(
    guard: Guard, manifest: Manifest, listed: Sequence[ArtifactEntry], heads: int | None, pixels_BHWC: Pixels
) -> tuple[list[ArtifactEntry], Array]:
    """Those of *listed* from the first on that something here runs, and what it gives, float32 [B, *output_shape].

    Raises:
        MissingExtra: nothing here runs any.
    """
    for index, entry in enumerate(listed):
        k = heads or max(entry.heads)
        check_files(guard.folder, manifest, entry)
        check_artifact(guard, entry)
        image = pixels_BHWC if entry.input == "image" else manifest.model.preprocessing.normalise(pixels_BHWC)
        try:
            given = guard.call(
                entry,
                f"Running {guard.folder / entry.path} at k = {k}",
                f"{__name__}:outputs",
                manifest.model.macs([k], max(len(pixels_BHWC), entry.batch)),
                target=entry.target,
                path=str(guard.folder / entry.path),
                heads=k,
                runtime=_runtime(entry),
                image=image,
            )
        except MissingExtra:
            if index == len(listed) - 1:
                raise
            continue
        return [*listed[index:]], np.asarray(given)
    raise AssertionError("there is a candidate")


def _runtime(entry: ArtifactEntry) -> str:
    return targets.get(entry.target).runtimes(entry.precision)[0].name


def outputs(target: str, path: str, heads: int, runtime: str, image: Array) -> Array:
    """What the process does."""
    return targets.get(target).load(Path(path), heads, 0, runtime).run(image)


def candidates(manifest: Manifest, heads: int | None, target: str | None, artifact: str | None) -> list[ArtifactEntry]:
    """The artifacts to try, the quickest exact ones first; BadInput where there is none."""
    if target is not None:
        targets.get(target)
    fitting = [
        entry
        for entry in manifest.artifacts
        if heads in (None, *entry.heads) and target in (None, entry.target) and artifact in (None, entry.path)
    ]
    if not fitting:
        listed = "; ".join(f"{entry.path}: k = {', '.join(map(str, entry.heads))}" for entry in manifest.artifacts)
        raise BadInput("The bundle holds no such artifact.", f"It holds {listed}.", field="artifact")
    return sorted(fitting, key=_slowness)


def _slowness(entry: ArtifactEntry) -> tuple[object, ...]:
    first = targets.get(entry.target).runtimes(entry.precision)[0]
    return not first.timed, entry.precision != "fp32", -max(entry.heads), entry.graph != "separate", entry.bytes


def _guesses(logits_BC: Array, labels: Sequence[str], top: int) -> Iterator[tuple[Guess, ...]]:
    exponentials_BC = np.exp(logits_BC - logits_BC.max(axis=1, keepdims=True, initial=-np.inf))
    for row in exponentials_BC / exponentials_BC.sum(axis=1, keepdims=True):
        best = np.argsort(-row, kind="stable")[:top]
        yield tuple(Guess(int(c), labels[c] if labels else str(c), float(row[c])) for c in best)
