"""What a bundle's model sees on images, by whichever of its artifacts this machine runs."""

# B images, H height, W width, C channels
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hydra_export import archive, bundle, documents, files, runtime, targets
from hydra_export.arrays import Array, Pixels
from hydra_export.bundle import ArtifactEntry, Manifest, Progress
from hydra_export.data.decoding import decoded
from hydra_export.errors import BadInput, MissingExtra
from hydra_export.guard import Guard, RunLimits
from hydra_export.target import Target
from hydra_export.verification import check_artifact, check_files


@dataclass(frozen=True)
class Guess:
    """A class and how sure the model is of it; *name* is its number where the model does not name its classes."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What is on an image by the head count *heads*, the surest first; of a model without classes nothing."""

    image: Path
    heads: int
    guesses: tuple[Guess, ...]


@dataclass(frozen=True)
class Predictions:
    """What ran, and what it says of every image.

    Attributes:
        outputs: float32 [num_images, *output_shape], what the artifact gave.
    """

    artifact: ArtifactEntry
    heads: tuple[int, ...]
    runtime: str
    images: tuple[Prediction, ...]
    outputs: Array


@dataclass(frozen=True)
class Answers:
    """What the run-time library says of some images: the head count of each [B], and outputs [B, *output_shape]."""

    artifact: ArtifactEntry
    runtime: str
    heads: tuple[int, ...]
    outputs: Array


def predict(
    path: Path,
    images: Sequence[Path],
    *,
    heads: int | None = None,
    as_good_as: int | None = None,
    top: int = 5,
    target: str | None = None,
    artifact: str | None = None,
    limits: RunLimits | None = None,
    progress: Progress = bundle.silent,
) -> Predictions:
    """Runs an artifact by the run-time library, in a process of its own, on *images*, one after the other.

    Args:
        path: the bundle's folder, or its archive.
        heads: a head count; by default the largest that the artifact has.
        as_good_as: instead of that, the cascade of the bundle that is as good as this head count.
        top: how many classes to name, where the model has classes.
        target: only artifacts of this one.
        artifact: this one alone, by its path in the bundle.

    Raises:
        BadInput: *path* is no bundle, or holds nothing of that kind; an image cannot be read.
        MissingExtra: nothing here runs such an artifact.
        LimitExceeded, VerificationFailed: as ``verify`` raises them, of what is run.
    """
    if top < 1:
        raise BadInput(f"`top` is {top}.", "Use 1 or more.")
    with ExitStack() as stack:
        folder = stack.enter_context(archive.unpacked(path)) if path.is_file() else path
        manifest = bundle.read(folder)
        preprocessing = manifest.model.preprocessing
        listed: list[Choosable]
        if as_good_as is None:
            listed = [{heads or max(e.heads): e} for e in candidates(manifest, heads, target, artifact)]
        else:
            listed = _of_cascade(manifest, as_good_as, candidates(manifest, None, target, artifact))
        pixels_BHWC = np.stack([preprocessing.fit(decoded(image)) for image in images])
        guard = stack.enter_context(Guard(folder, manifest, limits or RunLimits()))
        progress(f"running {next(iter(listed[0].values())).path}", 0, len(images))
        found = answered(guard, manifest, listed, pixels_BHWC, as_good_as)
        progress("done", len(images), len(images))
        guesses = _guesses(found, manifest, top) if manifest.model.config.num_classes else [()] * len(images)
        seen = tuple(Prediction(*each) for each in zip(images, found.heads, guesses, strict=True))
        return Predictions(found.artifact, tuple(sorted({*found.heads})), found.runtime, seen, found.outputs)


Choosable = Mapping[int, ArtifactEntry]  # by head count, the artifact that runs it


def answered(
    guard: Guard,
    manifest: Manifest,
    listed: Sequence[Choosable],
    pixels_BHWC: Pixels,
    as_good_as: int | None = None,
) -> Answers:
    """What the first of *listed* that something here runs says of fitted images: its largest head count, or a cascade.

    Raises:
        MissingExtra: nothing here runs any.
    """
    for index, by_heads in enumerate(listed):
        entries = {entry.path: entry for entry in by_heads.values()}
        first = next(iter(entries.values()))
        for entry in entries.values():
            check_files(guard.folder, manifest, entry)
            check_artifact(guard, entry)
        try:
            found = guard.call(
                first,
                f"Running {guard.folder / first.path} at k = {max(by_heads)}",
                f"{__name__}:answers",
                manifest.model.macs([*by_heads], len(pixels_BHWC) * first.batch),
                folder=str(guard.folder),
                artifacts={str(k): entry.path for k, entry in by_heads.items()},
                pixels=pixels_BHWC,
                as_good_as=as_good_as,
            )
        except MissingExtra:
            if index == len(listed) - 1:
                raise
            continue
        return Answers(first, found["runtime"], tuple(found["heads"]), np.asarray(found["outputs"]))
    raise AssertionError("there is a candidate")


