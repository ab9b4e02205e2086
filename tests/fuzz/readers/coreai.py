"""Core AI assets of ours, linted and run, as a zip of their three files.

Half of those whose program is changed have its hash: Apple's reader sees them, and ends its process at many.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from hydra_export import targets
from hydra_export.checkpoint import load
from hydra_export.target import ExportSpec
from tests.fuzz import checkpoints, trees
from tests.fuzz.reader import Random, Reader

_PROGRAM, _HASH, _METADATA = _FILES = ("main.mlirb", "main.hash", "metadata.json")
_SPECS = (((2,), ExportSpec(precision="fp32")), ((1, 2), ExportSpec(precision="int8", graph="universal")))


@functools.cache
def _seeds() -> list[bytes]:
    seeds, checkpoint = [], load(checkpoints.checkpoint())
    for heads, spec in _SPECS:
        out = checkpoints.folder() / "coreai" / spec.graph
        out.mkdir(parents=True)
        for artifact in targets.get("coreai").write(checkpoint, heads, spec, out):
            seeds.append(_packed({name: (out / artifact.path / name).read_bytes() for name in _FILES}))  # noqa: PERF401
    return seeds


def _packed(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in _FILES:
            archive.writestr(zipfile.ZipInfo(name), files[name])
    return stream.getvalue()


def _files_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in _FILES}


def _mutate(random: Random, content: bytes) -> bytes:
    files = _files_of(content)
    if random.random() < 0.3:
        files[_METADATA] = trees.to_json(random, trees.mutate(random, json.loads(files[_METADATA])))
        return _packed(files)
    program = bytearray(files[_PROGRAM])
    for _ in range(random.choice((1, 1, 1, 2, 8))):
        # The beginning and the end, which say what the program is, more often than the weights between.
        places = (random.randrange(len(program)), -random.randrange(4000), random.randrange(2000))
        at = random.choice(places) % len(program)
        match random.random():
            case chance if chance < 0.7:
                program[at] = random.choice((program[at] ^ 1 << random.randrange(8), random.randrange(256), 0, 255))
            case chance if chance < 0.8:
                del program[at:]
            case chance if chance < 0.9:
                del program[at : at + random.randrange(1, 9)]
            case _:
                program[at:at] = random.randbytes(random.randrange(1, 9))
        program = program or bytearray(b"M")
    files[_PROGRAM] = bytes(program)
    if random.random() < 0.5:
        files[_HASH] = hashlib.sha256(program).digest()
    return _packed(files)


def _parse(content: bytes) -> None:
    files = _files_of(content)
    json.loads(files[_METADATA])
    if not files[_PROGRAM].startswith(b"ML\xefR"):
        raise ValueError("it is no MLIR bytecode")


def _read(path: Path) -> None:
    asset, coreai = path.parent / "fuzzed.aimodel", targets.get("coreai")
    asset.mkdir(exist_ok=True)
    for name, content in _files_of(path.read_bytes()).items():
        (asset / name).write_bytes(content)
    try:
        coreai.lint(asset)
        coreai.metadata(asset)
        (image,), _ = coreai.signature(asset)
        coreai.load(asset, 2).run(np.zeros(tuple(map(int, image.shape)), image.dtype))
    finally:
        assert not list(Path(tempfile.gettempdir()).glob("*.aimodelx")), "the runtime left something behind"


READER = Reader(_seeds, _mutate, _parse, _read, ".aimodel.zip")
