"""What a file says of itself: to our own tools, to runtimes, and to the tools for Android.

``TFLITE_METADATA`` and the archive of labels behind the flatbuffer are what Android Studio, ML Kit, the Task Library
and MediaPipe read (mediapipe/tasks/metadata/metadata_schema.fbs; the archive is a zip whose member is only stored).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import flatbuffers  # type: ignore[import-untyped]
import msgspec

from hydra_export import documents
from hydra_export.architecture import HydraConfig
from hydra_export.preprocess import Preprocessing
from hydra_export.target import METADATA_PREFIX, InputForm, TensorInfo
from hydra_export.targets.tflite.operators import Operator, oldest_runtime
from hydra_export.text import kept

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint

RUNTIME_VERSION = "min_runtime_version"
LABELS = f"{METADATA_PREFIX}labels"
_RUNTIME_VERSION_BYTES = 16

_LABELS_FILE = "labels.txt"
_FIRST_JANUARY_1980 = 1 << 5 | 1  # as zip writes a date; a file of today has the same bytes tomorrow
_STORED_SINCE = 10  # version 1.0 of the zip format

# Of metadata_schema.fbs: members of unions and enumerations.
_IMAGE_PROPERTIES, _FEATURE_PROPERTIES, _NORMALIZATION, _TENSOR_AXIS_LABELS = 2, 1, 1, 2
_RGB, _GRAYSCALE = 1, 2


def runtime_version(operators: Iterable[Operator], behind: bool) -> bytes:
    """The entry ``min_runtime_version``: the first release that can run the file, filled up with zeros."""
    return oldest_runtime(operators, behind).encode().ljust(_RUNTIME_VERSION_BYTES, b"\0")


def oldest_runtime_of(entry: bytes) -> str:
    """What an entry ``min_runtime_version`` that passes lint says."""
    return entry.rstrip(b"\0").decode()


def labels_archive(own_labels: bytes, at: int) -> bytes:
    """The zip that stands at byte *at* of a file and holds the labels of our entry ``hydra_export.labels``, one a line.

    Written by hand for the same bytes everywhere (PKWARE APPNOTE.TXT, 4.3).

    Raises:
        msgspec.DecodeError, UnicodeError: these are no labels.
    """
    if len(own_labels) > documents.JSON_BYTES:
        raise msgspec.DecodeError(f"they have {len(own_labels):,} bytes")
    labels = [kept(label) for label in documents.decode_json(own_labels, list[str])]
    content, name = "".join(f"{label}\n" for label in labels).encode(), _LABELS_FILE.encode()
    utf8_names, stored, midnight = 1 << 11, 0, 0
    shared = struct.pack(
        "<5H3I2H",
        _STORED_SINCE,
        utf8_names,
        stored,
        midnight,
        _FIRST_JANUARY_1980,
        zlib.crc32(content),
        len(content),
        len(content),
        len(name),
        0,
    )
    member = b"PK\x03\x04" + shared + name + content
    entry = b"PK\x01\x02" + struct.pack("<H", _STORED_SINCE) + shared + struct.pack("<3H2I", 0, 0, 0, 0, at) + name
    return member + entry + b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, 1, 1, len(entry), at + len(member), 0)


@dataclass(frozen=True)
class GraphSignature:
    """One graph that has a signature: its inputs, the image first, and its output."""

    name: str
    inputs: Sequence[TensorInfo]
    output: TensorInfo


def for_android(checkpoint: Checkpoint, form: InputForm, graphs: Sequence[GraphSignature]) -> bytes:
    """The entry ``TFLITE_METADATA``: of the file's first graphs, in their order."""
    info, b = checkpoint.info, flatbuffers.Builder(1024)
    counts = [graph.name.rpartition("-k")[2] for graph in graphs]
    subnetworks = f"Subnetwork {counts[0]}" if len(counts) == 1 else "Subnetworks"
    model = {
        0: b.CreateString(graphs[0].name if len(graphs) == 1 else f"{info.name}-universal"),
        1: b.CreateString(f"{subnetworks} of the universal model {info.name}, written by hydra-export."),
        3: _tables(b, [_graph(b, checkpoint, form, graph) for graph in graphs]),
        **({5: b.CreateString(kept(info.license))} if info.license else {}),
        7: b.CreateString("1.0.0"),  # the oldest version of the schema that has all of these
    }
    b.Finish(_table(b, model), file_identifier=b"M001")
    return bytes(b.Output())


