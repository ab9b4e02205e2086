"""Bundles: a folder of artifacts with a manifest, hashes and golden data, written and read whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Literal

import msgspec

from hydra_export import files
from hydra_export.architecture import HydraConfig
from hydra_export.errors import OutputRefused, VerificationFailed
from hydra_export.parity import ParityRecord
from hydra_export.preprocess import Preprocessing
from hydra_export.target import GraphKind, InputForm, Precision, TensorInfo

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"
GOLDEN = "golden/golden.npz"


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the bundle; *path* is relative to it, POSIX."""

    path: str
    bytes: int
    sha256: str


class ArtifactEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One exported graph.

    Attributes:
        bytes, sha256: of the file at *path*.
        files: paths of everything that a device must fetch to run it, *path* included.
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


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle holds.

    Attributes:
        generator: always "hydra-export"; a folder without it is not ours.
        tool: versions of everything that shaped an artifact.
        images: the images that parity was measured on, in words.
        files: every file of the bundle but the manifest itself and SHA256SUMS.
    """

    generator: Literal["hydra-export"] = "hydra-export"
    schema_version: int = SCHEMA_VERSION
    model: ModelEntry
    tool: dict[str, str]
    images: str
    artifacts: tuple[ArtifactEntry, ...]
    files: tuple[FileEntry, ...]


def read(folder: Path) -> Manifest:
    """The manifest of a bundle; VerificationFailed where it is not one that this release understands."""
    try:
        content = (folder / MANIFEST).read_bytes()
        version = msgspec.json.decode(content, type=_Versioned).schema_version
        if version != SCHEMA_VERSION:
            raise VerificationFailed(
                f"{folder / MANIFEST} has schema version {version}; this release reads {SCHEMA_VERSION}.",
                "Export it again, or use the release that wrote it.",
            )
        return msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, OSError) as error:
        raise VerificationFailed(
            f"{folder / MANIFEST} is not a manifest of ours: {error}.", "Export it again."
        ) from error


def check_replaceable(out: Path) -> None:
    """Refuses an output path that holds anything but nothing, an empty folder or one of our bundles."""
    remedy = "Choose another --out, or move it away yourself."
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise OutputRefused(f"{out} is a file, not a folder.", remedy)
    with files.refusing(out):
        present = set(tree(out))
    if not present:
        return
    try:
        ours = msgspec.json.decode((out / MANIFEST).read_bytes(), type=_Versioned).generator == "hydra-export"
        listed = {MANIFEST, SUMS} | {line.partition("  ")[2] for line in (out / SUMS).read_text().splitlines()}
    except (OSError, UnicodeDecodeError, msgspec.DecodeError):
        raise OutputRefused(f"{out} holds something that is not a bundle of ours.", remedy) from None
    if not ours or present - listed:
        foreign = min(present - listed) if ours else MANIFEST
        raise OutputRefused(f"{out} holds {foreign}, which is not ours and would be lost.", remedy)


@contextmanager
def written(out: Path) -> Iterator[Path]:
    """A folder to fill, which replaces *out* as a whole when its manifest is written; nothing stays on failure."""
    out = out.resolve()
    check_replaceable(out)
    with files.replaced_folder(out) as folder:
        yield folder


def seal(folder: Path, manifest: Manifest) -> Manifest:
    """Completes *manifest* with the files of *folder* and writes it with SHA256SUMS."""
    entries = tuple(file_entry(folder, path) for path in sorted(tree(folder)))
    manifest = msgspec.structs.replace(manifest, files=entries)
    encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (folder / MANIFEST).write_bytes(encoded + b"\n")
    (folder / SUMS).write_bytes(sums([*entries, file_entry(folder, MANIFEST)]))
    return manifest


def sums(entries: list[FileEntry]) -> bytes:
    """The content of SHA256SUMS, as ``sha256sum -c`` reads it."""
    return "".join(f"{entry.sha256}  {entry.path}\n" for entry in sorted(entries, key=lambda e: e.path)).encode()


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
