"""The files of an asset as we write them."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import msgspec

from hydra_export import files
from hydra_export.documents import JSON_BYTES, decode_json
from hydra_export.errors import CheckFailed, Unreadable
from hydra_export.target import METADATA_PREFIX

PROGRAM, HASH, METADATA = "main.mlirb", "main.hash", "metadata.json"
FILES = (HASH, PROGRAM, METADATA)
_MOST_PROGRAM_BYTES = 16 * 2**30  # the weights are in it
_OWN = "creatorDefinedMetadata"
_FIELDS = {"assetVersion", "author", "description", "license", "producer", _OWN}
_PRODUCER = re.compile(r"(apple-)?coreai(-core)? [0-9a-z.]+")


def canonical(metadata: dict[str, Any]) -> bytes:
    """metadata.json without what differs from run to run: the order of its keys, and the date."""
    kept = {name: value for name, value in metadata.items() if name != "creationDate"}
    return json.dumps(kept, ensure_ascii=False, indent=2, sort_keys=True).encode() + b"\n"


def check(path: Path) -> None:
    """Raises CheckFailed unless the asset is whole: Apple's reader ends the process where its program is damaged."""
    present = sorted(each.relative_to(path).as_posix() for each in path.rglob("*")) if path.is_dir() else []
    if set(present) != set(FILES):
        raise CheckFailed(f"{path} is not portable: it contains {present[:10]}, but an asset contains {list(FILES)}.")
    try:
        with files.opened(path / PROGRAM, _MOST_PROGRAM_BYTES, links=False) as program:
            digest = hashlib.file_digest(program, "sha256").digest()
        told = files.read(path / HASH, hashlib.sha256().digest_size, links=False)
    except Unreadable as error:
        raise CheckFailed(f"{path} is damaged: {error.message}") from error
    if digest != told:
        raise CheckFailed(f"{path} is damaged: {HASH} is not the SHA-256 of {PROGRAM}.")


def metadata(path: Path) -> dict[str, str]:
    """What the asset says of itself in fields of our own."""
    document = _document(path)
    own = document.get(_OWN)
    if not isinstance(own, dict) or not all(isinstance(text, str) for text in own.values()):
        raise CheckFailed(f"{path} is not portable: its {METADATA} was not written by hydra-export.")
    return own


def check_metadata(path: Path) -> None:
    """Raises CheckFailed where metadata.json is not as it was written, or says more than it may."""
    document = _document(path)
    foreign = sorted({*document} - _FIELDS | {name for name in metadata(path) if not name.startswith(METADATA_PREFIX)})
    if foreign:
        raise CheckFailed(f"{path} is not portable: it has the metadata {foreign[0]!r}.")
    if not _PRODUCER.fullmatch(str(document.get("producer"))) or "assetVersion" not in document:
        raise CheckFailed(f"{path} is not portable: its {METADATA} does not state what wrote it.")
    if files.read(path / METADATA, JSON_BYTES) != canonical(document):
        raise CheckFailed(f"{path} is not portable: its {METADATA} is not in canonical form.")


def _document(path: Path) -> dict[str, Any]:
    try:
        return decode_json(files.read(path / METADATA, JSON_BYTES, links=False), dict[str, Any])
    except (msgspec.DecodeError, Unreadable) as error:
        raise CheckFailed(f"{path} is damaged: {METADATA}: {error}.") from error
