"""JSON and TOML that somebody else may have written: what they hold is counted before it is decoded."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn, TypeVar, overload

import msgspec

from hydra_export.files import MIB

JSON_BYTES = 8 * MIB
TOML_BYTES = MIB
# Decoded, a value takes up to 125 bytes in JSON, and 1,000 in TOML: tomllib keeps three dicts for each part of a key.
_JSON_VALUES = 400_000
_TOML_VALUES = 60_000
_KEY_PARTS = 8  # tomllib's work grows with their square; a profile has two
_INT_DIGITS = 20  # of 64 bits, with a sign
_WORD_LETTERS = 100  # of keys and numbers without quotes: no number of so many digits overflows a float
# Every alternative takes what it begins to the end: none is tried again from a later place.
_TOML_TEXT = re.compile(
    r'"""(?:[^"\\]++|\\.|"(?!""))*+(?:"{3,5})?'
    r"|'''.*?(?:'{3,5}|\Z)"
    r'|"(?:[^"\\\n]++|\\.)*+"?'
    r"|'[^'\n]*+'?"
    r"|#[^\n]*+",
    re.DOTALL,
)
_LONG_KEY = re.compile(rf"(?:[\w-]*+\.){{{_KEY_PARTS}}}")
_LONG_WORD = re.compile(rf"[\w+-]{{{_WORD_LETTERS + 1}}}")
_Kind = TypeVar("_Kind")


@overload
def decode_json(content: bytes, kind: type[_Kind], most_values: int = ...) -> _Kind: ...
@overload
def decode_json(content: bytes, kind: None = None, most_values: int = ...) -> Any: ...
def decode_json(content: bytes, kind: Any = None, most_values: int = _JSON_VALUES) -> Any:
    """What a JSON document says, as *kind* where one is given.

    Raises:
        msgspec.DecodeError: it is not such a document, contains too much, nests too deeply, or has a key twice, which
            readers understand in different ways.
    """
    _check_count(sum(map(content.count, (b",", b":", b"[", b"{"))), most_values)
    try:
        document = msgspec.json.decode(content, type=Any if kind is None else kind)
        json.loads(content, object_pairs_hook=_check_keys, parse_int=_check_int, parse_constant=_refuse)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(_reason(error)) from error
    return document


def decode_toml(content: bytes, kind: type[_Kind]) -> _Kind:
    """What a TOML document says, as *kind*.

    Raises:
        msgspec.DecodeError: it is not such a document, contains too much, or nests too deeply.
    """
    if len(content) > TOML_BYTES:
        raise msgspec.DecodeError(f"it has {len(content):,} bytes; at most {TOML_BYTES:,} are allowed")
    try:
        bare = _TOML_TEXT.sub("", content.decode()).replace(" ", "").replace("\t", "")
        _check_count(sum(map(bare.count, ".=[{,")), _TOML_VALUES)
        if long := _LONG_WORD.search(bare):  # before keys, which are looked for from each of their letters
            raise msgspec.DecodeError(f"{long[0][:20]}... has more than {_WORD_LETTERS} letters without quotes")
        if _LONG_KEY.search(bare):
            raise msgspec.DecodeError(f"a key has more than {_KEY_PARTS} parts")
        return msgspec.toml.decode(content, type=kind)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(_reason(error)) from error


def _check_count(count: int, most: int) -> None:
    if count > most:
        raise msgspec.DecodeError(f"it contains about {count:,} values; at most {most:,} are allowed")


def _check_keys(pairs: list[tuple[str, object]]) -> None:
    if len(dict(pairs)) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise msgspec.DecodeError(f"it has the key {twice[:80]!r} twice")


def _check_int(digits: str) -> None:
    if len(digits) > _INT_DIGITS:
        raise msgspec.DecodeError(f"it contains an integer of {len(digits)} digits")


def _refuse(name: str) -> NoReturn:
    raise msgspec.DecodeError(f"{name} is not a number")


def _reason(error: Exception) -> str:
    return "it nests too deeply" if isinstance(error, RecursionError) else f"it is not UTF-8: {error}"
