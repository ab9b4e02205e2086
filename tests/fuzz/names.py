"""Has commands read documents with nasty names in them, and looks for these on every output.

    python -m tests.fuzz.names --count 1000 [--seed 7]

The exit status is 1 where an output holds what cannot be seen or steers a terminal, a line that a name forged, more or
less than one JSON document after --json, or where a name ended in a bug of ours.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import onnx
import safetensors.torch
import torch

from hydra_export import bundle, cli
from tests import nasty
from tests.fuzz import checkpoints, reader, trees, zips
from tests.fuzz.reader import Random

_BUG = 3
_SHARE_OF_SLOW = 0.02
Arguments = list[str]


@dataclass
class Found:
    """What was wrong, by kind, with one example of each."""

    runs: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: dict[str, str] = field(default_factory=dict)


def drive(names: list[str], place: Path, seed: str = "0", told: Callable[[str], object] = lambda _: None) -> Found:
    """Has commands read documents, archives and graphs with each of the names in them."""
    found = Found()
    for index, name in enumerate(names):
        chance, folder = Random(f"{seed} {index}"), place / str(index)
        folder.mkdir(parents=True)
        text = name.encode("utf-8", "replace").decode()
        for prepared in (_measurements, _profiles, _manifests, _archives):
            _run_all(prepared(chance, text, folder), found, text)
        shutil.rmtree(folder)
        told(f"{index + 1} names, {found.runs} commands")
    return found


def _run_all(prepared: Iterator[tuple[Arguments, list[Path]]], found: Found, name: str) -> None:
    for arguments, written in prepared:
        status, out, err = run(arguments)
        found.runs += 1
        found.statuses[status] += 1
        pages = {path.name: path.read_text(encoding="utf-8") for path in written if path.is_file()}
        problems = [
            *(f"{what}: {each}" for what, text in (("stdout", out), ("stderr", err)) for each in _problems(text, name)),
            *(f"{page}: {each}" for page, text in pages.items() for each in _problems(text, name)),
            *(f"{page}: the name is code" for page, text in pages.items() if "<script>alert" in text),
        ]
        if status == _BUG:
            problems.append("a bug of ours")
        if "--json" in arguments and not _is_one_document(out):
            problems.append("not one JSON document")
        for problem in problems:
            found.wrong.setdefault(f"{arguments[0]}: {problem}", f"{arguments!r}\n{out[-3000:]!r}\n{err[-3000:]!r}")


def run(arguments: Arguments) -> tuple[int, str, str]:
    """A command in this process: its exit status, and what it wrote."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="surrogateescape") for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main(arguments)
    texts = []
    for stream in (out, err):
        stream.flush()
        stream.seek(0)
        texts.append(stream.read())
    return status, texts[0], texts[1]


def _problems(text: str, name: str) -> Iterator[str]:
    if raw := nasty.raw(text):
        yield f"{raw[0]} is raw"
    if "\n" in name.strip() and name.strip() in text:
        yield "the name makes a line of its own"