def _graph(b: Any, checkpoint: Checkpoint, form: InputForm, graph: GraphSignature) -> int:
    info = checkpoint.info
    image, *choice = graph.inputs
    image_table = _table(
        b,
        {
            0: b.CreateString(image.name),
            1: b.CreateString(_image_described(form, info.config, info.preprocessing) + _counted(image)),
            3: _table(b, {0: _Byte(_IMAGE_PROPERTIES), 1: _image_properties(b, info.config, info.preprocessing)}),
            4: _tables(b, [_table(b, {0: _Byte(_NORMALIZATION), 1: _normalization(b, form, info.preprocessing)})]),
        },
    )
    choices = [
        _table(
            b,
            {
                0: b.CreateString(given.name),
                1: b.CreateString("the number of heads"),
                3: _table(b, {0: _Byte(_FEATURE_PROPERTIES), 1: _table(b, {})}),
            },
        )
        for given in choice
    ]
    labels = {0: b.CreateString(_LABELS_FILE), 2: _Byte(_TENSOR_AXIS_LABELS)}
    output_table = _table(
        b,
        {
            0: b.CreateString(graph.output.name),
            1: b.CreateString(_output_described(info.config) + _counted(graph.output)),
            3: _table(b, {0: _Byte(_FEATURE_PROPERTIES), 1: _table(b, {})}),
            **({6: _tables(b, [_table(b, labels)])} if info.labels else {}),
        },
    )
    name = {0: b.CreateString(graph.name)}
    return _table(b, {**name, 2: _tables(b, [image_table, *choices]), 3: _tables(b, [output_table])})


def _counted(info: TensorInfo) -> str:
    """How integers count these numbers; the schema has no place for that, and tools read it from the tensor."""
    return "" if info.scale is None else f"; each {info.dtype} q stands for {info.scale:.9g} (q - {info.zero_point})"


def _output_described(config: HydraConfig) -> str:
    if config.num_classes:
        return "one score per class, before softmax"
    if config.pooling == "none":
        return "a vector for each patch"
    return "the class token" if config.num_read_tokens == 1 and not config.projection else "the features"


def _image_described(form: InputForm, config: HydraConfig, pixels: Preprocessing) -> str:
    height, width = config.image_shape
    channels, values = "RGB" if pixels.channels == 3 else "grey", "0-255" if form == "image" else "normalised"
    larger = [int(side / pixels.crop) for side in (height, width)]
    first = f"the shorter side to {larger[0]}" if height == width else "it to cover {} x {}".format(*larger)
    return f"{height} x {width} pixels, {channels}, {values}; resize {first} first"


def _image_properties(b: Any, config: HydraConfig, pixels: Preprocessing) -> int:
    height, width = config.image_shape
    size = _table(b, {0: _UInt(width), 1: _UInt(height)})
    return _table(b, {0: _Byte(_RGB if pixels.channels == 3 else _GRAYSCALE), 1: size})


def _normalization(b: Any, form: InputForm, pixels: Preprocessing) -> int:
    """(pixel - mean) / std, of pixels in 0-255; a file that takes pixels normalises them itself.

    One number stands for all channels where it can: MediaPipe 1.2 takes no others.
    """
    mean, std = [0.0], [1.0]
    if form == "tensor":
        mean, std = [255 * value for value in pixels.mean], [255 * value for value in pixels.std]
        if len({*zip(mean, std, strict=True)}) == 1:
            mean, std = mean[:1], std[:1]
    return _table(b, {0: _floats(b, mean), 1: _floats(b, std)})


class _Byte(int):
    """A field that is no offset."""


class _UInt(int):
    """A field that is no offset."""


def _table(b: Any, fields: dict[int, int]) -> int:
    b.StartObject(max(fields, default=-1) + 1)
    for slot, value in fields.items():
        if isinstance(value, _Byte):
            b.PrependInt8Slot(slot, value, 0)
        elif isinstance(value, _UInt):
            b.PrependUint32Slot(slot, value, 0)
        else:
            b.PrependUOffsetTRelativeSlot(slot, value, 0)
    return int(b.EndObject())


def _tables(b: Any, tables: Sequence[int]) -> int:
    b.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        b.PrependUOffsetTRelative(table)
    return int(b.EndVector())


def _floats(b: Any, values: Sequence[float]) -> int:
    b.StartVector(4, len(values), 4)
    for value in reversed(values):
        b.PrependFloat32(value)
    return int(b.EndVector())
