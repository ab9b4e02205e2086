"""The pipeline: a checkpoint becomes artifacts, each is proven against PyTorch, and all become a bundle."""

from __future__ import annotations

import difflib
import functools
import itertools
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import ParamSpec, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from hydra_export import archive, bundle, card, conversion, files, parity, quantization
from hydra_export import targets as registry
from hydra_export.architecture import HydraConfig, check_heads
from hydra_export.arrays import Array, Pixels
from hydra_export.cache import Cache
from hydra_export.checkpoint import Checkpoint, default_heads, untrained
from hydra_export.checkpoint_file import CheckpointInfo
from hydra_export.conversion import Job
from hydra_export.data import ImageSet, packaged_images
from hydra_export.data.packaged import FASHION_MNIST_LABELS
from hydra_export.errors import BadInput, CheckFailed, ParityFailed
from hydra_export.gate import LEAST_IMAGES, Gate
from hydra_export.preprocess import Preprocessing
from hydra_export.target import Artifact, ExportSpec, InputForm, Options, Precision, Session
from hydra_export.version import VERSION

P = ParamSpec("P")
T = TypeVar("T")

# Parity takes as many images as cost this much at the largest head count: seconds, whatever the model. The accuracy of
# int8 needs more of them.
_PARITY_MACS, _GATE_MACS = 2e11, 4e12
_PARITY_IMAGES, _GATE_IMAGES = range(4, 129), range(64, 1001)
_GOLDEN_IMAGES = 4
_WORST_LAYERS = 4  # that a message names
_FILE_STEM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")  # every file's name starts with the model's


def jobs(
    targets: str | Sequence[str] = (registry.DEFAULT,),
    graphs: str | Sequence[str] = ("separate",),
    precisions: str | Sequence[str] = (),
    *,
    input: InputForm = "tensor",  # noqa: A002 (the name that it has everywhere)
    batch: int | str = 1,
    options: Options | Sequence[Options] = (),
) -> list[Job]:
    """What to export: the cross product of targets, graph kinds and precisions, each with the same *input* and so on.

    Without *precisions* each target writes its default.

    Args:
        options: of the targets that have choices of their own, such as ``OnnxOptions(opset=20)``; defaults of others.

    Raises:
        UnknownName: no such target.
        BadInput: a target lacks a graph kind or a precision, or *options* are for none of what is exported.
        MissingExtra: the packages that a target needs are not installed.
    """
    names, graphs, precisions = (
        ([each] if isinstance(each, str) else list(each)) for each in (targets, graphs, precisions)
    )
    given = {type(each): each for each in ([options] if isinstance(options, Options) else options)}
    listed = []
    for name, graph in itertools.product(names, graphs):
        target = registry.get(name)
        target.requires()
        _check_offered("graph kind", "--graph", graph, target.graphs, name)
        for precision in precisions or target.precisions[:1]:
            _check_offered("precision", "--precision", precision, target.precisions, name)
            choices = {"graph": graph, "precision": precision, "input": input, "batch": batch}
            try:
                spec = msgspec.convert(choices, ExportSpec)
            except msgspec.ValidationError as error:
                raise BadInput(f"This cannot be exported: {error}.", "See ExportSpec for what can.") from error
            spec = msgspec.structs.replace(spec, options=given.get(target.options, target.options()))
            target.check(spec)
            listed.append(Job(target, spec))
    for each in given.values():
        _check_used(each, names, graphs)
    return listed


def _check_used(options: Options, names: Sequence[str], graphs: Sequence[str]) -> None:
    """Raises BadInput for a choice that nothing which is exported has."""
    target = next(name for name in registry.names() if registry.get(name).options is type(options))
    for field in options.fields():
        if getattr(options, field.name) == field.default:
            continue
        if target not in names:
            added = ",".join([*names, target])
            raise BadInput(
                f"--{field.flag} is for target '{target}', which is not exported.", f"Add it: --target {added}."
            )
        if field.about.graphs and not set(field.about.graphs) & set(graphs):
            kind = field.about.graphs[0]
            raise BadInput(
                f"--{field.flag} is for graph kind '{kind}'.", f"Add it: --graph {','.join([*graphs, kind])}."
            )


