"""What a reader under test is. Each file in readers/ has one, and its name is the reader's."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

Random = random.Random
_FOUND = Path(__file__).with_name("found")


@dataclass(frozen=True)
class Reader:
    """Reads what somebody else wrote.

    Attributes:
        seeds: inputs that it accepts. They are mutated, and so are those that once were trouble.
        mutate: another input, made of one; the same for the same state of the generator.
        parse: raises where an input is not even well-formed, by another implementation of the format where there is
            one. What it takes has to be judged by the reader's own checks, and most mutants should come that far.
        read: gives the file at a path to the reader.
        suffix: of the file's name.
        needs: bytes that an input may take on top, by what it says of itself, such as an image by its size.
    """

    seeds: Callable[[], Sequence[bytes]]
    mutate: Callable[[Random, bytes], bytes]
    parse: Callable[[bytes], object]
    read: Callable[[Path], object]
    suffix: str = ""
    needs: Callable[[bytes], int] = lambda _content: 0


def names() -> list[str]:
    """Every reader."""
    return sorted(path.stem for path in Path(__file__).with_name("readers").glob("*.py"))


def get(name: str) -> Reader:
    """The reader called *name*; what its package lacks is imported only now."""
    reader: Reader = importlib.import_module(f"tests.fuzz.readers.{name}").READER
    return reader


def found(name: str) -> list[Path]:
    """The inputs that once were trouble for the reader *name*."""
    return sorted(path for path in (_FOUND / name).glob("*") if path.is_file())
