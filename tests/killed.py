"""Makes one bundle after the other at one place, through a cache, until it is stopped: a program for its own process.

    python tests/killed.py PLACE ROUNDS BYTES BUNDLE...

PLACE/out and PLACE/out.zip are in turns each ready BUNDLE, whose ONNX files go through PLACE/cache. ROUNDS is 0 for
no end. A file may have BYTES at most, 0 for any: writing more is an error, as on a full disk.
"""

from __future__ import annotations

import itertools
import resource
import shutil
import sys
from pathlib import Path

import msgspec

from hydra_export import archive, bundle
from hydra_export.cache import Cache
from hydra_export.errors import OutputRefused
from hydra_export.target import Artifact, ExportSpec


def artifacts(source: Path) -> list[Artifact]:
    """What a write would have returned for the ONNX files of a bundle."""
    found = []
    for entry in bundle.read(source).artifacts:
        chosen = {name: getattr(entry, name) for name in ("target", "heads", "inputs", "outputs", "needs")}
        files = tuple(name.removeprefix("onnx/") for name in entry.files)
        found.append(Artifact(path=Path(entry.path).name, files=files, spec=ExportSpec(), **chosen))
    return found


def make(source: Path, place: Path, cache: Cache) -> None:
    with archive.written(place / "out", place / "out.zip", "tiny") as folder:
        (folder / "onnx").mkdir()
        key = msgspec.json.decode((source / bundle.MANIFEST).read_bytes())["model"]["checkpoint_sha256"]
        made = artifacts(source)
        if not cache.fetch(key, made, folder / "onnx"):
            for path in (source / "onnx").iterdir():
                shutil.copyfile(path, folder / "onnx" / path.name)
            cache.keep(key, made, folder / "onnx")
        for name in bundle.tree(source):
            if not name.startswith("onnx/"):
                (folder / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(source / name, folder / name)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    place, rounds, most_bytes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    cache = Cache(place / "cache")
    cache.check()
    if most_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    say("ready")
    sources = itertools.cycle(map(Path, sys.argv[4:]))
    for source in itertools.islice(sources, rounds) if rounds else sources:
        try:
            make(source, place, cache)
        except OutputRefused as error:
            say(str(error))
            return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