def _check_offered(kind: str, option: str, given: str, offered: Sequence[str], target: str) -> None:
    if given not in offered:
        near = difflib.get_close_matches(given, offered, n=1)
        remedy = f"Did you mean '{near[0]}'?" if near else f"Give {option} {' or '.join(offered)}."
        raise BadInput(f"Target '{target}' has no {kind} '{given}'.", remedy)


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
    images: ImageSet | None = None,
    gate: Gate | None = None,
    progress: bundle.Progress = bundle.silent,
    side_by_side: int = 0,
    memory_mib: int = 0,
    cache: Cache | None = None,
    zipped: Path | None = None,
    devices: Sequence[bundle.DeviceEntry] = (),
) -> bundle.Manifest:
    """Writes a bundle at *out*, which is replaced as a whole, or left alone when anything fails.

    Args:
        listed: what ``jobs`` returned; separate files of the default target without it.
        heads: head counts; the checkpoint's own export list by default.
        images: what parity is measured on; the packaged images by default, fitted to the model.
        gate: how much accuracy int8 may lose; its labels are those of *images* where they are the model's own.
        side_by_side: converters that may run at once; 0 for as many as there are cores and memory for.
        memory_mib: what one converter may take; 0 for all that is there.
        cache: of what was written before; everything is proven again.
        zipped: where the bundle's archive goes as well.
        devices: what ``fitting.fit`` chose: each target is written for the head counts of its devices alone.

    Raises:
        BadInput: no such subnetwork or classifier, a name of the model that cannot name files, or int8 without images
            that it could be judged by, or too few of them.
        OutputRefused: *out* holds anything but one of our bundles, or cannot be written.
        ParityFailed: an artifact does not compute its subnetwork.
    """
    out = Path(out)
    config, data, listed = checkpoint.info.config, checkpoint.info.preprocessing, listed or jobs()
    _check_exportable(checkpoint, listed)
    _check_converters(listed, side_by_side, memory_mib)
    heads = check_heads(heads or default_heads(checkpoint.info), config.heads)
    run_by = _run_by(devices, heads)
    heads = tuple(k for k in heads if any(k in run for run in run_by.values())) if devices else heads
    for k in heads:
        config.classifier(k)
    limits = num_images(config, heads[-1], listed)
    of_the_model = images is not None or checkpoint.info.labels == FASHION_MNIST_LABELS
    if images is None:
        images = packaged_images(data, max(limits.values()))
    else:
        images = _with_own_labels(images, checkpoint.info)
    gate = _gate(gate or Gate(), images, limits.get("int8", 0), of_the_model)
    pixels = {precision: images.pixels[:limit] for precision, limit in limits.items()}
    writes = [w for job in listed for w in conversion.writes([job], run_by.get(job.target.name, heads))]

    with _written(out, zipped, checkpoint.info.name) as folder:
        total = len(writes) + len(listed) * len(heads)

        def writing(what: str, done: int) -> None:
            progress(what, done, total)

        artifacts = conversion.written(
            writes, checkpoint, folder, writing, side_by_side=side_by_side, memory_mib=memory_mib, cache=cache
        )
        proofs = [(k, artifact) for k in heads for artifact in artifacts if k in artifact.heads]
        total = len(writes) + len(proofs)
        records: dict[str, dict[int, parity.ParityRecord]] = {artifact.path: {} for artifact in artifacts}
        references: dict[int, dict[Precision, parity.Reference]] = {k: {} for k in heads}
        agreed = np.ones(limits["fp32"], np.bool_)[: len(images)]
        for step, (k, artifact) in enumerate(proofs, start=len(writes)):
            progress(f"proving {artifact.path}, k = {k}", step, total)
            precision = artifact.spec.precision
            for needed in ("fp32", precision):
                if needed not in references[k]:
                    references[k][needed] = parity.reference(checkpoint.model, k, pixels[needed], data, needed)
            try:
                record, agreeing = _prove(artifact, k, data, pixels[precision], references[k], folder, gate)
            except ParityFailed as failed:
                if precision == "int8":
                    raise _with_layers(failed, checkpoint, k, pixels["fp32"]) from failed
                raise
            records[artifact.path][k] = record
            agreed &= agreeing[: len(agreed)]
        progress("sealing", total, total)
        # Images on which a rounding runtime was right: verify, on few of them, has to come to the same verdict.
        golden = np.flatnonzero(agreed)[:_GOLDEN_IMAGES]
        _write_golden(folder, pixels["fp32"], golden, references, data)
        used = max(map(len, pixels.values()))
        described = f"{images.source} ({used} used)" if used < len(images) else images.source
        manifest = _manifest(checkpoint, heads, artifacts, records, described, folder)
        manifest = msgspec.structs.replace(manifest, devices=tuple(_with_artifacts(d, artifacts) for d in devices))
        said = {k: references[k]["fp32"].exact[golden[-1]] for k in heads if len(golden)}
        best = {k: (int(outputs.argmax()), float(outputs.max())) for k, outputs in said.items()}
        card.write(folder, manifest, pixels["fp32"][golden], best, images.license)
        return bundle.seal(folder, manifest)


