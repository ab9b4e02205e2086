"""Changes packages at random and opens and runs each mutant: a program, for a process of its own.

    python tests/mil/mutants.py SEED COUNT PACKAGE...

It prints one JSON document: how many mutants were refused, ran to the same result or to another one, and every way in
which one did something else: an exception of another type, or more than SECONDS of the processor's time.
"""

from __future__ import annotations

import collections
import json
import random
import shutil
import signal
import struct
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hydra_export import mil
from hydra_export.errors import HydraExportError
from hydra_export.mil.proto import model_class
from tests.fuzz import protobufs
from tests.fuzz.trees import bruise

SECONDS = 10
LIMITS = mil.Limits(live_elements=2**22, macs=2**32, operations=5000, spec_bytes=2**24)
MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
MANIFEST = "Manifest.json"


class TooSlow(Exception):
    """A mutant took more than SECONDS of the processor's time: how busy the machine is says nothing of it."""


def mutate_weights(content: bytearray, rng: random.Random) -> None:
    """Changes a header, cuts the file, or changes any byte."""
    marks = [at for at in range(64, len(content) - 64, 64) if content[at : at + 4] == b"\xef\xbe\xad\xde"]
    choice = rng.random()
    if choice < 0.7 and marks:
        at, kind, offset = rng.choice(marks), *rng.choice([("<I", 0), ("<I", 4), ("<Q", 8), ("<Q", 16), ("<Q", 24)])
        (old,) = struct.unpack_from(kind, content, at + offset)
        number = rng.choice([old - 1, old + 1, old + 64, old * 2, *protobufs.NUMBERS]) % 2 ** (
            8 * struct.calcsize(kind)
        )
        struct.pack_into(kind, content, at + offset, number)
    elif choice < 0.8:
        del content[rng.randrange(len(content)) :]
    elif choice < 0.9:
        struct.pack_into("<II", content, 0, rng.randrange(2**32), rng.choice([0, 1, 2, 3]))
    else:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def mutate_manifest(text: str, rng: random.Random) -> bytes:
    """Changes one value of the JSON, or its bytes."""
    if rng.random() < 0.3:
        return bruise(rng, text.encode())
    manifest = json.loads(text)
    place = rng.choice([manifest, manifest["itemInfoEntries"], *manifest["itemInfoEntries"].values()])
    values: list[Any] = [None, 0, 2**70, "", "..", "/", "com.apple.CoreML", [], {}, place, [[]] * 100, "\0", "a" * 5000]
    place[rng.choice([*place, "new"])] = rng.choice(values[:-4] if rng.random() < 0.5 else [*values[:9], *values[10:]])
    return json.dumps(manifest).encode()


class Base:
    """A package that opens and runs, and what it gives."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.path = folder / path.name
        shutil.copytree(path, self.path)
        self.model = model_class()()
        self.content = {name: (self.path / name).read_bytes() for name in (MODEL, WEIGHTS, MANIFEST)}
        self.model.ParseFromString(self.content[MODEL])
        self.results = run(self.path)

    def try_mutant(self, rng: random.Random) -> str:
        """What became of one mutant."""
        files = changed(self.model, self.content, rng)
        for name, content in files.items():
            (self.path / name).write_bytes(content)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            results = run(self.path)
        except HydraExportError:
            return "refused"
        except BaseException as error:  # noqa: BLE001 (what else it may raise is the question)
            return f"{type(error).__name__}: {str(error)[:300]}"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            for name in files:
                (self.path / name).write_bytes(self.content[name])
        return "same" if equal(results, self.results) else "other"


def changed(model: Any, content: Mapping[str, bytes], rng: random.Random) -> dict[str, bytes]:
    """The content of the files that are to change, of a package of *content* whose model is *model*."""
    choice = rng.random()
    if choice < 0.7:
        other = type(model)()
        other.CopyFrom(model)
        protobufs.mutate(rng, other)
        return {MODEL: other.SerializeToString()}
    if choice < 0.8:
        return {MODEL: bruise(rng, content[MODEL])}
    if choice < 0.92:
        weights = bytearray(content[WEIGHTS])
        mutate_weights(weights, rng)
        return {WEIGHTS: bytes(weights)}
    return {MANIFEST: mutate_manifest(content[MANIFEST].decode(), rng)}


def run(path: Path) -> list[Any]:
    """Every output of every function, for inputs that are always the same."""
    package = mil.load(path, LIMITS)
    found = []
    for name in sorted(package.functions):
        declared = package.functions[name].inputs
        inputs = {each: np.random.default_rng(0).random(kind.shape) * 9 for each, kind in declared.items()}
        outputs = package.run(inputs, name, "fp16")
        found += [outputs[each] for each in sorted(outputs)]
    return found


def equal(one: list[Any], other: list[Any]) -> bool:
    pairs = zip(one, other, strict=False)
    return len(one) == len(other) and all(
        np.array_equal(a, b, equal_nan=True) if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) else a == b
        for a, b in pairs
    )


def too_slow(*_: object) -> None:
    raise TooSlow(f"more than {SECONDS} s")


def main(seed: int, count: int, paths: list[str]) -> None:
    warnings.simplefilter("error")
    signal.signal(signal.SIGPROF, too_slow)
    fates: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        bases = [Base(Path(path), Path(folder)) for path in paths]
        for index in range(count):
            rng = random.Random(f"{seed} {index}")
            fate = bases[index % len(bases)].try_mutant(rng)
            fates[fate if fate in ("refused", "same", "other") else f"mutant {index}: {fate}"] += 1
    print(json.dumps(fates))  # noqa: T201 (the answer)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
