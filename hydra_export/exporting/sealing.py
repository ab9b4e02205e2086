"""What goes into a bundle beside its artifacts: golden data, manifest and card."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np

from hydra_export import bundle, card, network, targets
from hydra_export.calibration import Calibration
from hydra_export.checkpoint import untrained
from hydra_export.checkpoint_file import CheckpointInfo
from hydra_export.exporting.parities import Parities
from hydra_export.exporting.plan import Plan
from hydra_export.exporting.sample import Sample
from hydra_export.parity import ParityRecord, Reference
from hydra_export.target import GATED, Artifact, Precision
from hydra_export.version import VERSION

_GOLDEN_IMAGES = 4


def sealed(
    plan: Plan,
    artifacts: Sequence[Artifact],
    parities: Parities,
    sample: Sample,
    folder: Path,
    calibration: Calibration | None = None,
    quantizations: Mapping[Precision, bundle.Quantization] | None = None,
) -> bundle.Manifest:
    """Makes a bundle of *folder*, which holds the *artifacts*."""
    # Images on which a rounding runtime was right: verify, on few of them, has to come to the same verdict.
    golden = np.flatnonzero(parities.agreed)[:_GOLDEN_IMAGES]
    pixels = sample.pixels["fp32"][golden]
    references: dict[int, dict[Precision, Reference]] = {
        k: {
            name: reference.first(golden) for name, reference in own.items() if name not in GATED
        }  # held against fp32's
        for k, own in parities.references.items()
    }
    bundle.write_golden(folder, pixels, plan.checkpoint.info.preprocessing.normalise(pixels), references)
    manifest = _manifest(plan, artifacts, parities, sample.source, folder, quantizations or {})
    manifest = msgspec.structs.replace(manifest, calibration=calibration)
    outputs = {k: own["fp32"].exact[-1] for k, own in references.items() if len(golden)}
    best = {k: (int(last.argmax()), float(last.max())) for k, last in outputs.items()}
    card.write(folder, manifest, pixels, best, sample.images.license)
    return bundle.seal(folder, manifest)


def _manifest(
    plan: Plan,
    artifacts: Sequence[Artifact],
    parities: Parities,
    images: str,
    folder: Path,
    quantizations: Mapping[Precision, bundle.Quantization],
) -> bundle.Manifest:
    checkpoint = plan.checkpoint
    info = checkpoint.info
    subnetworks = tuple(
        bundle.SubnetworkEntry(
            heads=k,
            width=info.config.width(k),
            params=network.num_params(info.config, k),
            gmacs=round(network.macs(info.config, k) / 1e9, 6),
            accuracy=info.accuracy.get(k),
            agreement=info.agreement.get(k),
            trained=k in info.trained_heads if info.trained_heads else "unknown",
        )
        for k in plan.heads
    )
    model = bundle.ModelEntry(
        name=info.name,
        config=info.config,
        preprocessing=info.preprocessing,
        labels=info.labels,
        checkpoint_sha256=checkpoint.sha256,
        accuracy_data=info.accuracy_data,
        agreement_data=info.agreement_data,
        license=info.license,
        subnetworks=subnetworks,
        assumed=info.assumed,
        trained_heads=info.trained_heads,
    )
    files = bundle.hashed(folder)
    entries = tuple(
        _entry(each, parities.records[each.path], files, info, quantizations.get(each.spec.precision))
        for each in artifacts
    )
    devices = tuple(_with_artifacts(device, artifacts) for device in plan.devices)
    tool = _tool({artifact.target for artifact in artifacts})
    return bundle.Manifest(model=model, tool=tool, images=images, artifacts=entries, files=files, devices=devices)


def _entry(
    artifact: Artifact,
    records: dict[int, ParityRecord],
    files: Sequence[bundle.FileEntry],
    info: CheckpointInfo,
    quantization: bundle.Quantization | None,
) -> bundle.ArtifactEntry:
    file, spec = bundle.artifact_entry(artifact.path, files), artifact.spec
    return bundle.ArtifactEntry(
        path=artifact.path,
        target=artifact.target,
        graph=spec.graph,
        precision=spec.precision,
        input=spec.input,
        heads=artifact.heads,
        inputs=artifact.inputs,
        outputs=artifact.outputs,
        bytes=file.bytes,
        sha256=file.sha256,
        files=artifact.files,
        parity=records,
        needs=artifact.needs,
        warnings=tuple(filter(None, [untrained(info, artifact.heads)])),
        quantization=quantization,
    )


def _with_artifacts(device: bundle.DeviceEntry, artifacts: Sequence[Artifact]) -> bundle.DeviceEntry:
    runs = (a for a in artifacts if a.target == device.target and (device.heads is None or device.heads in a.heads))
    instead = f"; k = {device.heads}, the fastest, was exported" if device.heads and not device.fits else ""
    paths = tuple(artifact.path for artifact in runs)
    return msgspec.structs.replace(device, artifacts=paths, why=f"{device.why}{instead}")


def _tool(names: Iterable[str]) -> dict[str, str]:
    packages = {"numpy", "torch", "timm"}.union(*(targets.get(name).packages for name in names))
    return {
        "hydra-export": VERSION,
        "python": platform.python_version(),
        **{package: version(package) for package in sorted(packages)},
    }