def _is_one_document(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _measurements(random: Random, text: str, folder: Path) -> Iterator[tuple[Arguments, list[Path]]]:
    for kind, arguments in (
        ("bench", ["profile", "import"]),
        ("browser_times", ["profile", "import"]),
        ("ai_hub", ["profile", "import", "--device", "rpi5", "--heads", "6", "--runtime", "qnn"]),
    ):
        path, own = folder / f"{kind}.json", folder / f"{kind}-profiles"
        own.mkdir()
        path.write_bytes(msgspec.json.encode(_with(random, msgspec.json.decode(reader.get(kind).seeds()[0]), text)))
        yield [*arguments, str(path), "--profiles", str(own), *_form(random)], []


def _profiles(random: Random, text: str, folder: Path) -> Iterator[tuple[Arguments, list[Path]]]:
    own = folder / "own"
    own.mkdir()
    tree = _with(random, tomllib.loads(random.choice(reader.get("device").seeds()).decode()), text)
    tree = {**tree, "id": "own", "name": f"own {text}"} if random.random() < 0.7 else tree
    (own / "own.toml").write_bytes(trees.to_toml(Random(0), tree))
    for asked in (["list"], ["show", "own"], ["--device", "own"]):
        yield ["profile", *asked, "--profiles", str(own), *_form(random)], []


def _manifests(random: Random, text: str, folder: Path) -> Iterator[tuple[Arguments, list[Path]]]:
    changed = folder / "changed"
    shutil.copytree(checkpoints.bundle(), changed)
    _seal(changed, _with(random, msgspec.json.decode((changed / bundle.MANIFEST).read_bytes()), text))
    for kind in ("html", "md"):
        report = folder / f"report.{kind}"
        yield ["report", str(changed), "--format", kind, "--out", str(report), *_form(random)], [report]
    compared = folder / "compared.md"
    against = ["--against", str(changed), "--format", "md", "--out", str(compared)]
    yield ["report", str(checkpoints.bundle()), *against, *_form(random)], [compared]
    if random.random() < _SHARE_OF_SLOW:
        yield ["bench", "--runs", "1", "--bundle", str(changed), *_form(random)], []


def _archives(random: Random, text: str, folder: Path) -> Iterator[tuple[Arguments, list[Path]]]:
    """A name of a file in a bundle, of an operator in a graph, or of a tensor in a checkpoint."""
    files = zips.entries(reader.get("archive").seeds()[0])
    random.choice(files).name = (f"tiny/{text}" if random.random() < 0.8 else text).encode()
    (folder / "bundle.zip").write_bytes(zips.to_bytes(files))
    yield ["verify", str(folder / "bundle.zip"), *_form(random)], []
    changed = folder / "graph"
    shutil.copytree(checkpoints.bundle(), changed)
    _spoil(random, changed / "onnx" / "tiny-k1.onnx", text)
    _seal(changed, msgspec.json.decode((changed / bundle.MANIFEST).read_bytes()))
    yield ["verify", str(changed), *_form(random)], []
    spare = {**checkpoints.plain(), text: torch.zeros(1)}
    safetensors.torch.save_file(spare, folder / "spare.safetensors")
    yield ["evaluate", "--head-dim", "4", "--checkpoint", str(folder / "spare.safetensors"), *_form(random)], []


def _spoil(random: Random, path: Path, text: str) -> None:
    model = onnx.load(path)
    node = random.choice(model.graph.node)
    match random.choice(("op_type", "name", "domain", "input", "metadata")):
        case "metadata":
            model.metadata_props.add(key=f"hydra_export.{text}", value=text)
        case "input":
            node.input[0] = text
        case field:
            setattr(node, field, text)
    path.write_bytes(model.SerializeToString())


def _form(random: Random) -> Arguments:
    return random.choice(([], ["--json"]))


def _with(random: Random, tree: Any, text: str) -> Any:
    """*tree* with *text* in place of one of its texts, or rarely of a key."""
    root = [tree]
    everywhere = trees.places(root)
    inside, key = random.choice([(each, at) for each, at in everywhere if isinstance(each[at], str)])
    if isinstance(inside, dict) and random.random() < 0.2:
        inside[text] = inside.pop(key)
    else:
        inside[key] = text
    return root[0]


def _seal(folder: Path, manifest: Any) -> None:
    """Writes *manifest* with the sizes and hashes of the files that it still lists, and SHA256SUMS."""
    for entry in (*manifest.get("files", ()), *manifest.get("artifacts", ())):
        path = folder / str(entry.get("path")).replace("\0", "")
        with contextlib.suppress(OSError):
            content = path.read_bytes()
            entry["bytes"], entry["sha256"] = len(content), hashlib.sha256(content).hexdigest()
    (folder / bundle.MANIFEST).write_bytes(msgspec.json.encode(manifest))
    listed = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != bundle.SUMS]
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n" for path in listed]
    (folder / bundle.SUMS).write_text("".join(sums))


def _told(text: str) -> None:
    print(f"\r{text}", end="", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.fuzz.names", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="of names (default 1000)")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    place = checkpoints.folder()
    os.environ |= {
        "COLUMNS": "10000",
        "XDG_CONFIG_HOME": str(place / "settings"),
        "XDG_CACHE_HOME": str(place / "cache"),
    }
    start = time.monotonic()
    found = drive(nasty.names(asked.count, asked.seed), place / "names", str(asked.seed), _told)
    statuses = ", ".join(f"{status} {count:,} times" for status, count in sorted(found.statuses.items()))
    print(f"\n{asked.count:,} names, {found.runs:,} commands, {time.monotonic() - start:.0f} s; exit status {statuses}")
    for problem, example in found.wrong.items():
        print(f"== {problem}\n{example}")
    return int(bool(found.wrong))


if __name__ == "__main__":
    sys.exit(main())
