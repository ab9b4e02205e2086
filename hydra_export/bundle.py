"""Bundles: a folder of artifacts with a manifest, hashes and golden data, written and read whole."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

from hydra_export import documents, files, npz
from hydra_export.architecture import HydraConfig
from hydra_export.arrays import Array, Pixels
from hydra_export.errors import BadInput, OutputRefused, Unreadable, VerificationFailed
from hydra_export.parity import ParityRecord, Percent, Reference, Share
from hydra_export.preprocess import Preprocessing
from hydra_export.target import GraphKind, InputForm, Precision, TensorInfo

SCHEMA_VERSION = 1
_SUMS_LINE = re.compile(r"(?P<sha256>[0-9a-f]{64})  (?P<path>[^\r\n]+)")
Progress = Callable[[str, int, int], None]  # what is being done, steps done, steps in all
MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"
GOLDEN = "golden/golden.npz"
_SUMS_BYTES = 8 * files.MIB
_GOLDEN_BYTES = 1024 * files.MIB
_MOST_GOLDEN_IMAGES = 64
# The manifest's bound is of more images than the golden ones, so it is as large or larger: at most so many times.
_LARGEST_BOUND = 10
_LARGEST_BATCH = 65536
_MOST_FILE_BYTES = 2**53  # the largest whole number that every JSON reader takes
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Milliseconds = Annotated[float, Meta(ge=0, le=1e12)]


def silent(_what: str, _done: int, _total: int) -> None:
    """The Progress that tells nobody."""


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the bundle; *path* is relative to it, POSIX."""

    path: str
    bytes: Annotated[int, Meta(ge=0, le=_MOST_FILE_BYTES)]
    sha256: Sha256


class ArtifactEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One exported graph.

    Attributes:
        bytes, sha256: of the file at *path*; of an .mlpackage, of all its files together and of their SHA256SUMS.
        files: paths of everything that a device must fetch to run it, *path* or what is in it included.
        needs: the oldest that can run it, such as ``{"opset": "17"}`` or ``{"ios": "18"}``.
        parity: per head count.
        warnings: what has to be known before it is used, such as that a head count of it was not trained.
    """

    path: str
    target: str
    graph: GraphKind
    precision: Precision
    input: InputForm
    heads: tuple[int, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    bytes: Annotated[int, Meta(ge=0, le=_MOST_FILE_BYTES)]
    sha256: Sha256
    files: tuple[str, ...]
    parity: dict[int, ParityRecord]
    needs: dict[str, str] = {}
    warnings: tuple[str, ...] = ()


class SubnetworkEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one exported head count; *accuracy* is top-1 in percent, None where unknown."""

    heads: int
    width: int
    params: int
    gmacs: float
    accuracy: Percent | None
    trained: bool | Literal["unknown"]


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The universal model that the artifacts were cut from.

    Attributes:
        assumed: what its checkpoint does not say, one sentence each.
        trained_heads: all that were trained, exported or not; empty where unknown.
    """

    name: str
    config: HydraConfig
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    checkpoint_sha256: str
    accuracy_data: str
    license: str
    subnetworks: tuple[SubnetworkEntry, ...]
    assumed: tuple[str, ...] = ()
    trained_heads: tuple[int, ...] = ()

    @property
    def is_plain(self) -> bool:
        """An ordinary ViT, whose full width alone was trained."""
        return self.config.is_plain(self.trained_heads)


class DeviceEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What was chosen for a device, where the export was asked for devices.

    Attributes:
        heads: None where no time is known, so that every head count was exported.
        fits: it is known to fit, by its central estimate at least; *sure*: by its high bound; *chance*: that it does.
        ms, low, high: the time and its 80 % interval. *provenance*: measured, published, estimated, ...
        artifacts: paths of what it may run.
    """

    id: str
    name: str
    runtime: str
    unit: str
    target: str
    heads: int | None
    fits: bool
    sure: bool
    chance: Share | None
    why: str
    budget_ms: Milliseconds
    ms: Milliseconds | None
    low: Milliseconds | None
    high: Milliseconds | None
    provenance: str | None
    artifacts: tuple[str, ...] = ()


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle holds.

    Attributes:
        generator: always "hydra-export"; a folder without it is not ours.
        tool: versions of everything that shaped an artifact.
        images: the images that parity was measured on, in words.
        files: every file of the bundle but the manifest itself and SHA256SUMS.
        devices: what was chosen for whom; empty where the export was not asked for devices.
    """

    generator: Literal["hydra-export"] = "hydra-export"
    schema_version: int = SCHEMA_VERSION
    model: ModelEntry
    tool: dict[str, str]
    images: str
    artifacts: tuple[ArtifactEntry, ...]
    files: tuple[FileEntry, ...]
    devices: tuple[DeviceEntry, ...] = ()


@dataclass(frozen=True)
class Golden:
    """The golden data: images, and what PyTorch computes of them.

    Attributes:
        pixels: uint8 [n, H, W, C] in 0-255.
        image: the same normalised, float32 [n, C, H, W].
        expected: by head count, and by the precision of the artifacts that are held against it.
    """

    pixels: Pixels
    image: Array
    expected: dict[int, dict[Precision, Reference]]


def golden_name(array: Literal["logits", "torch_fp32_logits"], heads: int, precision: Precision) -> str:
    """What the golden data calls an array: ``logits_k3``, and ``fp16_logits_k3`` of rounded weights."""
    return f"{'' if precision == 'fp32' else f'{precision}_'}{array}_k{heads}"


def references(manifest: Manifest) -> dict[int, tuple[Precision, ...]]:
    """The precisions whose references the golden data of *manifest* holds, by head count."""
    rounded = {k for artifact in manifest.artifacts if artifact.precision == "fp16" for k in artifact.heads}
    return {s.heads: ("fp32", "fp16") if s.heads in rounded else ("fp32",) for s in manifest.model.subnetworks}


def check_present(folder: Path) -> None:
    """Raises BadInput where *folder* is no bundle at all."""
    if not folder.is_dir():
        raise BadInput(f"There is no folder {folder}.", "Give the folder of a bundle.")
    if not (folder / MANIFEST).exists() and not (folder / SUMS).exists():
        raise BadInput(f"{folder} is not a bundle: it has no {MANIFEST}.", "Give the folder of a bundle.")


def read(folder: Path) -> Manifest:
    """The manifest of a bundle.

    Raises:
        BadInput: *folder* is no bundle at all.
        VerificationFailed: its manifest is damaged, contradicts itself, or is not one that this release understands.
    """
    check_present(folder)
    try:
        content = files.read(folder / MANIFEST, documents.JSON_BYTES)
        version = documents.decode_json(content, _Versioned).schema_version
        if version != SCHEMA_VERSION:
            raise VerificationFailed(
                f"{folder / MANIFEST} has schema version {version}; this release reads {SCHEMA_VERSION}.",
                "Export it again, or use the release that wrote it.",
            )
        manifest = documents.decode_json(content, Manifest)
    except (msgspec.DecodeError, BadInput) as error:
        raise VerificationFailed(
            f"{folder / MANIFEST} is not a manifest of ours: {error}.", "Export it again."
        ) from error
    for problem in _contradictions(manifest):
        raise VerificationFailed(f"{folder / MANIFEST} contradicts itself: {problem}.", "Export it again.")
    return manifest


def _contradictions(manifest: Manifest) -> Iterator[str]:
    """What is said of an artifact has to be about listed files and head counts, so that all were hashed and run."""
    yield from _model_contradictions(manifest.model)
    for entry in manifest.files:
        if problem := files.unportable(entry.path):
            yield f"a file is called {entry.path[:200]!r}: {problem}"
    listed = {file.path: file for file in manifest.files}
    if len(listed) < len(manifest.files):
        yield "a file is listed twice"
    if not manifest.artifacts:
        yield "no artifact is listed"
    runnable = {artifact.path: artifact.heads for artifact in manifest.artifacts}
    if len(runnable) < len(manifest.artifacts):
        yield "an artifact is listed twice"
    inside = _inside(listed, runnable)
    known = [subnetwork.heads for subnetwork in manifest.model.subnetworks]
    for artifact in manifest.artifacts:
        yield from _artifact_contradictions(artifact, listed, inside.get(artifact.path, []), known)
    for device in manifest.devices:
        for path in device.artifacts:
            if path not in runnable or (device.heads is not None and device.heads not in runnable[path]):
                yield f"{path}, which {device.id} is to run at heads {device.heads}, is not listed as such"


def _model_contradictions(model: ModelEntry) -> Iterator[str]:
    config, data = model.config, model.preprocessing
    if (data.image_size, data.channels) != (config.image_size, config.channels):
        yield "the preprocessing makes other images than the model takes"
    if len(model.labels) not in (0, config.num_classes):
        yield f"it lists {len(model.labels)} labels of {config.num_classes} classes"
    known = [subnetwork.heads for subnetwork in model.subnetworks]
    if known != sorted({k for k in known if 1 <= k <= config.heads}):
        yield f"its {len(known)} subnetworks do not ascend within 1..{config.heads}"
        return
    for each in model.subnetworks:
        width, params, gmacs = (config.width(each.heads), config.num_params(each.heads), config.macs(each.heads) / 1e9)
        near = math.isclose(each.params, params, rel_tol=0.01) and math.isclose(
            each.gmacs, gmacs, rel_tol=0.01, abs_tol=1e-6
        )  # whatever an older release counted
        if each.width != width or not near:
            yield f"subnetwork {each.heads} of this model has width {width}, {params} parameters and {gmacs:.3g} GMACs"


def _inside(listed: Collection[str], artifacts: Collection[str]) -> dict[str, list[str]]:
    """The listed paths inside of each artifact that is a folder."""
    inside: dict[str, list[str]] = {}
    for path in listed:
        for parent in map(str, PurePosixPath(path).parents):
            if parent in artifacts:
                inside.setdefault(parent, []).append(path)
    return inside


def _artifact_contradictions(
    artifact: ArtifactEntry, listed: dict[str, FileEntry], inside: list[str], known: list[int]
) -> Iterator[str]:
    own = FileEntry(path=artifact.path, bytes=artifact.bytes, sha256=artifact.sha256)
    whole = _package_entry(artifact.path, [listed[p] for p in inside]) if inside else listed.get(artifact.path)
    needed, own_paths = set(artifact.files), set(inside) or {artifact.path}
    needless = len(needed) < len(artifact.files) or (inside and needed != own_paths)
    if whole != own or own_paths - needed or needless:
        yield f"{artifact.path} is listed in two ways"
    for path in needed - listed.keys():
        yield f"{path[:200]}, which {artifact.path} needs, is not listed"
    if not artifact.inputs or not artifact.outputs or not artifact.inputs[0].shape:
        yield f"{artifact.path} takes or gives nothing"
    elif isinstance(batch := artifact.inputs[0].shape[0], int) and not 1 <= batch <= _LARGEST_BATCH:
        yield f"{artifact.path} takes {batch} images at once"
    heads = set(artifact.heads)
    if not heads or len(heads) < len(artifact.heads) or not heads.issubset(known):
        yield f"{artifact.path} has heads {_few(artifact.heads)}, listed are {_few(known)}"
    if artifact.parity.keys() != heads:
        yield f"the parity of {artifact.path} is of other heads"
    for record in artifact.parity.values():
        if (record.bound is None) != (artifact.precision == "int8"):
            yield f"the parity of {artifact.path} is of another precision"


def _few(numbers: Sequence[int]) -> str:
    return f"{list(numbers[:20])}{' and more' if len(numbers) > 20 else ''}"


def read_golden(folder: Path, manifest: Manifest) -> Golden:
    """The golden data of a bundle; VerificationFailed where it is damaged or contradicts *manifest*."""
    names = {
        (k, precision): (golden_name("logits", k, precision), golden_name("torch_fp32_logits", k, precision))
        for k, precisions in references(manifest).items()
        for precision in precisions
    }
    listed = ["pixels", "image", *(name for pair in names.values() for name in pair)]
    try:
        with npz.opened(folder / GOLDEN, _GOLDEN_BYTES, listed) as archive:
            _check_shapes(archive, manifest, names)
            arrays = {name: archive.read(name) for name in listed}
        return _golden(arrays, manifest, names)
    except (*npz.DAMAGED, Unreadable) as error:
        reason = error.reason if isinstance(error, Unreadable) else error
        raise VerificationFailed(
            f"{folder / GOLDEN} does not hold the golden data: {reason}.", "Copy or export it again."
        ) from error


_Names = dict[tuple[int, Precision], tuple[str, str]]  # of the exact logits and of torch's in float32


def _check_shapes(archive: npz.Archive, manifest: Manifest, names: _Names) -> None:
    config, found = manifest.model.config, archive.headers
    n, size = (found["pixels"].shape or (0,))[0], config.image_size
    if not 1 <= n <= _MOST_GOLDEN_IMAGES:
        raise ValueError(f"it holds {n} images, allowed are 1 to {_MOST_GOLDEN_IMAGES}")
    expected = {
        "pixels": npz.Header(np.dtype(np.uint8), (n, size, size, config.channels)),
        "image": npz.Header(np.dtype(np.float32), (n, config.channels, size, size)),
    }
    for (k, _), (exact, torch_fp32) in names.items():
        expected[exact] = npz.Header(np.dtype(np.float64), (n, config.num_outputs(k)))
        expected[torch_fp32] = npz.Header(np.dtype(np.float32), (n, config.num_outputs(k)))
    for name, header in expected.items():
        if found[name] != header:
            raise ValueError(f"{name} is {found[name]}, not {header}")


def _golden(arrays: dict[str, Array], manifest: Manifest, names: _Names) -> Golden:
    if not np.allclose(  # within float32's rounding
        arrays["image"], manifest.model.preprocessing.normalise(arrays["pixels"]), rtol=1e-5, atol=1e-6
    ):
        raise ValueError("image is not the normalised form of pixels")
    expected: dict[int, dict[Precision, Reference]] = {}
    for (k, precision), (exact, torch_fp32) in names.items():
        expected.setdefault(k, {})[precision] = Reference(arrays[exact], arrays[torch_fp32])
    for by_precision in expected.values():
        by_precision["int8"] = by_precision["fp32"]  # what it is held against, by agreement
    for artifact in manifest.artifacts:
        for k, record in artifact.parity.items():
            bound = expected[k][artifact.precision].bound
            if record.bound is not None and record.max_abs_error > record.bound:
                raise ValueError(
                    f"the manifest says an error of {record.max_abs_error:.3g} of {artifact.path}, "
                    f"larger than its own bound, {record.bound:.3g}"
                )
            if record.bound is not None and not bound <= record.bound <= _LARGEST_BOUND * bound:
                raise ValueError(
                    f"it allows an error of {bound:.3g} at heads {k}, the manifest {record.bound:.3g} of "
                    f"{artifact.path}; {_LARGEST_BOUND} times as much is credible, and no less than that"
                )
    return Golden(arrays["pixels"], arrays["image"], expected)


def check_replaceable(out: Path) -> None:
    """Refuses an output path that holds anything but nothing, an empty folder or one of our bundles."""
    remedy = "Choose another --out, or move it away yourself."
    out = Path(os.path.realpath(out))
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        what = "a loop of links" if out.is_symlink() else "a file"
        raise OutputRefused(f"{out} is {what}, not a folder.", remedy)
    with files.refusing(out):
        present = set(tree(out))
    if not present:
        return
    try:
        ours = documents.decode_json(files.read(out / MANIFEST, documents.JSON_BYTES), _Versioned).generator
        listed = {MANIFEST, SUMS, *read_sums(out)}
    except (Unreadable, ValueError, msgspec.DecodeError):
        raise OutputRefused(f"{out} holds something that is not a bundle of ours.", remedy) from None
    if ours != "hydra-export" or present - listed:
        foreign = min(present - listed) if ours == "hydra-export" else MANIFEST
        raise OutputRefused(f"{out} holds {foreign}, which is not ours and would be lost.", remedy)


@contextmanager
def written(out: Path) -> Iterator[Path]:
    """A folder to fill, which replaces *out* as a whole when its manifest is written; nothing stays on failure."""
    check_replaceable(out)
    with files.replaced_folder(out) as folder:
        yield folder
        check_replaceable(out)  # again: what came there meanwhile is not ours either


def seal(folder: Path, manifest: Manifest) -> Manifest:
    """Completes *manifest* with the files of *folder* and writes it with SHA256SUMS."""
    entries = tuple(file_entry(folder, path) for path in sorted(tree(folder)))
    manifest = msgspec.structs.replace(manifest, files=entries)
    encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (folder / MANIFEST).write_bytes(encoded + b"\n")
    (folder / SUMS).write_bytes(sums([*entries, file_entry(folder, MANIFEST)]))
    return manifest


def schema() -> bytes:
    """The JSON Schema of manifest.json, as docs/ holds it."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(Manifest)), indent=2) + b"\n"


