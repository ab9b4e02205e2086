"""The pipeline: a checkpoint becomes artifacts, each is proven against PyTorch, and all become a bundle."""

from __future__ import annotations

import difflib
import itertools
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from hydra_export import bundle, card, parity, targets
from hydra_export.architecture import HydraConfig, check_heads
from hydra_export.checkpoint import Checkpoint, default_heads
from hydra_export.data import ImageSet, packaged_images
from hydra_export.errors import BadInput
from hydra_export.preprocess import Preprocessing
from hydra_export.target import Array, Artifact, ExportSpec, InputForm, Pixels, Precision, Session, Target
from hydra_export.version import VERSION

# Parity takes as many images as cost this much at the largest head count: seconds, whatever the model.
_PARITY_MACS = 2e11
_PARITY_IMAGES = range(4, 129)
_GOLDEN_IMAGES = 4
_FILE_STEM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")  # every file's name starts with the model's


@dataclass(frozen=True)
class Job:
    """One target with one choice of everything else."""

    target: Target
    spec: ExportSpec


def jobs(
    names: Sequence[str] = ("onnx",),
    graphs: Sequence[str] = ("separate",),
    precisions: Sequence[str] = (),
    *,
    form: InputForm = "tensor",
    batch: int | str = 1,
    opset: int | None = None,
    weight_files: str = "each",
    ios: int = 18,
    classifier: bool = False,
) -> list[Job]:
    """What to export: the cross product of targets, graph kinds and precisions, each with the same *form* and so on.

    Without *precisions* each target writes its default.

    Raises:
        UnknownName: no such target.
        BadInput: a target lacks a graph kind or a precision.
        MissingExtra: the packages that a target needs are not installed.
    """
    common = {"input": form, "batch": batch, "opset": opset, "weight_files": weight_files}
    common |= {"ios": ios, "classifier": classifier}
    listed = []
    for name, graph in itertools.product(names, graphs):
        target = targets.get(name)
        target.requires()
        _check_offered("graph kind", "--graph", graph, target.graphs, name)
        for precision in precisions or target.precisions[:1]:
            _check_offered("precision", "--precision", precision, target.precisions, name)
            try:
                spec = msgspec.convert({"graph": graph, "precision": precision, **common}, ExportSpec)
            except msgspec.ValidationError as error:
                raise BadInput(f"This cannot be exported: {error}.", "See ExportSpec for what can.") from error
            target.check(spec)
            listed.append(Job(target, spec))
    if weight_files != "each" and "shared" not in graphs:
        raise BadInput(f"--weight-files {weight_files} is for shared weights.", "Add --graph shared.")
    _check_meant("--opset", opset, None, "onnx", names)
    _check_meant("--ios", ios, 18, "coreml", names)
    _check_meant("--coreml-classifier", classifier, False, "coreml", names)
    return listed


def _check_meant(option: str, given: object, default: object, target: str, names: Sequence[str]) -> None:
    if given != default and target not in names:
        raise BadInput(f"{option} is for target '{target}', which is not exported.", f"Add it: --target {target}.")


def _check_offered(kind: str, option: str, given: str, offered: Sequence[str], target: str) -> None:
    if given not in offered:
        near = difflib.get_close_matches(given, offered, n=1)
        remedy = f"Did you mean '{near[0]}'?" if near else f"Give {option} {' or '.join(offered)}."
        raise BadInput(f"Target '{target}' has no {kind} '{given}'.", remedy)


def export(
    checkpoint: Checkpoint,
    out: Path,
    listed: Sequence[Job] = (),
    *,
    heads: Sequence[int] = (),
    images: ImageSet | None = None,
    progress: bundle.Progress = bundle.silent,
    side_by_side: int = 0,
    memory_mib: int = 0,
) -> bundle.Manifest:
    """Writes a bundle at *out*, which is replaced as a whole, or left alone when anything fails.

    Args:
        listed: what ``jobs`` returned; separate ONNX files by default.
        heads: head counts; the checkpoint's own export list by default.
        images: what parity is measured on; the packaged images by default, fitted to the model.
        side_by_side: converters that may run at once; 0 for as many as there are cores and memory for.
        memory_mib: what one converter may take; 0 for all that is there.

    Raises:
        BadInput: no such subnetwork or classifier, or a name of the model that cannot name files.
        OutputRefused: *out* holds anything but one of our bundles, or cannot be written.
        ParityFailed: an artifact does not compute its subnetwork.
    """
    config, data, listed = checkpoint.info.config, checkpoint.info.preprocessing, listed or jobs()
    _check_exportable(checkpoint)
    heads = check_heads(heads or default_heads(checkpoint.info), config.heads)
    for k in heads:
        config.classifier(k)
    limit = num_parity_images(config, heads[-1])
    if images is None:
        images = packaged_images(data, limit)
    pixels = images.pixels[:limit]
    steps = itertools.count()
    total = len(listed) + len(heads)

    with bundle.written(out) as folder:
        artifacts: list[Artifact] = []
        for job in listed:
            progress(f"writing {job.target.name} {job.spec.graph}", next(steps), total)
            artifacts += _write(job, checkpoint, heads, folder)
        records: dict[str, dict[int, parity.ParityRecord]] = {artifact.path: {} for artifact in artifacts}
        references: dict[int, dict[Precision, parity.Reference]] = {}
        agreed = np.ones(len(pixels), np.bool_)
        for k in heads:
            progress(f"proving k = {k}", next(steps), total)
            here = [artifact for artifact in artifacts if k in artifact.heads]
            rounded = {artifact.spec.precision for artifact in here} & {"fp16"}
            references[k] = {
                precision: parity.reference(checkpoint.model, k, pixels, data, precision)
                for precision in ("fp32", *rounded)
            }
            for artifact in here:
                record, agreeing = _prove(artifact, k, data, pixels, references[k], folder)
                records[artifact.path][k] = record
                agreed &= agreeing
        progress("sealing", total, total)
        # Images on which a rounding runtime was right: verify, on few of them, has to come to the same verdict.
        _write_golden(folder, pixels, np.flatnonzero(agreed)[:_GOLDEN_IMAGES], references, data)
        described = f"{images.source} ({len(pixels)} used)" if len(pixels) < len(images) else images.source
        manifest = _manifest(checkpoint, heads, artifacts, records, described, folder)
        (folder / "README.md").write_text(card.render(manifest), encoding="utf-8")
        return bundle.seal(folder, manifest)


