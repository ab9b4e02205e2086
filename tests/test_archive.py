"""A bundle as one file: the same bytes wherever it is made, and no harm from one that anybody made."""

from __future__ import annotations

import io
import os
import random
import re
import shutil
import stat
import struct
import subprocess
import time
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hydra_export import archive, files
from hydra_export.cli import main
from hydra_export.errors import BadInput, HydraExportError, VerificationFailed
from hydra_export.verification import verify
from tests.conftest import snapshot

Entry = tuple[zipfile.ZipInfo, bytes]
Change = Callable[[list[Entry]], object]


@pytest.fixture
def packed(folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.zip"
    archive.write(folder, path, "tiny")
    return path


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's temporary folders are made."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    return place


def entries(path: Path) -> list[Entry]:
    with zipfile.ZipFile(path) as source:
        return [(info, source.read(info)) for info in source.infolist()]


def plain(name: str, mode: int = stat.S_IFREG | 0o644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.create_system, info.external_attr = 3, mode << 16
    return info


def rewrite(path: Path, content: list[Entry]) -> None:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as target:
        warnings.filterwarnings("ignore", "Duplicate name")
        for info, data in content:
            target.writestr(info, data)
    path.write_bytes(buffer.getvalue())


def refused(path: Path, temporary: Path) -> str:
    """What verification says of *path*; nothing may be left, nor anything be written elsewhere."""
    before = snapshot(path.parent)
    with pytest.raises(HydraExportError) as caught:
        verify(path)
    assert isinstance(caught.value, VerificationFailed | BadInput)
    assert snapshot(path.parent) == before
    assert list(temporary.iterdir()) == []
    assert str(path) in caught.value.message
    return caught.value.message


def test_an_archive_verifies_as_its_folder_does(folder: Path, packed: Path, temporary: Path) -> None:
    assert verify(packed) == verify(folder)
    assert list(temporary.iterdir()) == []


def test_the_same_bytes_come_out_wherever_the_folder_lies(folder: Path, packed: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "renamed"
    other.parent.mkdir()
    before = os.umask(0o077)
    try:
        # Written in another order, with other modes and times.
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_file():
                (other / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, other / path.relative_to(folder))
                os.utime(other / path.relative_to(folder), (2e9, 2e9))
        archive.write(other, tmp_path / "again.zip", "tiny")
    finally:
        os.umask(before)
    assert files.sha256(tmp_path / "again.zip") == files.sha256(packed)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_other_tools_unpack_it_and_its_sums_are_right(folder: Path, packed: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(packed) as source:
        assert source.testzip() is None
        source.extractall(tmp_path / "out")
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / "out" / "tiny", check=True)
    assert {name: digest for name, (_mode, digest) in snapshot(tmp_path / "out" / "tiny").items()} == {
        name: digest for name, (_mode, digest) in snapshot(folder).items()
    }


def add(name: str, mode: int = stat.S_IFREG | 0o644, data: bytes = b"x") -> Change:
    return lambda content: content.append((plain(name, mode), data))


def rename(name: str) -> Change:
    def change(content: list[Entry]) -> None:
        content[2] = (plain(name), content[2][1])

    return change


def swap(content: list[Entry]) -> None:
    content[0], content[1] = (content[0][0], content[1][1]), (content[1][0], content[0][1])


def without(name: str) -> Change:
    return lambda content: content.remove(next(each for each in content if each[0].filename == name))


def only_folders(content: list[Entry]) -> None:
    content[:] = [(plain("tiny/", stat.S_IFDIR | 0o755), b"")]


def of_another_release(content: list[Entry]) -> None:
    at = [info.filename for info, _data in content].index("tiny/manifest.json")
    content[at] = content[at][0], content[at][1].replace(b'"schema_version": 1', b'"schema_version": 9')


def compress(content: list[Entry]) -> None:
    content[3][0].compress_type = zipfile.ZIP_DEFLATED


def bomb(content: list[Entry]) -> None:
    info = plain("tiny/zeros.bin")
    info.compress_type = zipfile.ZIP_DEFLATED
    content.append((info, bytes(2**26)))


def comment(content: list[Entry]) -> None:
    content[0][0].comment = b"hello"


def extra(content: list[Entry]) -> None:
    content[0][0].extra = struct.pack("<HHI", 0xCAFE, 4, 7)


def later(content: list[Entry]) -> None:
    content[0] = (zipfile.ZipInfo(content[0][0].filename, (2026, 1, 1, 0, 0, 0)), content[0][1])
    content[0][0].external_attr = (stat.S_IFREG | 0o644) << 16


CHANGES: dict[str, tuple[Change, str]] = {
    "parent": (add("tiny/../../evil"), "evil"),
    "parent first": (add("../evil"), "evil"),
    "parent in the middle": (add("tiny/a/../../../evil"), "evil"),
    "absolute": (add("/tmp/evil"), "evil"),
    "drive": (add("C:/evil"), "evil"),
    "backslash": (add("tiny\\..\\evil"), "evil"),
    "backslash inside": (add("tiny/..\\..\\evil"), "evil"),
    "dot": (add("tiny/./evil"), "evil"),
    "double slash": (add("tiny//evil"), "evil"),
    "newline": (add("tiny/ev\nil"), "il"),
    "escape": (add("tiny/\x1b[31mevil"), "evil"),
    "colon": (add("tiny/evil:stream"), "evil"),
    "device of Windows": (add("tiny/CON"), "Windows does not allow the name 'CON'"),
    "device with an ending": (add("tiny/nul.x"), "Windows does not allow the name 'nul.x'"),
    "folder called as a device": (add("tiny/com1/evil"), "Windows does not allow the name 'com1'"),
    "dot at the end": (add("tiny/evil."), "Windows does not allow the name"),
    "space at the end": (add("tiny/evil "), "Windows does not allow the name"),
    "32,767 names": (add("/".join("a" * 32_767)), "at most 1024 characters and 32 names"),
    "1,900 levels": (add("tiny/" + "/".join("a" * 400)), "at most 1024 characters and 32 names"),
    "a long name": (add("tiny/" + "\u00e4" * 130), "at most 255 bytes"),
    "outside of the folder": (add("evil"), "evil"),
    "a second folder": (add("other/evil"), "2 folders"),
    "link": (add("tiny/evil", stat.S_IFLNK | 0o777, b"/etc/passwd"), "evil"),
    "link upwards": (add("tiny/evil", stat.S_IFLNK | 0o777, b"../../.."), "evil"),
    "folder": (add("tiny/evil/", stat.S_IFDIR | 0o755, b""), "evil"),
    "device": (add("tiny/evil", stat.S_IFCHR | 0o644, b""), "evil"),
    "pipe": (add("tiny/evil", stat.S_IFIFO | 0o644, b""), "evil"),
    "no mode": (add("tiny/evil", 0), "evil"),
    "executable": (add("tiny/evil", stat.S_IFREG | 0o755), "evil|headers"),
    "not listed": (add("tiny/evil"), "evil is not listed"),
    "not listed below": (add("tiny/onnx/evil.onnx"), "evil.onnx is not listed"),
    "duplicate": (lambda content: content.append(content[4]), "twice"),
    "duplicate with other content": (add("tiny/manifest.json"), "twice"),
    "case twin": (add("tiny/MANIFEST.JSON"), "capitals"),
    "case twin folder": (add("tiny/ONNX/tiny-k2.onnx"), "capitals"),
    "file and folder": (add("tiny/manifest.json/x"), "a file and a folder"),
    "swapped": (swap, "is damaged"),
    "another order": (lambda content: content.reverse(), "headers"),
    "missing": (lambda content: content.pop(3), "is missing"),
    "no manifest": (without("tiny/manifest.json"), "manifest.json is missing"),
    "no sums": (without("tiny/SHA256SUMS"), "SHA256SUMS is missing"),
    "renamed": (rename("tiny/renamed"), "renamed is not listed|is missing"),
    "compressed": (compress, "compressed"),
    "bomb": (bomb, "zeros.bin' is compressed"),
    "comment": (comment, "headers"),
    "extra field": (extra, "headers"),
    "another time": (later, "headers"),
    "empty": (lambda content: content.clear(), "empty"),
    "only folders": (only_folders, "'tiny/' .*not a plain path"),
    "other schema": (of_another_release, "manifest.json"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_archive_is_refused_and_what_is_wrong_named(packed: Path, temporary: Path, name: str) -> None:
    change, said = CHANGES[name]
    content = entries(packed)
    change(content)
    rewrite(packed, content)
    assert re.search(said, refused(packed, temporary))


def central(content: bytes | bytearray) -> Iterator[int]:
    """Where the entries of the central directory begin."""
    at = content.index(b"PK\x01\x02")
    while content[at : at + 4] == b"PK\x01\x02":
        yield at
        at += 46 + sum(struct.unpack_from("<HHH", content, at + 28))


def local_name(content: bytearray) -> None:
    """The name beside the data is another than that in the directory."""
    content[30:31] = b"T"


def local_size(content: bytearray) -> None:
    struct.pack_into("<II", content, 18, 1, 1)


def huge(content: bytearray) -> None:
    """An entry that says it is four gigabytes."""
    struct.pack_into("<II", content, next(central(content)) + 20, 2**32 - 2, 2**32 - 2)


def overlapping(content: bytearray) -> None:
    """Two entries with the same data: how archives unpack to more than they are."""
    first, second, *_ = central(content)
    content[second + 42 : second + 46] = content[first + 42 : first + 46]


def encrypted(content: bytearray) -> None:
    content[next(central(content)) + 8] |= 1


def offset_outside(content: bytearray) -> None:
    struct.pack_into("<I", content, next(central(content)) + 42, len(content))


def null_in_name(content: bytearray) -> None:
    at = next(central(content)) + 46
    content[at + 5 : at + 6] = b"\0"


DAMAGES: dict[str, Callable[[bytearray], object]] = {
    "local name": local_name,
    "local size": local_size,
    "huge": huge,
    "overlapping": overlapping,
    "encrypted": encrypted,
    "offset outside": offset_outside,
    "null in a name": null_in_name,
    "something before": lambda content: content.__setitem__(slice(0, 0), b"#!/bin/sh\n"),
    "something after": lambda content: content.extend(b"junk"),
    "end missing": lambda content: content.__delitem__(slice(len(content) - 22, None)),
    "two archives": lambda content: content.extend(bytes(content)),
    "half": lambda content: content.__delitem__(slice(len(content) // 2, None)),
    "one byte": lambda content: content.__delitem__(slice(1, None)),
    "nothing": lambda content: content.clear(),
    "text": lambda content: content.__setitem__(slice(None), b"no archive"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_archive_is_refused(packed: Path, temporary: Path, name: str) -> None:
    content = bytearray(packed.read_bytes())
    DAMAGES[name](content)
    packed.write_bytes(content)
    refused(packed, temporary)


@pytest.mark.slow
def test_one_flipped_bit_anywhere_is_found(packed: Path, temporary: Path) -> None:
    good, rng = packed.read_bytes(), random.Random(0)
    directory = good.index(b"PK\x01\x02")
    # In headers beside the data, in data, in the directory, in its end.
    places = [*range(0, 30, 3), *(rng.randrange(directory) for _ in range(30))]
    places += [*(rng.randrange(directory, len(good) - 22) for _ in range(40)), *range(len(good) - 22, len(good), 2)]
    for place in places:
        content = bytearray(good)
        content[place] ^= 1 << rng.randrange(8)
        packed.write_bytes(content)
        refused(packed, temporary)


def test_the_command_verifies_archives(packed: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["verify", str(packed)]) == 0
    assert f"{packed} is whole" in " ".join(capsys.readouterr().out.split())
    packed.write_bytes(packed.read_bytes()[:-1])
    assert main(["verify", str(packed)]) == 1
    assert main(["verify", str(tmp_path / "none.zip")]) == 2
    (tmp_path / "text.zip").write_text("no archive")
    assert main(["verify", str(tmp_path / "text.zip")]) == 2
    assert "is not an archive" in capsys.readouterr().err


def _directory(count: int, each: bytes) -> bytes:
    """An archive that lists one entry *count* times, with the form for many entries."""
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 10, 0, 0, 0, 33, 0, 0, 0, len(each), 0) + each
    entry = struct.pack(
        "<4s6H3I5H2I", b"PK\1\2", 788, 10, 0, 0, 0, 33, 0, 0, 0, len(each), 0, 0, 0, 0, 0o100644 << 16, 0
    )
    listed, at = (entry + each) * count, len(local)
    end = at + len(listed)
    many = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(listed), at)
    many += struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
    return local + listed + many + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)


@pytest.mark.parametrize(
    ("count", "said"), [(200_000, "at most 4,194,304"), (60_000, "60000 entries; at most 10000 are allowed")]
)
def test_a_list_of_entries_is_not_read_where_it_is_too_long(
    tmp_path: Path, temporary: Path, count: int, said: str
) -> None:
    path = tmp_path / "tiny.zip"
    path.write_bytes(_directory(count, b"b/a"))
    tracemalloc.start()
    message = refused(path, temporary)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert said in message
    assert peak < 64 * 2**20 + 4 * path.stat().st_size


def test_a_duplicate_among_many_is_found_at_once(tmp_path: Path, temporary: Path) -> None:
    path = tmp_path / "tiny.zip"
    rewrite(path, [(plain(f"b/{number}"), b"") for number in (*range(9_990), 9_989)])
    began = time.process_time()
    with pytest.raises(VerificationFailed, match="'b/9989' is in it twice"):
        verify(path)
    assert time.process_time() - began < 2


def test_entries_that_share_their_bytes_do_not_unpack_to_more_than_the_archive(tmp_path: Path, temporary: Path) -> None:
    path = tmp_path / "tiny.zip"
    rewrite(path, [(plain("b/0"), bytes(100_000)), *((plain(f"b/{number}"), b"") for number in range(1, 100))])
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\1\2")
    sizes = content[at + 16 : at + 28]  # and the sum
    for _ in range(99):
        at = content.index(b"PK\1\2", at + 4)
        content[at + 16 : at + 28] = sizes
    path.write_bytes(content)
    assert "its entries take 10,000,000 bytes" in refused(path, temporary)
