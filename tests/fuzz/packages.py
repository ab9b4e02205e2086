"""Core ML packages as one input each: a zip of their three files, so that they are kept and mutated as others are."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

from hydra_export.mil.proto import model_class
from tests.fuzz.reader import Random
from tests.mil import mutants

_FILES = (mutants.MODEL, mutants.WEIGHTS, mutants.MANIFEST)


def packed(files: dict[str, bytes]) -> bytes:
    """The zip of *files*, the same for the same."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in _FILES:
            archive.writestr(zipfile.ZipInfo(name), files[name])
    return stream.getvalue()


def of(path: Path) -> bytes:
    """The zip of the package at *path*."""
    return packed({name: (path / name).read_bytes() for name in _FILES})


def files_of(content: bytes) -> dict[str, bytes]:
    """What ``packed`` was given."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in _FILES}


def mutate(random: Random, content: bytes) -> bytes:
    """A package with other fields in its model, or another weight file or manifest."""
    files, model = files_of(content), model_class()()
    model.ParseFromString(files[mutants.MODEL])
    return packed(files | mutants.changed(model, files, random))


def parse(content: bytes) -> None:
    """Raises where the model is no message, or the manifest no JSON."""
    files = files_of(content)
    model_class()().ParseFromString(files[mutants.MODEL])
    json.loads(files[mutants.MANIFEST])


def unpacked(path: Path) -> Path:
    """The package of the zip at *path*, beside it."""
    out = path.parent / "fuzzed.mlpackage"
    for name, content in files_of(path.read_bytes()).items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
    return out
