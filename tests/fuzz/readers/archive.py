"""A bundle's archive: only what may be unpacked is, and it says nothing but its files."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from hydra_export import archive
from tests.fuzz import checkpoints, trees, zips
from tests.fuzz.reader import Random, Reader

_MOST_BYTES = 4096  # of each file: what is in them is for others


def _seeds() -> list[bytes]:
    folder = checkpoints.bundle()
    out = checkpoints.folder() / "seed.zip"
    archive.write(folder, out, "tiny")
    small = [zips.with_content(each, each.content[:_MOST_BYTES]) for each in zips.entries(out.read_bytes())]
    return [zips.to_bytes(small)]


def _mutate(random: Random, content: bytes) -> bytes:
    return zips.mutate(random, content, lambda chance, _name, inner: trees.bruise(chance, inner), share=0.05)


def _parse(content: bytes) -> None:
    zipfile.ZipFile(io.BytesIO(content)).close()


def _read(path: Path) -> None:
    with archive.unpacked(path):
        pass


READER = Reader(_seeds, _mutate, _parse, _read, ".zip")
