"""What files say of themselves, read as others read it."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from pathlib import Path

import msgspec
import pytest

from hydra_export.preprocess import Preprocessing
from hydra_export.target import ExportSpec
from hydra_export.targets.tflite import metadata, reader
from tests.targets.conftest import MakeCheckpoint
from tests.targets.tflite.conftest import TFLITE, MakeFile


class Table:
    """A table of any schema, read through flatbuffers' own code."""

    def __init__(self, data: bytes, at: int) -> None:
        from flatbuffers.table import Table as Flat  # type: ignore[import-untyped]

        self._table, self._data = Flat(data, at), data

    def _at(self, slot: int) -> int:
        offset = self._table.Offset(4 + 2 * slot)
        assert offset, f"slot {slot} is empty"
        return int(self._table.Pos + offset)

    def has(self, slot: int) -> bool:
        return bool(self._table.Offset(4 + 2 * slot))

    def text(self, slot: int) -> str:
        return str(self._table.String(self._at(slot)).decode())

    def byte(self, slot: int) -> int:
        return self._data[self._at(slot)]

    def number(self, slot: int) -> int:
        return int.from_bytes(self._data[self._at(slot) : self._at(slot) + 4], "little")

    def table(self, slot: int) -> Table:
        return Table(self._data, self._table.Indirect(self._at(slot)))

    def tables(self, slot: int) -> list[Table]:
        start, length = self._vector(slot)
        return [Table(self._data, self._table.Indirect(start + 4 * i)) for i in range(length)]

    def floats(self, slot: int) -> list[float]:
        from flatbuffers.number_types import Float32Flags  # type: ignore[import-untyped]

        start, length = self._vector(slot)
        return [self._table.Get(Float32Flags, start + 4 * i) for i in range(length)]

    def _vector(self, slot: int) -> tuple[int, int]:
        offset = self._table.Offset(4 + 2 * slot)
        return self._table.Vector(offset), self._table.VectorLen(offset)


def for_android(path: Path) -> Table:
    model = reader.read(path)
    content = model.content(model.metadata["TFLITE_METADATA"])
    assert content[4:8] == b"M001"
    return Table(content, int.from_bytes(content[:4], "little"))


def entries(path: Path) -> dict[str, bytes]:
    model = reader.read(path)
    return {name: model.content(buffer) for name, buffer in model.metadata.items()}


def test_our_own_entries_say_what_the_file_is(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    for k, artifact in zip((1, 4), TFLITE.write(checkpoint, (1, 4), ExportSpec(), tmp_path), strict=True):
        said = {name: content.decode() for name, content in entries(tmp_path / artifact.path).items() if "." in name}
        assert said["hydra_export.model"] == "tiny"
        assert said["hydra_export.heads"] == str(k)
        assert json.loads(said["hydra_export.labels"]) == [f"class {i}" for i in range(7)]
        data = msgspec.json.decode(said["hydra_export.preprocessing"], type=Preprocessing)
        assert data == checkpoint.info.preprocessing
        assert said["hydra_export.checkpoint_sha256"] == checkpoint.sha256
        assert said["hydra_export.license"] == "CC0-1.0"


def test_runtimes_are_told_which_release_they_must_be(written: MakeFile) -> None:
    assert entries(written())["min_runtime_version"] == b"2.9.0".ljust(16, b"\0")


@pytest.mark.parametrize(
    ("form", "mean", "std"),
    [("tensor", [102.0, 127.5, 153.0], [51.0, 76.5, 102.0]), ("image", [0.0], [1.0])],
)
def test_android_is_told_how_to_normalise_pixels(
    written: MakeFile, form: str, mean: list[float], std: list[float]
) -> None:
    said = for_android(written(input=form))
    assert said.text(0) == "tiny-k2"
    assert said.text(5) == "CC0-1.0"
    (graph,) = said.tables(3)
    (image,) = graph.tables(2)
    assert image.text(0) == "image"
    assert image.table(3).byte(0) == 2  # ImageProperties
    properties = image.table(3).table(1)
    assert properties.byte(0) == 1  # RGB
    assert (properties.table(1).number(0), properties.table(1).number(1)) == (16, 16)
    (step,) = image.tables(4)
    assert step.byte(0) == 1  # NormalizationOptions
    assert step.table(1).floats(0) == pytest.approx(mean)
    assert step.table(1).floats(1) == pytest.approx(std)


def test_grey_images_are_called_that_and_one_number_stands_for_all_channels(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    (artifact,) = TFLITE.write(make_checkpoint(channels=1), (1,), ExportSpec(), tmp_path)
    (image,) = for_android(tmp_path / artifact.path).tables(3)[0].tables(2)
    assert image.table(3).table(1).byte(0) == 2  # GRAYSCALE
    assert "grey" in image.text(1)
    assert image.tables(4)[0].table(1).floats(0) == pytest.approx([102.0])


def test_the_labels_are_in_an_archive_behind_the_model(written: MakeFile) -> None:
    path = written()
    with zipfile.ZipFile(path) as archive:
        (member,) = archive.infolist()
        assert archive.testzip() is None
        assert archive.read("labels.txt").decode().splitlines() == [f"class {i}" for i in range(7)]
    assert member.compress_type == zipfile.ZIP_STORED  # the tools for Android inflate nothing
    assert member.date_time == (1980, 1, 1, 0, 0, 0)
    assert member.header_offset == reader.read(path).end
    (logits,) = for_android(path).tables(3)[0].tables(3)
    assert logits.text(0) == "logits"
    (labels,) = logits.tables(6)
    assert (labels.text(0), labels.byte(2)) == ("labels.txt", 2)  # TENSOR_AXIS_LABELS


def test_every_label_is_one_line() -> None:
    given = ["plain", "two\nlines", "ümläut", "", "paragraph\u2029separator"]
    content = metadata.labels_archive(json.dumps(given).encode(), 0)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        lines = archive.read("labels.txt").decode().split("\n")
    assert lines == ["plain", "two lines", "ümläut", "", "paragraph separator", ""]


def test_a_model_without_labels_and_licence_says_nothing_of_them(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint()
    checkpoint = dataclasses.replace(checkpoint, info=msgspec.structs.replace(checkpoint.info, labels=(), license=""))
    (artifact,) = TFLITE.write(checkpoint, (2,), ExportSpec(), tmp_path)
    TFLITE.lint(tmp_path / artifact.path)
    assert not zipfile.is_zipfile(tmp_path / artifact.path)
    assert not {"hydra_export.labels", "hydra_export.license"} & entries(tmp_path / artifact.path).keys()
    said = for_android(tmp_path / artifact.path)
    assert not said.has(5)
    assert not said.tables(3)[0].tables(3)[0].has(6)
