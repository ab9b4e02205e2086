"""A text file of class names."""

from __future__ import annotations

from pathlib import Path

from hydra_export.commands import choices
from tests.fuzz import trees
from tests.fuzz.reader import Random, Reader


def _seeds() -> list[bytes]:
    return [b"ant\nbee\ncat\n", "\ufeffs\u00e4ge\r\n\u732b\r\n\r\nT-shirt/top\r\n".encode()]


def _mutate(random: Random, content: bytes) -> bytes:
    lines: list[str] = trees.mutate(random, content.decode().splitlines(keepends=True))
    texts = [str(line) for line in lines] if isinstance(lines, list) else [str(lines)]
    text = random.choice(("", "\n", "\r", "\v", "\f", "\x85", "\u2028")).join(texts)
    return trees.bruise(random, text.encode("utf-8", "surrogatepass"), 0.2)


def _parse(content: bytes) -> None:
    content.decode()


def _read(path: Path) -> None:
    choices._labels(path)


READER = Reader(_seeds, _mutate, _parse, _read, ".txt")
