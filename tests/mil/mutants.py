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
from pathlib import Path
from typing import Any

import numpy as np

from hydra_export import mil
from hydra_export.errors import HydraExportError
from hydra_export.mil.proto import model_class

SECONDS = 10
LIMITS = mil.Limits(live_elements=2**22, macs=2**32, operations=5000, spec_bytes=2**24)
MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
MANIFEST = "Manifest.json"
NUMBERS = [0, 1, -1, 2, 3, 4, 7, 10, 11, 21, 23, 31, 64, 127, 128, 255, 2**15, 2**16, 2**31 - 1, -(2**31), 2**31, 2**32]
NUMBERS += [2**40, 2**53, 2**62, 2**63 - 1, -(2**63), 2**63, 2**64 - 1]
TEXTS = [
    "",
    "x",
    "main",
    "const",
    "add",
    "reshape",
    "matmul",
    "linear",
    "CoreML5",
    "CoreML8",
    "@model_path/../x",
    "\0",
    "é" * 300,
]


class TooSlow(Exception):
    """A mutant took more than SECONDS of the processor's time: how busy the machine is says nothing of it."""


def messages(message: Any) -> list[Any]:
    """*message* and all within it, but the elements of long lists."""
    found, index = [message], 0
    while index < len(found):
        for descriptor, value in found[index].ListFields():
            if descriptor.type == descriptor.TYPE_MESSAGE:
                found += list(value)[:50] if hasattr(value, "add") else [value]
        index += 1
    return found


def mutate_model(model: Any, rng: random.Random) -> None:
    """Changes one field of one message."""
    every = messages(model)
    message = rng.choice(every)
    descriptor = rng.choice(list(message.DESCRIPTOR.fields) or [None])
    if descriptor is None:
        return
    value = getattr(message, descriptor.name)
    if descriptor.is_repeated:
        mutate_list(value, descriptor, every, rng)
    elif descriptor.type == descriptor.TYPE_MESSAGE:
        like = [each for each in every if each.DESCRIPTOR is descriptor.message_type]
        choice = rng.random()
        if choice < 0.2 or not like:
            message.ClearField(descriptor.name)
        elif choice < 0.3:
            value.SetInParent()
        else:
            copy = type(value)()
            copy.CopyFrom(rng.choice(like))
            value.CopyFrom(copy)
    else:
        setattr(message, descriptor.name, scalar(descriptor, every, rng, value))


def mutate_list(values: Any, descriptor: Any, every: list[Any], rng: random.Random) -> None:
    choice = rng.random()
    is_message = descriptor.type == descriptor.TYPE_MESSAGE
    if len(values) and choice < 0.25:
        del values[rng.randrange(len(values))]
    elif len(values) > 1 and choice < 0.5:
        one, other = rng.sample(range(len(values)), 2)
        if is_message:
            first, second = type(values[0])(), type(values[0])()
            first.CopyFrom(values[one])
            second.CopyFrom(values[other])
            values[one].CopyFrom(second)
            values[other].CopyFrom(first)
        else:
            values[one], values[other] = values[other], values[one]
    elif is_message:
        like = [each for each in every if each.DESCRIPTOR is descriptor.message_type]
        added = values.add()
        if like and choice < 0.9:
            copy = type(added)()
            copy.CopyFrom(rng.choice(like))
            added.CopyFrom(copy)
    elif len(values) and choice < 0.9:
        at = rng.randrange(len(values))
        values[at] = scalar(descriptor, every, rng, values[at])
    else:
        values.append(scalar(descriptor, every, rng, None))


def scalar(descriptor: Any, every: list[Any], rng: random.Random, old: Any) -> Any:
    """A value for a field: one near the old one, one at a boundary, or one that stands elsewhere."""
    if descriptor.type == descriptor.TYPE_STRING:
        texts = [value for each in every for kind, value in each.ListFields() if kind.type == kind.TYPE_STRING]
        return rng.choice([text for text in texts if isinstance(text, str)] + TEXTS)
    if descriptor.type == descriptor.TYPE_BYTES:
        content = bytearray(old or b"")
        if content and rng.random() < 0.5:
            content[rng.randrange(len(content))] = rng.randrange(256)
        else:
            content = bytearray(rng.randbytes(rng.choice([0, 1, 2, len(content), len(content) + 1, 100])))
        return bytes(content)
    if descriptor.type == descriptor.TYPE_BOOL:
        return not old
    if descriptor.type in (descriptor.TYPE_FLOAT, descriptor.TYPE_DOUBLE):
        return rng.choice([0.0, -1.0, 1e-30, 1e30, float("inf"), float("nan")])
    low, high = {
        descriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
        descriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
        descriptor.TYPE_UINT64: (0, 2**64 - 1),
    }[descriptor.type]
    fitting = [number for number in NUMBERS if low <= number <= high]
    near = (old or 0) + rng.choice([-64, -1, 1, 64])
    return rng.choice([near if low <= near <= high else low, rng.choice(fitting)])


def mutate_weights(content: bytearray, rng: random.Random) -> None:
    """Changes a header, cuts the file, or changes any byte."""
    marks = [at for at in range(64, len(content) - 64, 64) if content[at : at + 4] == b"\xef\xbe\xad\xde"]
    choice = rng.random()
    if choice < 0.7 and marks:
        at, kind, offset = rng.choice(marks), *rng.choice([("<I", 0), ("<I", 4), ("<Q", 8), ("<Q", 16), ("<Q", 24)])
        (old,) = struct.unpack_from(kind, content, at + offset)
        number = rng.choice([old - 1, old + 1, old + 64, old * 2, *NUMBERS]) % 2 ** (8 * struct.calcsize(kind))
        struct.pack_into(kind, content, at + offset, number)
    elif choice < 0.8:
        del content[rng.randrange(len(content)) :]
    elif choice < 0.9:
        struct.pack_into("<II", content, 0, rng.randrange(2**32), rng.choice([0, 1, 2, 3]))
    else:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def mutate_bytes(content: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 1, 2, 8])):
        choice, at = rng.random(), rng.randrange(len(content))
        if choice < 0.5:
            content[at] = rng.randrange(256)
        elif choice < 0.7:
            del content[at : at + rng.choice([1, 2, 100])]
        elif choice < 0.9:
            content[at:at] = content[at : at + rng.choice([1, 10, 100])]
        else:
            del content[at:]
        if not content:
            return


def mutate_manifest(text: str, rng: random.Random) -> bytes:
    """Changes one value of the JSON, or its bytes."""
    if rng.random() < 0.3:
        content = bytearray(text.encode())
        mutate_bytes(content, rng)
        return bytes(content)
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
        changed = self.mutant(rng)
        for name, content in changed.items():
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
            for name in changed:
                (self.path / name).write_bytes(self.content[name])
        return "same" if equal(results, self.results) else "other"

    def mutant(self, rng: random.Random) -> dict[str, bytes]:
        """The content of the files that are to change."""
        choice = rng.random()
        if choice < 0.7:
            model = type(self.model)()
            model.CopyFrom(self.model)
            for _ in range(rng.choice([1, 1, 1, 2, 4])):
                mutate_model(model, rng)
            return {MODEL: model.SerializeToString()}
        if choice < 0.8:
            content = bytearray(self.content[MODEL])
            mutate_bytes(content, rng)
            return {MODEL: bytes(content)}
        if choice < 0.92:
            content = bytearray(self.content[WEIGHTS])
            mutate_weights(content, rng)
            return {WEIGHTS: bytes(content)}
        return {MANIFEST: mutate_manifest(self.content[MANIFEST].decode(), rng)}


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
