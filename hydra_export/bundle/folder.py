"""A bundle's folder: filled under another name, sealed, and put in the place of an older bundle as a whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from hydra_export import documents, files
from hydra_export.bundle.manifest import MANIFEST, Manifest
from hydra_export.bundle.reading import ManifestHeader
from hydra_export.bundle.sums import SUMS, file_entry, hashed, read_sums, sums, tree
from hydra_export.errors import OutputRefused, Unreadable


def silent(_what: str, _done: int, _total: int) -> None:
    """The Progress that tells nobody."""


def check_replaceable(out: Path) -> None:
    """Refuses an output path that holds anything but nothing, an empty folder or one of our bundles."""
    remedy = "Choose another `out`, or move it away yourself."
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
        generator = documents.decode_json(files.read(out / MANIFEST, documents.JSON_BYTES), ManifestHeader).generator
        own = {MANIFEST, SUMS, *read_sums(out)}
    except (Unreadable, ValueError, msgspec.DecodeError):
        raise OutputRefused(f"{out} exists and is not a bundle.", remedy) from None
    if generator != "hydra-export" or present - own:
        foreign = min(present - own) if generator == "hydra-export" else MANIFEST
        raise OutputRefused(f"{out} contains {foreign}, which hydra-export did not write and would be lost.", remedy)


@contextmanager
def written(out: Path) -> Iterator[Path]:
    """A folder to fill, which replaces *out* as a whole when its manifest is written; nothing stays on failure."""
    check_replaceable(out)
    with files.replaced_folder(out) as folder:
        yield folder
        check_replaceable(out)  # again: what came there meanwhile is not ours either


def seal(folder: Path, manifest: Manifest) -> Manifest:
    """Completes *manifest* with the files of *folder* that it does not list yet, and writes it with SHA256SUMS."""
    entries = hashed(folder, manifest.files)
    manifest = msgspec.structs.replace(manifest, files=entries)
    encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (folder / MANIFEST).write_bytes(encoded + b"\n")
    (folder / SUMS).write_bytes(sums([*entries, file_entry(folder, MANIFEST)]))
    return manifest
