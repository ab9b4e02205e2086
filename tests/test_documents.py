"""JSON and TOML from somewhere else cost no more than they are worth."""

from __future__ import annotations

import re
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from hydra_export import documents

_LIMIT = 64 * 2**20  # and four times the document


def _refused(decode: Callable[[bytes], Any], content: bytes) -> str:
    tracemalloc.start()
    began = time.process_time()
    try:
        with pytest.raises(msgspec.DecodeError) as refused:
            decode(content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < _LIMIT + 4 * len(content)
    assert time.process_time() - began < 5
    return str(refused.value)


_JSON = {
    "brackets": (b"[" * 100_000 + b"]" * 100_000, "nests too deeply"),
    "open brackets": (b"[" * 100_000, "nests too deeply"),
    "objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nests too deeply"),
    "a million numbers": (b"[" + b"1," * 1_000_000 + b"1]", "about 1,000,001 values"),
    "a million keys": (b"{" + b",".join(b'"%d":1' % n for n in range(1_000_000)) + b"}", "values; at most"),
    "empty lists": (b"[" + b"[]," * 500_000 + b"[]]", "values; at most"),
    "a key twice": (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' twice"),
    "a key twice, once escaped": (b'{"a": 1, "\\u0061": 2}', "the key 'a' twice"),
    "a number of 400 digits": (b'{"a": ' + b"9" * 400 + b"}", "integer of 400 digits"),
    "a number of 5,000 digits": (b'{"a": ' + b"9" * 5000 + b"}", "out of range"),
    "a float beyond all": (b'{"a": 1e400}', "out of range"),
    "NaN": (b'{"a": NaN}', "malformed"),
    "Latin-1": (b'{"\xe4": 1}', "not UTF-8"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "malformed"),
    "nothing": (b"", "truncated"),
}


@pytest.mark.parametrize("what", _JSON)
def test_json_that_costs_more_than_it_is_worth_is_refused(what: str) -> None:
    content, reason = _JSON[what]
    assert reason in _refused(documents.decode_json, content)


def test_other_json_is_read_as_its_kind() -> None:
    assert documents.decode_json(b'{"a": [1, -2.5e300, "x", null]}') == {"a": [1, -2.5e300, "x", None]}
    assert documents.decode_json(b'{"1": 0.5}', dict[int, float]) == {1: 0.5}
    with pytest.raises(msgspec.ValidationError, match="Expected `int`"):
        documents.decode_json(b'{"a": "b"}', dict[str, int])


def _toml(content: bytes) -> Any:
    return documents.decode_toml(content, dict)


_TOML = {
    "a key of 100 KB": (b"a." * 50_000 + b"a = 1", "more than 8 parts"),
    "with spaces": (b"a . " * 9 + b"a = 1", "more than 8 parts"),
    "in a header": (b"[" + b"a." * 9 + b"a]", "more than 8 parts"),
    "quoted": (b'"a".' * 9 + b"a = 1", "more than 8 parts"),
    "in a table of one line": (b"x = { " + b"a." * 9 + b"a = 1 }", "more than 8 parts"),
    "behind a text that ends in a quote": (b'x = { b = """a"""", ' + b"a." * 9 + b"a = 1 }", "more than 8 parts"),
    "behind an open text": (b'"""' + b"a." * 9 + b"a = 1", "Unterminated|Unclosed|Expected|Invalid"),
    "headers": (b"".join(b"[a%d.b.c]\n" % n for n in range(30_000)), "values; at most"),
    "tables of one line": (b"x = [" + b"{a.b.c = 1}," * 30_000 + b"]", "values; at most"),
    "brackets": (b"a = " + b"[" * 50_000, "nests too deeply"),
    "tables": (b"a=" + b"{a=" * 20_000, "nests too deeply"),
    "a number of 400 digits": (b"a = " + b"9" * 400, "letters without quotes"),
    "a number of 5,000 digits": (b"a = " + b"9" * 5_000, "letters without quotes"),
    "a hexadecimal one": (b"a = 0x" + b"f" * 9_000, "letters without quotes"),
    "a megabyte and more": (b"#" * (2**20 + 1), "bytes; at most"),
    "a key twice": (b"a = 1\na = 2", "overwrite"),
    "Latin-1": (b'a = "\xe4"', "not UTF-8"),
    "quotes": (b'a = "' + b'\\"' * 200_000, "Unterminated"),
    "texts": (b'"""' * 100_000, ""),
    "an open text": (b'a = """' + b"a" * 1_000_000, "Unterminated|Expected"),
    "an open text of escapes": (b'a = """' + b"\\n" * 500_000, "Unterminated|Expected"),
    "an open text of quotes": (b'a = """' + b'a"a' * 300_000, "Unterminated|Expected"),
    "an open text as it stands": (b"a = '''" + b"a'" * 500_000, "Unterminated|Expected"),
    "a word": (b"a" * 1_000_000, "letters without quotes"),
    "words": ((b"a" * 90 + b"+") * 10_000, "letters without quotes|Expected"),
    "spaces": (b"a" + b" " * 1_000_000, "Expected"),
    "tabs and dots": (b"a" + b"\t." * 7 + b"\t" * 1_000_000, "Invalid"),
}


@pytest.mark.parametrize("what", _TOML)
def test_toml_that_costs_more_than_it_is_worth_is_refused(what: str) -> None:
    content, reason = _TOML[what]
    assert re.search(reason, _refused(_toml, content))


def test_other_toml_is_read() -> None:
    content = b"""
    'a.b.c.d.e.f.g.h.i.j' = "a.b.c.d.e.f.g.h.i.j # 1.2.3.4.5.6.7.8.9.10"
    text = '''
    1.2.3.4.5.6.7.8.9.10 = "'''
    [x.y]  # ..........
    numbers = [1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5]
    """
    decoded = _toml(content)
    assert decoded["a.b.c.d.e.f.g.h.i.j"].endswith("9.10")
    assert decoded["x"]["y"]["numbers"][-1] == 9.5
