"""Bundles: a folder of artifacts with a manifest, hashes and golden data, written and read whole."""

from __future__ import annotations

import hashlib
import os
import struct
import tokenize
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal
from zipfile import BadZipFile

import msgspec
import numpy as np

from hydra_export import files
from hydra_export.architecture import HydraConfig
from hydra_export.errors import BadInput, OutputRefused, VerificationFailed
from hydra_export.parity import ParityRecord, Reference
from hydra_export.preprocess import Preprocessing
from hydra_export.target import Array, GraphKind, InputForm, Pixels, Precision, TensorInfo

SCHEMA_VERSION = 1
Progress = Callable[[str, int, int], None]  # what is being done, steps done, steps in all
MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"
GOLDEN = "golden/golden.npz"
# What numpy and zipfile can raise over a damaged archive: they share no base.
_DAMAGED_NPZ = (
    BadZipFile,
    EOFError,
    KeyError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zlib.error,
)


def silent(_what: str, _done: int, _total: int) -> None:
    """The Progress that tells nobody."""


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the bundle; *path* is relative to it, POSIX."""

    path: str
    bytes: int
    sha256: str


class ArtifactEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One exported graph.

    Attributes:
        bytes, sha256: of the file at *path*; of an .mlpackage, of all its files together and of their SHA256SUMS.
        files: paths of everything that a device must fetch to run it, *path* or what is in it included.
        needs: the oldest that can run it, such as ``{"opset": "17"}`` or ``{"ios": "18"}``.
        parity: per head count.
    """

    path: str
    target: str
    graph: GraphKind
    precision: Precision
    input: InputForm
    heads: tuple[int, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    bytes: int
    sha256: str
    files: tuple[str, ...]
    parity: dict[int, ParityRecord]
    needs: dict[str, str] = {}


class SubnetworkEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one exported head count; *accuracy* is top-1 in percent, None where unknown."""

    heads: int
    width: int
    params: int
    gmacs: float
    accuracy: float | None
    trained: bool | Literal["unknown"]


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The universal model that the artifacts were cut from."""

    name: str
    config: HydraConfig
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    checkpoint_sha256: str
    accuracy_data: str
    license: str
    subnetworks: tuple[SubnetworkEntry, ...]


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
    chance: float | None
    why: str
    budget_ms: float
    ms: float | None
    low: float | None
    high: float | None
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
        content = (folder / MANIFEST).read_bytes()
        version = msgspec.json.decode(content, type=_Versioned).schema_version
        if version != SCHEMA_VERSION:
            raise VerificationFailed(
                f"{folder / MANIFEST} has schema version {version}; this release reads {SCHEMA_VERSION}.",
                "Export it again, or use the release that wrote it.",
            )
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OSError, BadInput) as error:
        raise VerificationFailed(
            f"{folder / MANIFEST} is not a manifest of ours: {error}.", "Export it again."
        ) from error
    for problem in _contradictions(manifest):
        raise VerificationFailed(f"{folder / MANIFEST} contradicts itself: {problem}.", "Export it again.")
    return manifest


def _contradictions(manifest: Manifest) -> Iterator[str]:
    """What is said of an artifact has to be about listed files and head counts, so that all were hashed and run."""
    config, data = manifest.model.config, manifest.model.preprocessing
    if (data.image_size, data.channels) != (config.image_size, config.channels):
        yield "the preprocessing makes other images than the model takes"
    known = [subnetwork.heads for subnetwork in manifest.model.subnetworks]
    if known != sorted({k for k in known if 1 <= k <= config.heads}):
        yield f"subnetworks {known} do not ascend within 1..{config.heads}"
    listed = {file.path: file for file in manifest.files}
    if len(listed) < len(manifest.files):
        yield "a file is listed twice"
    if not manifest.artifacts:
        yield "no artifact is listed"
    runnable = {artifact.path: artifact.heads for artifact in manifest.artifacts}
    for device in manifest.devices:
        for path in device.artifacts:
            if path not in runnable or (device.heads is not None and device.heads not in runnable[path]):
                yield f"{path}, which {device.id} is to run at heads {device.heads}, is not listed as such"
    for artifact in manifest.artifacts:
        own = FileEntry(path=artifact.path, bytes=artifact.bytes, sha256=artifact.sha256)
        inside = [file for path, file in listed.items() if path.startswith(f"{artifact.path}/")]
        whole = _package_entry(artifact.path, inside) if inside else listed.get(artifact.path)
        own_paths = {file.path for file in inside} or {artifact.path}
        needless = len(set(artifact.files)) < len(artifact.files) or (inside and set(artifact.files) != own_paths)
        if whole != own or own_paths - set(artifact.files) or needless:
            yield f"{artifact.path} is listed in two ways"
        for path in set(artifact.files) - listed.keys():
            yield f"{path}, which {artifact.path} needs, is not listed"
        for path in artifact.files:
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\\" in path:
                yield f"{path} lies outside of the bundle"
        if not artifact.heads or set(artifact.heads) - set(known):
            yield f"{artifact.path} has heads {list(artifact.heads)}, listed are {known}"
        if [record.bound is None for record in artifact.parity.values()] != [artifact.precision == "int8"] * len(
            artifact.parity
        ):
            yield f"the parity of {artifact.path} is of another precision"
        if artifact.parity.keys() != set(artifact.heads):
            yield f"the parity of {artifact.path} is of other heads"