def sums(entries: list[FileEntry]) -> bytes:
    """The content of SHA256SUMS, as ``sha256sum -c`` reads it."""
    return "".join(f"{entry.sha256}  {entry.path}\n" for entry in sorted(entries, key=lambda e: e.path)).encode()


def read_sums(folder: Path) -> dict[str, str]:
    """The hashes in SHA256SUMS by path.

    Raises:
        Unreadable: it is no regular file, or too large.
        ValueError: it is none of ours.
    """
    text = files.read(folder / SUMS, _SUMS_BYTES).decode()
    lines = [_SUMS_LINE.fullmatch(line) for line in text.removesuffix("\n").split("\n")]
    if not text.endswith("\n") or not all(lines):
        raise ValueError("a line is not a hash, two spaces and a path")
    listed = {line["path"]: line["sha256"] for line in lines if line}
    if len(listed) < len(lines):
        raise ValueError("a path is in it twice")
    return listed


def artifact_entry(folder: Path, path: str) -> FileEntry:
    """Size and hash of an artifact: a file, or a folder such as an .mlpackage."""
    if (folder / path).is_dir():
        return _package_entry(path, [file_entry(folder, f"{path}/{name}") for name in tree(folder / path)])
    return file_entry(folder, path)


def _package_entry(path: str, inside: list[FileEntry]) -> FileEntry:
    """The hash is that of the SHA256SUMS which the package itself would have."""
    own = [msgspec.structs.replace(file, path=file.path.removeprefix(f"{path}/")) for file in inside]
    digest = hashlib.sha256(sums(own)).hexdigest()
    return FileEntry(path=path, bytes=sum(file.bytes for file in inside), sha256=digest)


def file_entry(folder: Path, path: str) -> FileEntry:
    """Size and hash of one file of *folder*."""
    return FileEntry(path=path, bytes=(folder / path).stat().st_size, sha256=files.sha256(folder / path))


def tree(folder: Path) -> list[str]:
    """Every file below *folder* as a relative POSIX path; links and special files are listed, never followed."""
    paths = []
    for parent, folders, names in os.walk(folder, onerror=_raise):
        links = [name for name in folders if Path(parent, name).is_symlink()]
        paths += [PurePosixPath(Path(parent, name).relative_to(folder)).as_posix() for name in [*names, *links]]
    return paths


class _Versioned(msgspec.Struct):
    schema_version: int
    generator: str


def _raise(error: OSError) -> None:
    raise error
