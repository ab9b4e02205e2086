"""Changes .npy files where their header is still a dictionary.

Source of the layout: numpy.lib.format, "Format Version 1.0".
"""

from __future__ import annotations

import ast
import struct
from typing import Any

from tests.fuzz.reader import Random

_DESCRS: list[Any] = [
    "<f4",
    "<f8",
    "|u1",
    ">f4",
    "<f2",
    "|b1",
    "|O",
    "|V0",
    "<U0",
    "|S0",
    "<U999999999",
    "|V2147483647",
]
_DESCRS += ["<M8[ns]", "<c16", "x", "", 3, [("a", "<f4")], [("a", "<f4", (2**31,))], [("a", "|V0")], "|i1" * 300]
_SIZES = [0, 1, 2, -1, 7, 2**16, 2**31, 2**40, 2**63, 10**30, True, 1.5, None]


def mutate(random: Random, content: bytes) -> bytes:
    """An array whose header says something else, or whose numbers are others."""
    header_bytes = struct.unpack_from("<H", content, 8)[0]
    header, data = ast.literal_eval(content[10 : 10 + header_bytes].decode("latin1")), content[10 + header_bytes :]
    choice, version, padding = random.random(), (1, 0), b""
    if choice < 0.3:
        header["shape"] = _shape(random, header["shape"])
    elif choice < 0.45:
        header["descr"] = random.choice(_DESCRS)
    elif choice < 0.55:
        header[random.choice(["fortran_order", "shape", "descr", "x"])] = random.choice([True, False, None, 1, (), "x"])
    elif choice < 0.65:
        version = random.choice([(2, 0), (3, 0), (0, 0), (1, 1), (9, 9)])
    elif choice < 0.85:
        data = _numbers(random, data)
    elif choice < 0.9:
        padding = b" " * random.choice((64, 9_000, 60_000))
    else:
        data = random.choice([data[:-1], data + b"\0", data[: len(data) // 2], b"", data + data])
    text = repr(header).encode("latin1", "replace")
    if random.random() < 0.05:
        text = random.choice(
            [b"(" * 90 + b")" * 90, b"{" + b"'a':1," * 1500 + b"}", b"-" * 900 + b"1", b"[" * 5000, b"\0", text[:-1]]
        )
    text += padding + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version < (2, 0) else "<I", len(text)) + text + data


def _shape(random: Random, shape: tuple[int, ...]) -> Any:
    at = random.randrange(len(shape)) if shape else 0
    other = [*shape[:at], random.choice(_SIZES), *shape[at + 1 :]]
    return random.choice(
        [tuple(other), tuple(other), tuple(other), (*shape, 1), shape[1:], shape[::-1], other, (1,) * 40]
    )


def _numbers(random: Random, data: bytes) -> bytes:
    if len(data) < 8:
        return data
    at = random.randrange(0, len(data) - 7, 4)
    numbers = [
        bytes(8),
        b"\xff" * 8,
        *(struct.pack("<d", x) for x in (float("nan"), float("inf"), 1e308, 1e-320, 1e30)),
    ]
    numbers += [struct.pack("<ff", x, x) for x in (float("nan"), float("-inf"), 1e38, 1e-30)]
    return data[:at] + random.choice(numbers) + data[at + 8 :]
