"""Zip archives taken apart into headers and contents, changed there, and put together with offsets that fit.

Source of the layout: PKWARE's APPNOTE.TXT, sections 4.3.7, 4.3.12 and 4.3.16.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tests.fuzz.reader import Random
from tests.fuzz.trees import bruise

_LOCAL, _CENTRAL, _END = "<4s5H3I2H", "<4s6H3I5H2I", "<4s4H2IH"
# Where the fields that both headers have stand in each, after the signature.
_SHARED = {"version": 0, "flags": 1, "method": 2, "time": 3, "date": 4, "crc": 5, "packed": 6, "size": 7}
_NUMBERS = [0, 1, 2, 8, 9, 12, 93, 99, 0x800, 0xFFFE, 0xFFFF, 2**20, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1]
_NAMES = [b"", b".", b"..", b"/", b"a", b"../x", b"a/../x", b"/etc/x", b"C:\\x", b"a\0b", b"\xff\xfe", b"a/" * 5000]
_NAMES += [
    b"x" * 65535,
    b"a" + b"/b" * 32000,
    "\u202ex".encode(),
    b"CON",
    b"a/NUL.x",
    b"a/x.",
    b"a/b\nc",
    b"a//b",
    b"a/./b",
]
ChangeContent = Callable[[Random, str, bytes], bytes]


@dataclass
class Entry:
    """One file: its name, its bytes as they are stored, and the numbers of both of its headers."""

    name: bytes
    content: bytes
    numbers: dict[str, int]
    local: dict[str, int] = field(default_factory=dict)  # where the local header says something else
    local_name: bytes | None = None
    extra: bytes = b""
    comment: bytes = b""


def entries(archive: bytes) -> list[Entry]:
    """The files of a good archive, in the order of its directory."""
    end = archive.rindex(b"PK\5\6")
    count, at = struct.unpack_from("<H", archive, end + 10)[0], struct.unpack_from("<I", archive, end + 16)[0]
    found = []
    for _ in range(count):
        values = struct.unpack_from(_CENTRAL, archive, at)
        name_size, extra_size, comment_size, start = values[10], values[11], values[12], values[16]
        name = archive[at + 46 : at + 46 + name_size]
        skipped = 30 + sum(struct.unpack_from("<2H", archive, start + 26))
        numbers = {key: values[2 + place] for key, place in _SHARED.items()}
        numbers |= {"made_by": values[1], "inner": values[14], "attributes": values[15]}
        found.append(Entry(name, archive[start + skipped : start + skipped + numbers["packed"]], numbers))
        at += 46 + name_size + extra_size + comment_size
    return found


def to_bytes(files: list[Entry], end: dict[str, int] | None = None, tail: bytes = b"") -> bytes:
    """The archive of *files*; *end* and *tail* change what stands at its end."""
    archive, directory = bytearray(), bytearray()
    for each in files:
        both, offset = each.numbers, len(archive)
        here = {**both, **each.local}
        name = each.name if each.local_name is None else each.local_name
        own, central = ([_fitting(key, of[key]) for key in _SHARED] for of in (here, both))
        archive += struct.pack(_LOCAL, b"PK\3\4", *own, len(name), len(each.extra)) + name + each.extra + each.content
        offset = both.get("offset", offset) % 2**32
        sizes = len(each.name), len(each.extra), len(each.comment)
        rest = 0, both["inner"] % 2**16, both["attributes"] % 2**32, offset
        directory += struct.pack(_CENTRAL, b"PK\1\2", both["made_by"] % 2**16, *central, *sizes, *rest)
        directory += each.name + each.extra + each.comment
    ending = {
        "disk": 0,
        "first": 0,
        "here": len(files),
        "all": len(files),
        "size": len(directory),
        "start": len(archive),
    }
    numbers = [
        value % 2 ** (32 if key in ("size", "start") else 16) for key, value in {**ending, **(end or {})}.items()
    ]
    return bytes(archive + directory + struct.pack(_END, b"PK\5\6", *numbers, len(tail) % 2**16) + tail)


def _fitting(key: str, number: int) -> int:
    return number % 2 ** (32 if key in ("crc", "packed", "size") else 16)


def with_content(entry: Entry, content: bytes) -> Entry:
    """*entry* holding other bytes, stored, with headers that fit."""
    fitting = {"crc": zlib.crc32(content), "packed": len(content), "size": len(content), "method": 0}
    return replace(entry, content=content, numbers={**entry.numbers, **fitting})


def mutate(random: Random, archive: bytes, change_content: ChangeContent | None = None, share: float = 0.0) -> bytes:
    """An archive with other headers, or, in a *share* of cases, with other content below headers that fit."""
    files, end, tail = entries(archive), dict[str, int](), b""
    for _ in range(random.choice((1, 1, 2, 3))):
        at = random.randrange(len(files)) if files else -1
        if at >= 0 and change_content is not None and random.random() < share:
            each = files[at]
            files[at] = with_content(each, change_content(random, each.name.decode("utf-8", "replace"), each.content))
            continue
        choice = random.random()
        if choice < 0.1:
            end[random.choice(("disk", "first", "here", "all", "size", "start"))] = random.choice(_NUMBERS)
        elif choice < 0.15:
            tail = random.choice((b"x", b"PK\5\6" + bytes(18), b"x" * 70_000))
        elif at >= 0:
            _change_entry(random, files, at)
    return bruise(random, to_bytes(files, end, tail), 0.03)


def _change_entry(random: Random, files: list[Entry], at: int) -> None:
    each, choice = files[at], random.random()
    names = [*_NAMES, *(other.name for other in files), each.name + b"/x", each.name.upper(), each.name + b"."]
    if choice < 0.3:
        each.name = random.choice(names)
    elif choice < 0.35:
        each.local_name = random.choice(names)
    elif choice < 0.55:
        numbers = each.numbers if random.random() < 0.6 else each.local
        key = random.choice([*_SHARED, "made_by", "inner", "attributes", "offset"])
        old = each.numbers.get(key, 0)
        numbers[key] = random.choice([old + 1, old - 1, old * 2, old ^ 1, *_NUMBERS])
        if key == "attributes":
            kind = random.choice((0o040000, 0o120000, 0o010000, 0o060000, 0o100000))
            numbers[key] = (kind | random.randrange(0o10000)) << 16
    elif choice < 0.65:
        extra = random.choice((b"", b"\1\0\x10\0" + b"\xff" * 16, b"\1\0\xff\xff", b"\x75\x70\5\0\1abcd", b"x" * 3))
        each.extra, each.comment = (extra, each.comment) if random.random() < 0.6 else (each.extra, extra)
    elif choice < 0.75:
        del files[at]
    elif choice < 0.85:
        files.insert(random.randrange(len(files) + 1), replace(each, numbers=dict(each.numbers)))
    elif choice < 0.9:
        random.shuffle(files)
    elif choice < 0.93:
        copies = random.choice((10, 300))
        files += [replace(each, name=b"%s%d" % (each.name, number)) for number in range(copies)]
    else:
        packed = zlib.compress(each.content, 9)[2:-4]
        each.content, each.numbers = packed, {**each.numbers, "method": 8, "packed": len(packed)}
