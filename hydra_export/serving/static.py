"""The listing as a folder of files, for any host of static files."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from hydra_export import bundle, documents, files
from hydra_export.errors import OutputRefused, Unreadable
from hydra_export.serving.listing import SESSION, Resource


class StaticSession(msgspec.Struct):
    """By what such a folder is known: its session says what it holds."""

    static: bool
    files: tuple[str, ...]


def check_replaceable(out: Path) -> None:
    """Refuses a path that holds anything but nothing, an empty folder or one that ``write`` wrote."""
    remedy = "Choose another `static`, or move it away yourself."
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise OutputRefused(f"{out} is not a folder.", remedy)
    with files.refusing(out):
        present = set(bundle.tree(out))
    if not present:
        return
    try:
        session = documents.decode_json(files.read(out / SESSION, documents.JSON_BYTES), StaticSession)
    except (Unreadable, msgspec.DecodeError):
        raise OutputRefused(f"{out} exists and was not written by serve.", remedy) from None
    if foreign := present - set(session.files if session.static else ()):
        raise OutputRefused(
            f"{out} contains {min(foreign)}, which hydra-export did not write and would be lost.", remedy
        )


def write(resources: Mapping[str, Resource], out: Path) -> int:
    """Writes every resource by its address into *out*, as a whole or not at all; returns bytes.

    Raises:
        OutputRefused: something else is there, or it cannot be written.
        Unreadable: a file changed after it was listed.
    """
    check_replaceable(out)
    with files.replaced_folder(out) as folder:
        for name, resource in resources.items():
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            with resource.opened() as source, place.open("xb") as target:
                shutil.copyfileobj(source, target, files.MIB)
            with place.open("rb") as written:
                if hashlib.file_digest(written, "sha256").hexdigest() != resource.sha256:
                    raise Unreadable(str(resource.file), "it changed after it was checked", "Write it again.")
        check_replaceable(out)  # again: what came there meanwhile is not ours either
    return sum(resource.num_bytes for resource in resources.values())
