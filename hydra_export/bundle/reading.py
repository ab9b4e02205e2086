"""A manifest is read whole, and refused where it contradicts itself."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath

import msgspec

from hydra_export import documents, files, network
from hydra_export.bundle.manifest import MANIFEST, SCHEMA_VERSION, ArtifactEntry, Manifest, ModelEntry
from hydra_export.bundle.sums import SUMS, FileEntry, package_entry
from hydra_export.calibration import Calibration
from hydra_export.errors import BadInput, VerificationFailed
from hydra_export.target import GATED

_LARGEST_BATCH = 65536


def check_present(folder: Path) -> None:
    """Raises BadInput where *folder* is no bundle at all."""
    if not folder.is_dir():
        raise BadInput(f"There is no folder {folder}.", "Pass the folder of a bundle.")
    if not (folder / MANIFEST).exists() and not (folder / SUMS).exists():
        raise BadInput(f"{folder} is not a bundle: it has no {MANIFEST}.", "Pass the folder of a bundle.")


def read(folder: Path) -> Manifest:
    """The manifest of a bundle.

    Raises:
        BadInput: *folder* is no bundle at all.
        VerificationFailed: its manifest is damaged, contradicts itself, or is not one that this release understands.
    """
    check_present(folder)
    try:
        content = files.read(folder / MANIFEST, documents.JSON_BYTES)
        version = documents.decode_json(content, ManifestHeader).schema_version
        if version != SCHEMA_VERSION:
            raise VerificationFailed(
                f"{folder / MANIFEST} has schema version {version}; this release reads {SCHEMA_VERSION}.",
                "Export it again, or use the release that wrote it.",
            )
        manifest = documents.decode_json(content, Manifest)
    except (msgspec.DecodeError, BadInput) as error:
        raise VerificationFailed(
            f"{folder / MANIFEST} is not a valid manifest: {error}.", "Export it again."
        ) from error
    for problem in contradictions(manifest):
        raise VerificationFailed(f"{folder / MANIFEST} contradicts itself: {problem}.", "Export it again.")
    return manifest


def contradictions(manifest: Manifest) -> Iterator[str]:
    """Every artifact must refer to listed files and head counts only, so that all of them are hashed and run."""
    yield from _model_contradictions(manifest.model)
    for entry in manifest.files:
        if problem := files.unportable(entry.path):
            yield f"a file is called {entry.path[:200]!r}: {problem}"
    by_path = {file.path: file for file in manifest.files}
    if len(by_path) < len(manifest.files):
        yield "a file is listed twice"
    if not manifest.artifacts:
        yield "no artifact is listed"
    runnable = {artifact.path: artifact.heads for artifact in manifest.artifacts}
    if len(runnable) < len(manifest.artifacts):
        yield "an artifact is listed twice"
    inside = _inside(by_path, runnable)
    exported = [subnetwork.heads for subnetwork in manifest.model.subnetworks]
    for artifact in manifest.artifacts:
        yield from _artifact_contradictions(artifact, by_path, inside.get(artifact.path, []), exported)
    yield from _calibration_contradictions(manifest.calibration, exported)
    for device in manifest.devices:
        for path in device.artifacts:
            if path not in runnable or (device.heads is not None and device.heads not in runnable[path]):
                yield f"{path}, which {device.id} runs at heads {device.heads}, is not listed with these"


def _model_contradictions(model: ModelEntry) -> Iterator[str]:
    config, data = model.config, model.preprocessing
    if (data.image_shape, data.channels) != (config.image_shape, config.channels):
        yield "the preprocessing produces other images than the model takes"
    if len(model.labels) not in (0, config.num_classes):
        yield f"it lists {len(model.labels)} labels for {config.num_classes} classes"
    exported = [subnetwork.heads for subnetwork in model.subnetworks]
    if exported != sorted({k for k in exported if 1 <= k <= config.heads}):
        yield f"its {len(exported)} subnetworks do not ascend within 1..{config.heads}"
        return
    for each in model.subnetworks:
        width, params, gmacs = (
            config.width(each.heads),
            network.num_params(config, each.heads),
            network.macs(config, each.heads) / 1e9,
        )
        near = math.isclose(each.params, params, rel_tol=0.01) and math.isclose(
            each.gmacs, gmacs, rel_tol=0.01, abs_tol=1e-6
        )  # whatever an older release counted
        if each.width != width or not near:
            yield f"subnetwork {each.heads} of this model has width {width}, {params} parameters and {gmacs:.3g} GMACs"


def _calibration_contradictions(calibration: Calibration | None, exported: list[int]) -> Iterator[str]:
    if calibration is None:
        return
    calibrated = [each.heads for each in calibration.subnetworks]
    if calibrated != sorted({*calibrated}.intersection(exported)):
        yield f"it is calibrated for heads {_few(calibrated)}, but lists {_few(exported)}"
    for cascade in calibration.cascades:
        ascending = [*cascade.heads] == sorted({*cascade.heads}.intersection(calibrated))
        sizes = {len(cascade.heads), len(cascade.thresholds) + 1, len(cascade.shares)}
        if not ascending or len(sizes) > 1 or cascade.as_good_as not in calibrated:
            yield f"a cascade has heads {_few(cascade.heads)} and {len(cascade.thresholds)} thresholds"


def _inside(paths: Collection[str], artifacts: Collection[str]) -> dict[str, list[str]]:
    """The listed paths inside of each artifact that is a folder."""
    inside: dict[str, list[str]] = {}
    for path in paths:
        for parent in map(str, PurePosixPath(path).parents):
            if parent in artifacts:
                inside.setdefault(parent, []).append(path)
    return inside


def _artifact_contradictions(
    artifact: ArtifactEntry, by_path: dict[str, FileEntry], inside: list[str], exported: list[int]
) -> Iterator[str]:
    own = FileEntry(path=artifact.path, bytes=artifact.bytes, sha256=artifact.sha256)
    whole = package_entry(artifact.path, [by_path[p] for p in inside]) if inside else by_path.get(artifact.path)
    needed, own_paths = set(artifact.files), set(inside) or {artifact.path}
    needless = len(needed) < len(artifact.files) or (inside and needed != own_paths)
    if whole != own or own_paths - needed or needless:
        yield f"{artifact.path} is listed in two ways"
    for path in needed - by_path.keys():
        yield f"{path[:200]}, which {artifact.path} needs, is not listed"
    if not artifact.inputs or not artifact.outputs or not artifact.inputs[0].shape:
        yield f"{artifact.path} has no input or no output"
    elif isinstance(batch := artifact.inputs[0].shape[0], int) and not 1 <= batch <= _LARGEST_BATCH:
        yield f"{artifact.path} takes {batch} images at once"
    heads = set(artifact.heads)
    if not heads or len(heads) < len(artifact.heads) or not heads.issubset(exported):
        yield f"{artifact.path} has heads {_few(artifact.heads)}, but {_few(exported)} are listed"
    if artifact.parity.keys() != heads:
        yield f"the parity of {artifact.path} is for other heads"
    for record in artifact.parity.values():
        if (record.bound is None) != (artifact.precision in GATED):
            yield f"the parity of {artifact.path} is for another precision"


def _few(numbers: Sequence[int]) -> str:
    return f"{list(numbers[:20])}{' and more' if len(numbers) > 20 else ''}"


class ManifestHeader(msgspec.Struct):
    """The fields of a manifest that every release can read."""

    schema_version: int
    generator: str