def _run_by(devices: Sequence[bundle.DeviceEntry], heads: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The head counts that each target's devices run; all of *heads* where one of them may run any."""
    run: dict[str, set[int]] = {}
    for device in devices:
        run.setdefault(device.target, set()).update(heads if device.heads is None else [device.heads])
    return {target: tuple(sorted(chosen)) for target, chosen in run.items()}


def _with_artifacts(device: bundle.DeviceEntry, artifacts: Sequence[Artifact]) -> bundle.DeviceEntry:
    runs = (a for a in artifacts if a.target == device.target and (device.heads is None or device.heads in a.heads))
    instead = f"; k = {device.heads} was exported, the fastest there is" if device.heads and not device.fits else ""
    paths = tuple(artifact.path for artifact in runs)
    return msgspec.structs.replace(device, artifacts=paths, why=f"{device.why}{instead}")


def _written(out: Path, zipped: Path | None, name: str) -> AbstractContextManager[Path]:
    return bundle.written(out) if zipped is None else archive.written(out, zipped, name)


def num_images(config: HydraConfig, largest: int, listed: Sequence[Job]) -> dict[Precision, int]:
    """How many images each precision takes: as many as are a few seconds' work at the *largest* head count.

    int8 takes more, the same ones first: a share of right answers is not known from a few.
    """
    by_precision: dict[Precision, int] = {"fp32": _affordable(_PARITY_MACS, config.macs(largest), _PARITY_IMAGES)}
    for job in listed:
        by_precision[job.spec.precision] = by_precision["fp32"]
    if "int8" in by_precision:
        by_precision["int8"] = _affordable(_GATE_MACS, config.macs(largest), _GATE_IMAGES)
    return by_precision


def _affordable(macs: float, each: int, counts: range) -> int:
    return max(counts[0], min(counts[-1], int(macs / each)))


def _with_own_labels(images: ImageSet, info: CheckpointInfo) -> ImageSet:
    """*images* with labels where they count the model's classes; others would judge it by what it never learnt."""
    same = images.label_names == info.labels if info.labels else len(images.label_names) == info.config.num_classes
    if images.labels is None or (same and info.config.num_classes):
        return images
    return replace(images, labels=None, source=f"{images.source}, unlabelled: their classes are not the model's")


def _gate(gate: Gate, images: ImageSet, limit: int, of_the_model: bool) -> Gate:
    """*gate* with the labels of the images that int8 is judged by: *limit* at most, which is 0 without int8."""
    if gate.open or not limit:
        return gate
    if not of_the_model:
        raise BadInput(
            "int8 has to be judged by images of the model's own kind, and there are none.",
            "Give --images DIR, best with a folder per class; or --accept-unchecked to go without.",
        )
    if len(images) < LEAST_IMAGES:
        raise BadInput(
            f"int8 cannot be judged by {len(images)} images: an artifact that is often wrong would pass.",
            f"Give --images DIR with {LEAST_IMAGES} or more; or --accept-unchecked to go without.",
        )
    return replace(gate, labels=None if images.labels is None else images.labels[:limit])


def _check_converters(listed: Sequence[Job], side_by_side: int, memory_mib: int) -> None:
    if any(job.target.isolated for job in listed):
        return
    for option, value in (("--jobs", side_by_side), ("--memory", memory_mib)):
        if value:
            names = " and ".join(dict.fromkeys(job.target.name for job in listed))
            raise BadInput(f"{option} {value} is for converters, and {names} needs none.", "Leave it out.")


def _check_exportable(checkpoint: Checkpoint, listed: Sequence[Job]) -> None:
    name = checkpoint.info.name
    if not _FILE_STEM.fullmatch(name) or files.unportable(name):
        raise BadInput(
            f"Checkpoint {checkpoint.path}: the model's name {name[:80]!r} cannot name files.",
            "Give it a name of letters, digits, '.', '_' and '-', of at most 100 characters, that no device of Windows "
            "has (CON, NUL, ...).",
        )
    for job in listed:
        job.target.check(job.spec, checkpoint.info)


def _prove(
    artifact: Artifact,
    heads: int,
    data: Preprocessing,
    pixels: Pixels,
    expected: Mapping[Precision, parity.Reference],
    folder: Path,
    gate: Gate,
) -> tuple[parity.ParityRecord, NDArray[np.bool_]]:
    given = pixels if artifact.spec.input == "image" else data.normalise(pixels)

    def run(session: Session) -> Array:
        if artifact.spec.batch == "dynamic":  # two sizes
            return np.concatenate([session.run(given[:1]), session.run(given[1:])])
        return session.run(given)

    target, precision = registry.get(artifact.target), artifact.spec.precision
    return parity.prove(target, folder / artifact.path, heads, precision, expected, run, artifact.path, gate)


def _with_layers(failed: ParityFailed, checkpoint: Checkpoint, heads: int, pixels: Pixels) -> ParityFailed:
    """The same, with the layers that int8 changes most."""
    errors = quantization.layer_errors(checkpoint.model, heads, pixels, checkpoint.info.preprocessing)
    worst = ", ".join(f"{each.name} by {each.both:.1%} ({each.weights:.1%})" for each in errors[:_WORST_LAYERS])
    return ParityFailed(
        f"{failed.message} int8 activations and weights (weights alone) change the outputs of these layers most: "
        f"{worst}.",
        failed.remedy,
    )


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
            if precision == "int8":
                continue  # is held against that of fp32
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
        assumed=info.assumed,
        trained_heads=info.trained_heads,
    )
    files = bundle.hashed(folder)
    entries = tuple(_entry(artifact, records[artifact.path], files, info) for artifact in artifacts)
    tool = _tool({artifact.target for artifact in artifacts})
    return bundle.Manifest(model=model, tool=tool, images=images, artifacts=entries, files=files)


def _entry(
    artifact: Artifact,
    records: dict[int, parity.ParityRecord],
    files: Sequence[bundle.FileEntry],
    info: CheckpointInfo,
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
    )


def _tool(names: Iterable[str]) -> dict[str, str]:
    packages = {"numpy", "torch", "timm"}.union(*(registry.get(name).packages for name in names))
    return {
        "hydra-export": VERSION,
        "python": platform.python_version(),
        **{package: version(package) for package in sorted(packages)},
    }