def answers(folder: str, artifacts: dict[str, str], pixels: Pixels, as_good_as: int | None) -> dict[str, Any]:
    """What the process does: the answers of a model whose *artifacts* lie at these paths, by head count."""
    manifest = documents.decode_json(files.read(Path(folder, bundle.MANIFEST), documents.JSON_BYTES))
    by_path = {entry["path"]: entry for entry in manifest["artifacts"]}
    entries = {int(k): by_path[path] for k, path in artifacts.items()}
    target = targets.get(next(iter(entries.values()))["target"])
    target.requires()
    try:
        model = runtime.Model(
            Path(folder), manifest, entries, opens=None if target.card.python else _opens(target, entries)
        )
        found = [model.cascade(as_good_as).answer(image) for image in pixels]
    except runtime.RuntimeFailure as failure:
        raise BadInput(f"{failure}") from failure
    outputs = np.stack([answer.outputs for answer in found])
    return {"runtime": model.runtime, "heads": [answer.heads for answer in found], "outputs": outputs}


def _opens(target: Target, entries: Mapping[int, Mapping[str, Any]]) -> tuple[str, runtime.Opens]:
    """What opens artifacts that the run-time library does not know."""
    first = target.runtimes(next(iter(entries.values()))["precision"])[0].name

    def opens(path: Path, artifact: Mapping[str, Any], threads: int) -> Callable[[int], runtime.Run]:
        return lambda heads: target.load(path, heads, threads, first).run

    return first, opens


def _of_cascade(manifest: Manifest, as_good_as: int, listed: Sequence[ArtifactEntry]) -> list[Choosable]:
    """Of each kind of artifact that has them, those that run the head counts of a cascade."""
    known = {each.as_good_as: each.heads for each in (manifest.calibration.cascades if manifest.calibration else ())}
    if as_good_as not in known:
        told = (
            f"It has cascades for {', '.join(map(str, known))}." if known else "Calibrate it: hydra-export calibrate."
        )
        raise BadInput(f"The bundle has no cascade as good as k = {as_good_as}.", told, field="as_good_as")
    kinds: dict[str, dict[int, ArtifactEntry]] = {}
    for entry in listed:
        for k in sorted({*known[as_good_as]}.intersection(entry.heads)):
            kinds.setdefault(f"{entry.kind} {entry.input}", {}).setdefault(k, entry)
    whole = [dict(sorted(each.items())) for each in kinds.values() if each.keys() == {*known[as_good_as]}]
    if not whole:
        raise BadInput(
            f"No kind of artifact that runs here has k = {', '.join(map(str, known[as_good_as]))}.",
            "Leave out `artifact`.",
        )
    return [*whole]


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
        raise BadInput("The bundle contains no such artifact.", f"It contains {listed}.", field="artifact")
    return sorted(fitting, key=_slowness)


def _slowness(entry: ArtifactEntry) -> tuple[object, ...]:
    first = targets.get(entry.target).runtimes(entry.precision)[0]
    return not first.timed, entry.precision != "fp32", -max(entry.heads), entry.graph != "separate", entry.bytes


def _guesses(found: Answers, manifest: Manifest, top: int) -> Iterator[tuple[Guess, ...]]:
    """The best classes of each image; probabilities are calibrated where the bundle is."""
    fitted = manifest.calibration.subnetworks if manifest.calibration else ()
    temperatures, labels = {each.heads: each.temperature for each in fitted}, manifest.model.labels
    for k, logits_C in zip(found.heads, found.outputs, strict=True):
        exponentials_C = np.exp((logits_C - logits_C.max()) / temperatures.get(k, 1.0))
        shares_C = exponentials_C / exponentials_C.sum()
        best = np.argsort(-logits_C, kind="stable")[:top]
        yield tuple(Guess(int(c), labels[c] if labels else str(c), float(shares_C[c])) for c in best)