def num_parity_images(config: HydraConfig, largest: int) -> int:
    """How many images parity takes: as many as are a few seconds' work at the *largest* head count."""
    return max(_PARITY_IMAGES[0], min(_PARITY_IMAGES[-1], int(_PARITY_MACS / config.macs(largest))))


def _check_exportable(checkpoint: Checkpoint) -> None:
    name = checkpoint.info.name
    if not _FILE_STEM.fullmatch(name):
        raise BadInput(
            f"Checkpoint {checkpoint.path}: the model's name {name[:80]!r} cannot name files.",
            "Give it a name of letters, digits, '.', '_' and '-', of at most 100 characters.",
        )


def _write(job: Job, checkpoint: Checkpoint, heads: Sequence[int], folder: Path) -> list[Artifact]:
    """Writes and lints; paths come back relative to the bundle."""
    place = folder / job.target.name
    place.mkdir(exist_ok=True)
    artifacts = job.target.write(checkpoint, heads, job.spec, place)
    for artifact in artifacts:
        job.target.lint(place / artifact.path)
    return [
        msgspec.structs.replace(
            artifact,
            path=f"{job.target.name}/{artifact.path}",
            files=tuple(f"{job.target.name}/{name}" for name in artifact.files),
        )
        for artifact in artifacts
    ]


def _prove(
    artifact: Artifact,
    heads: int,
    data: Preprocessing,
    pixels: Pixels,
    expected: Mapping[Precision, parity.Reference],
    folder: Path,
) -> tuple[parity.ParityRecord, NDArray[np.bool_]]:
    given = pixels if artifact.spec.input == "image" else data.normalise(pixels)

    def run(session: Session) -> Array:
        if artifact.spec.batch == "dynamic":  # two sizes
            return np.concatenate([session.run(given[:1]), session.run(given[1:])])
        return session.run(given)

    target = targets.get(artifact.target)
    return parity.prove(target, folder / artifact.path, heads, artifact.spec.precision, expected, run, artifact.path)


def _write_golden(
    folder: Path,
    pixels: Pixels,
    images: Array,
    references: dict[int, dict[Precision, parity.Reference]],
    data: Preprocessing,
) -> None:
    golden: dict[str, Array] = {"pixels": pixels[images], "image": data.normalise(pixels[images])}
    for k, by_precision in references.items():
        for precision, reference in by_precision.items():
            chosen = reference.first(images)
            golden[bundle.golden_name("logits", k, precision)] = chosen.exact
            golden[bundle.golden_name("torch_fp32_logits", k, precision)] = chosen.torch_fp32
    (folder / bundle.GOLDEN).parent.mkdir()
    np.savez(folder / bundle.GOLDEN, **golden)  # type: ignore[arg-type]  # numpy types its allow_pickle among them


def _manifest(
    checkpoint: Checkpoint,
    heads: Sequence[int],
    artifacts: Sequence[Artifact],
    records: dict[str, dict[int, parity.ParityRecord]],
    images: str,
    folder: Path,
) -> bundle.Manifest:
    info = checkpoint.info
    subnetworks = tuple(
        bundle.SubnetworkEntry(
            heads=k,
            width=info.config.width(k),
            params=info.config.num_params(k),
            gmacs=round(info.config.macs(k) / 1e9, 6),
            accuracy=info.accuracy.get(k),
            trained=k in info.trained_heads if info.trained_heads else "unknown",
        )
        for k in heads
    )
    model = bundle.ModelEntry(
        name=info.name,
        config=info.config,
        preprocessing=info.preprocessing,
        labels=info.labels,
        checkpoint_sha256=checkpoint.sha256,
        accuracy_data=info.accuracy_data,
        license=info.license,
        subnetworks=subnetworks,
    )
    entries = tuple(_entry(artifact, records[artifact.path], folder) for artifact in artifacts)
    tool = _tool({artifact.target for artifact in artifacts})
    return bundle.Manifest(model=model, tool=tool, images=images, artifacts=entries, files=())


def _entry(artifact: Artifact, records: dict[int, parity.ParityRecord], folder: Path) -> bundle.ArtifactEntry:
    file = bundle.artifact_entry(folder, artifact.path)
    spec = artifact.spec
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
    )


def _tool(names: Iterable[str]) -> dict[str, str]:
    packages = {"numpy", "torch", "timm"}.union(*(targets.get(name).packages for name in names))
    return {
        "hydra-export": VERSION,
        "python": platform.python_version(),
        **{package: version(package) for package in sorted(packages)},
    }