def read_golden(folder: Path, manifest: Manifest) -> Golden:
    """The golden data of a bundle; VerificationFailed where it is damaged or contradicts *manifest*."""
    try:
        # numpy leaves a file open that it opened itself and could not read.
        with (folder / GOLDEN).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            golden = {name: arrays[name] for name in arrays.files}
        return _golden(golden, manifest)
    except _DAMAGED_NPZ as error:
        raise VerificationFailed(
            f"{folder / GOLDEN} does not hold the golden data: {error}.", "Copy or export it again."
        ) from error


def _golden(arrays: dict[str, Array], manifest: Manifest) -> Golden:
    config, data = manifest.model.config, manifest.model.preprocessing
    pixels, size = arrays["pixels"], config.image_size
    shapes: dict[str, tuple[type, tuple[int, ...]]] = {
        "pixels": (np.uint8, (max(len(pixels), 1), size, size, config.channels)),
        "image": (np.float32, (len(pixels), config.channels, size, size)),
    }
    names: dict[tuple[int, Precision], tuple[str, str]] = {}
    for k, precisions in references(manifest).items():
        for precision in precisions:
            names[k, precision] = golden_name("logits", k, precision), golden_name("torch_fp32_logits", k, precision)
            exact, torch_fp32 = names[k, precision]
            shapes[exact] = np.float64, (len(pixels), config.num_outputs(k))
            shapes[torch_fp32] = np.float32, (len(pixels), config.num_outputs(k))
    for name, (dtype, shape) in shapes.items():
        if arrays[name].dtype != dtype or arrays[name].shape != shape:
            raise ValueError(f"{name} is {arrays[name].dtype} {list(arrays[name].shape)}, not {list(shape)}")
    if not np.allclose(arrays["image"], data.normalise(pixels), rtol=1e-5, atol=1e-6):  # float32's rounding
        raise ValueError("image is not the normalised form of pixels")
    expected: dict[int, dict[Precision, Reference]] = {}
    for (k, precision), (exact, torch_fp32) in names.items():
        expected.setdefault(k, {})[precision] = Reference(arrays[exact], arrays[torch_fp32])
    for by_precision in expected.values():
        by_precision["int8"] = by_precision["fp32"]  # what it is held against, by agreement
    for artifact in manifest.artifacts:
        for k, record in artifact.parity.items():  # of more images, the golden ones among them
            bound = expected[k][artifact.precision].bound
            if record.bound is not None and not bound <= record.bound:
                raise ValueError(f"heads {k} would allow an error of {bound}, the manifest {record.bound}")
    return Golden(pixels, arrays["image"], expected)


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
        ours = msgspec.json.decode((out / MANIFEST).read_bytes(), type=_Versioned).generator == "hydra-export"
        lines = (out / SUMS).read_bytes().decode().split("\n")
        listed = {MANIFEST, SUMS} | {line.partition("  ")[2] for line in lines}
    except (OSError, UnicodeDecodeError, RecursionError, msgspec.DecodeError):
        raise OutputRefused(f"{out} holds something that is not a bundle of ours.", remedy) from None
    if not ours or present - listed:
        foreign = min(present - listed) if ours else MANIFEST
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
