"""The files of a package: its manifest, its paths, its weight file."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydra_export import mil
from hydra_export.errors import BadInput, CheckFailed
from tests.mil.conftest import (
    MODEL,
    WEIGHTS,
    add_input,
    add_operation,
    add_output,
    new_model,
    set_type,
    set_value,
    weight_file,
    write_package,
)

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)
NAME = "@model_path/weights/weight.bin"


def adding(dtype: str = "fp32", shape: tuple[int, ...] = (2, 3), offset: int = 64, name: str = NAME) -> Any:
    """A model that adds a weight to what it is given."""
    model, block = new_model()
    add_input(model, "x", dtype, shape)
    operation = block.operations.add(type="const")
    set_value(operation.attributes.add(key="name").value, "weight")
    value = operation.attributes.add(key="val").value
    set_type(value.type, dtype, shape)
    value.blobFileValue.fileName, value.blobFileValue.offset = name, offset
    operation.outputs.add(name="weight").type.CopyFrom(value.type)
    add_operation(block, "add", {"x": "x", "y": "weight"}, [("result", dtype, shape)])
    add_output(model, "result", dtype, shape)
    return model


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return write_package(tmp_path / "a.mlpackage", adding(), weight_file(WEIGHT))


def test_weights_come_from_the_weight_file(package: Path) -> None:
    opened = mil.load(package)
    assert opened.run({"x": np.ones((2, 3), np.float32)})["result"].tolist() == (WEIGHT + 1).tolist()
    assert opened.weight_files == ("Data/com.apple.CoreML/weights/weight.bin",)


@pytest.mark.parametrize(("kind", "dtype"), [("fp16", "f2"), ("fp32", "f4"), ("int32", "i4")])
def test_every_record_of_a_weight_file_is_found(kind: str, dtype: str, tmp_path: Path) -> None:
    first, second = np.zeros(100, np.uint8), WEIGHT.astype(np.dtype(dtype))
    model = adding(kind, offset=64 + 64 + 128)
    opened = mil.load(write_package(tmp_path / "a.mlpackage", model, weight_file(first, second)))
    assert opened.run({"x": np.zeros((2, 3))})["result"].tolist() == WEIGHT.tolist()


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6])
def test_numbers_smaller_than_a_byte_are_unpacked(bits: int, tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).integers(0, 2**bits, 7, np.uint8)
    packed = np.packbits(np.unpackbits(numbers[:, None], axis=1, bitorder="little")[:, :bits], bitorder="little")
    codes = {1: 9, 2: 10, 3: 12, 4: 11, 6: 13}
    content = struct.pack("<II56x", 1, 2)
    unused = packed.size * 8 - 7 * bits
    content += struct.pack("<IIQQQ32x", 0xDEADBEEF, codes[bits], packed.size, 128, unused) + packed.tobytes()
    table = np.arange(2**bits, dtype=np.float32) * 10
    model, block = new_model()
    operation = add_operation(block, "constexpr_lut_to_dense", {}, [("result", "fp32", (7,))])
    value = operation.inputs.add(key="indices").value.arguments.add().value
    set_type(value.type, f"uint{bits}", (7,))
    value.blobFileValue.fileName, value.blobFileValue.offset = NAME, 64
    set_value(operation.inputs.add(key="lut").value.arguments.add().value, table.reshape(1, -1, 1))
    add_output(model, "result", "fp32", (7,))
    opened = mil.load(write_package(tmp_path / "a.mlpackage", model, content))
    assert opened.run({})["result"].tolist() == (numbers * 10.0).tolist()


def test_int4_is_signed(tmp_path: Path) -> None:
    content = struct.pack("<II56x", 1, 2)
    content += struct.pack("<IIQQQ32x", 0xDEADBEEF, 8, 2, 128, 4) + bytes([0x87, 0x0F])
    model, block = new_model()
    operation = add_operation(block, "constexpr_blockwise_shift_scale", {}, [("result", "fp32", (3,))])
    value = operation.inputs.add(key="data").value.arguments.add().value
    set_type(value.type, "int4", (3,))
    value.blobFileValue.fileName, value.blobFileValue.offset = NAME, 64
    set_value(operation.inputs.add(key="scale").value.arguments.add().value, np.array([1], np.float32))
    add_output(model, "result", "fp32", (3,))
    opened = mil.load(write_package(tmp_path / "a.mlpackage", model, content))
    assert opened.run({})["result"].tolist() == [7, -8, -1]


def header(**changes: int) -> bytes:
    """The weight file, its one record header changed."""
    fields = {"mark": 0xDEADBEEF, "number": 2, "size": 24, "start": 128, "unused": 0, **changes}
    content = weight_file(WEIGHT)
    return content[:64] + struct.pack("<IIQQQ32x", *fields.values()) + content[128:]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "too short for a weight file"),
        (weight_file(WEIGHT)[:63], "too short for a weight file"),
        (weight_file(WEIGHT)[:100], "not at a valid position"),
        (weight_file(WEIGHT)[:150], "goes beyond the end"),
        (struct.pack("<II56x", 1, 1) + weight_file(WEIGHT)[64:], "storage version 1"),
        (header(mark=0xDEADBEEE), "is not a weight: its sentinel is 0xdeadbeee"),
        (header(number=1), "contains data of type 1, declared as fp32"),
        (header(number=14), "contains data of type 14"),
        (header(size=23), "has 23 bytes"),
        (header(size=32), "has 32 bytes"),
        (header(size=2**63), "data at 128, which is not a valid position"),
        (header(start=64), "data at 64, which is not a valid position"),
        (header(start=0), "data at 0, which is not a valid position"),
        (header(start=136), "data at 136, which is not a valid position"),
        (header(start=2**63), "which is not a valid position"),
        (header(start=192), "goes beyond the end"),
        (header(unused=1), "has 24 bytes"),
        (header(size=25, unused=8), "has 25 bytes"),
    ],
)
def test_a_damaged_weight_file_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match=message):
        mil.load(write_package(tmp_path / "a.mlpackage", adding(), content))


@pytest.mark.parametrize("offset", [0, 63, 65, 128, 192, 2**40, 2**64 - 64])
def test_a_weight_at_no_record_is_refused(offset: int, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match=f"the weight at {offset} of weight.bin"):
        mil.load(write_package(tmp_path / "a.mlpackage", adding(offset=offset), weight_file(WEIGHT)))


@pytest.mark.parametrize(("dtype", "shape"), [("fp16", (2, 3)), ("fp32", (2, 4)), ("fp32", (7,)), ("int32", (2, 3))])
def test_a_weight_that_is_not_what_was_declared_is_refused(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="the weight at 64"):
        mil.load(write_package(tmp_path / "a.mlpackage", adding(dtype, shape), weight_file(WEIGHT)))


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "weights/weight.bin",
        "@model_path",
        "@model_path/",
        "@model_path/../weights/weight.bin",
        "@model_path/weights/../weights/weight.bin",
        "@model_path/./weights/weight.bin",
        "@model_path//weights/weight.bin",
        "@model_path/weights\\weight.bin",
        "@model_path/weights/weight.bin\0",
        "@model_path/weights",
        "@model_path/weights/none.bin",
        "@model_path/" + "a" * 5000,
    ],
)
def test_a_weight_outside_of_the_package_or_nowhere_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match=r"outside the package|not the path of a file|cannot be read|not a file"):
        mil.load(write_package(tmp_path / "a.mlpackage", adding(name=name), weight_file(WEIGHT)))


def _changed_manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        manifest = json.loads((path / "Manifest.json").read_text())
        change(manifest)
        (path / "Manifest.json").write_text(json.dumps(manifest))

    return edit


def _root(path: str) -> Callable[[Path], None]:
    return _changed_manifest(lambda manifest: manifest["itemInfoEntries"]["id"].update(path=path))


def _linked(relative: Path | str) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        place = path / relative
        elsewhere = path.parent / "elsewhere"
        place.rename(elsewhere)
        place.symlink_to(elsewhere)

    return edit


def _pipe(path: Path) -> None:
    (path / WEIGHTS).unlink()
    os.mkfifo(path / WEIGHTS)


@pytest.mark.parametrize(
    "edit",
    [
        lambda path: (path / "Manifest.json").unlink(),
        lambda path: (path / "Manifest.json").write_text(""),
        lambda path: (path / "Manifest.json").write_text("[]"),
        lambda path: (path / "Manifest.json").write_text("[" * 100_000),
        lambda path: (path / "Manifest.json").write_bytes(b'"\xff"'),
        lambda path: (path / "Manifest.json").write_text(" " * 2**21),
        lambda path: (path / MODEL).unlink(),
        lambda path: (path / WEIGHTS).unlink(),
        _changed_manifest(lambda manifest: manifest.update(fileFormatVersion="2.0.0")),
        _changed_manifest(lambda manifest: manifest.pop("fileFormatVersion")),
        _changed_manifest(lambda manifest: manifest.update(rootModelIdentifier="other")),
        _changed_manifest(lambda manifest: manifest.update(rootModelIdentifier=["id"])),
        _changed_manifest(lambda manifest: manifest.update(itemInfoEntries=[])),
        _changed_manifest(lambda manifest: manifest["itemInfoEntries"].update(id=None)),
        _changed_manifest(lambda manifest: manifest["itemInfoEntries"]["id"].update(path=7)),
        _root(""),
        _root("/etc/passwd"),
        _root("../Manifest.json"),
        _root("com.apple.CoreML/../com.apple.CoreML/model.mlmodel"),
        _root("com.apple.CoreML"),
        _root("com.apple.CoreML/model.mlmodel/"),
        _root("com.apple.CoreML/none"),
        _root("com.apple.CoreML/model.mlmodel\0"),
        _linked("Manifest.json"),
        _linked("Data"),
        _linked(MODEL.parent),
        _linked(MODEL),
        _linked(WEIGHTS.parent),
        _linked(WEIGHTS),
        _pipe,
    ],
)
def test_damaged_files_and_paths_that_lead_elsewhere_are_refused(edit: Callable[[Path], object], package: Path) -> None:
    edit(package)
    with pytest.raises(CheckFailed, match="cannot be evaluated"):
        mil.load(package)


def test_a_package_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file.mlpackage").write_bytes(b"")
    for name in ("none.mlpackage", "file.mlpackage"):
        with pytest.raises(BadInput, match=f"There is no package .*{name}"):
            mil.load(tmp_path / name)


def test_weights_are_read_when_they_are_used(package: Path) -> None:
    """So that opening a package of gigabytes needs no memory."""
    opened = mil.load(package)
    content = bytearray((package / WEIGHTS).read_bytes())
    content[128:132] = struct.pack("<f", 100)
    with (package / WEIGHTS).open("r+b") as file:
        file.write(content)
    assert opened.run({"x": np.zeros((2, 3))})["result"][0, 0] == 100
