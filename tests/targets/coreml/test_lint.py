"""What lint sees in a package that runs and is not as promised."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydra_export.errors import CheckFailed
from hydra_export.targets.coreml import TARGET, folder
from tests.targets.coreml.conftest import MODEL, Opened, Write

Change = Callable[[Opened], object]


def sealed(package: Opened) -> None:
    """Saves, with the manifest that goes with it."""
    import hashlib

    package.save()
    digest = hashlib.sha256((package.path / MODEL).read_bytes()).hexdigest()
    (package.path / folder.MANIFEST).write_bytes(folder.manifest(digest))


def _unused(package: Opened) -> None:
    first = package.block.operations[0]
    copy = type(first)()
    copy.CopyFrom(first)
    copy.outputs[0].name = "left_over"
    package.block.operations.insert(0, copy)


def _date(package: Opened) -> None:
    package.model.description.metadata.userDefined.add(
        key="com.github.apple.coremltools.conversion_date", value="2025-01-01"
    )


def _build_info(package: Opened) -> None:
    value = package.model.mlProgram.attributes.add(key="buildInfo").value
    given = value.type.dictionaryType
    given.keyType.tensorType.dataType = given.valueType.tensorType.dataType = 2
    pair = value.immediateValue.dictionary.values.add()
    for part in (pair.key, pair.value):
        part.type.tensorType.dataType = 2
        part.immediateValue.tensor.strings.values.append("coremltools-version")


def _division(package: Opened) -> None:
    """The last residual divided instead of added: an operation that none of our programs needs."""
    package.operation("blocks_1_mlp_residual").type = "real_div"


def _opset(package: Opened) -> None:
    function = package.model.mlProgram.functions[0].value
    function.opset = function.block_specializations[0].key = "CoreML6"


def _renamed_input(package: Opened) -> None:
    package.model.description.input[0].name = "picture"
    package.model.mlProgram.functions[0].value.inputs[0].name = "picture"
    for operation in package.block.operations:
        for entry in operation.inputs:
            for binding in entry.value.arguments:
                if binding.name == "image":
                    binding.name = "picture"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_unused, "constant left_over is not used"),
        (_date, "it has the metadata 'com.github.apple"),
        (_build_info, "build information"),
        (_division, "uses operations .*real_div"),
        (_opset, "it states iOS 17, but its operations are those of iOS 16"),
        (_renamed_input, "inputs or outputs other than an image and logits"),
        (lambda package: setattr(package.model.description.input[0], "shortDescription", ""), "has no description"),
        (lambda package: package.weights.extend(bytes(64)), "its weight file has .* bytes, of which"),
    ],
)
def test_what_is_not_as_promised_is_named(write: Write, change: Change, message: str) -> None:
    _, _, path = write(ios=17)
    TARGET.lint(path)
    package = Opened(path)
    change(package)
    sealed(package)
    with pytest.raises(CheckFailed, match=message) as refused:
        TARGET.lint(path)
    assert str(path) in refused.value.message


def _random_identifiers(path: Path) -> None:
    manifest: dict[str, Any] = json.loads((path / "Manifest.json").read_text())
    manifest["itemInfoEntries"]["random"] = manifest["itemInfoEntries"].pop(manifest["rootModelIdentifier"])
    manifest["rootModelIdentifier"] = "random"
    (path / "Manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: (path / "Data" / "notes.txt").write_text("x"), "it contains .*notes.txt"),
        (_random_identifiers, "does not match its model"),
        (lambda path: (path / "Manifest.json").write_bytes((path / "Manifest.json").read_bytes() + b"\n"), "Manifest"),
        (lambda path: (path / "Manifest.json").unlink(), "cannot be evaluated"),
    ],
)
def test_other_files_than_the_three_are_named(write: Write, change: Callable[[Path], object], message: str) -> None:
    _, _, path = write()
    change(path)
    with pytest.raises(CheckFailed, match=message):
        TARGET.lint(path)


def test_a_value_of_rank_five_is_named(write: Write) -> None:
    _, _, path = write()
    package = Opened(path)
    shape = package.numbers("blocks_0_attn_q_apart_shape_0")
    before = list(shape)
    operations = package.block.operations
    index = next(i for i, each in enumerate(operations) if each.outputs[0].name == "blocks_0_attn_q_apart")
    reshape, constant = operations[index], package.operation("blocks_0_attn_q_apart_shape_0")
    wide, wide_shape = type(reshape)(), type(constant)()
    wide.CopyFrom(reshape)
    wide_shape.CopyFrom(constant)
    wide.outputs[0].name, wide_shape.outputs[0].name = "wide", "wide_shape"
    next(each for each in wide.inputs if each.key == "shape").value.arguments[0].name = "wide_shape"
    kind = wide.outputs[0].type.tensorType
    kind.rank = 5
    kind.dimensions.add().constant.size = 1
    value = next(each.value for each in wide_shape.attributes if each.key == "val")
    for place in (value.type, wide_shape.outputs[0].type):
        place.tensorType.dimensions[0].constant.size = 5
    value.immediateValue.tensor.ints.values[:] = [*before, 1]
    next(each for each in reshape.inputs if each.key == "x").value.arguments[0].name = "wide"
    operations.insert(index, wide)
    operations.insert(index, wide_shape)
    sealed(package)
    assert np.isfinite(TARGET.load(path, 2).run(np.zeros((1, 3, 16, 16), np.float32))).all()
    with pytest.raises(CheckFailed, match="a value has rank 5"):
        TARGET.lint(path)


def _said(package: Opened, name: str, text: str) -> None:
    next(e for e in package.model.description.metadata.userDefined if e.key == f"hydra_export.{name}").value = text


def _default(package: Opened) -> None:
    package.model.description.defaultFunctionName = "k2"


def _copied(package: Opened, names: list[str], change: int = 0) -> None:
    """Gives function k2 records of its own, at the end of the file; *change* is added to every byte."""
    for name in names:
        place = package.constant(name).blobFileValue
        header = package.weights[place.offset : place.offset + 64]
        size, start = struct.unpack_from("<QQ", header, 8)
        data = bytes((each + change) % 256 for each in package.weights[start : start + size])
        package.weights += bytes(-len(package.weights) % 64)
        place.offset = len(package.weights)
        struct.pack_into("<Q", header, 16, place.offset + 64)
        package.weights += header + data
    package.weights[:4] = struct.pack("<I", struct.unpack_from("<I", package.weights)[0] + len(names))


_TWO = ["blocks_0_attn_q_weight_0", "blocks_1_mlp_fc2_weight_0"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda package: _said(package, "heads", "2"), "it has functions .* but states heads 2"),
        (lambda package: _said(package, "heads", "2,3,4"), "it has functions .* but states heads 2,3,4"),
        (lambda package: _said(package, "heads", ""), "it has functions .* but states heads "),
        (_default, "its default function is k2, but k4 is the largest"),
        (lambda package: _copied(package, _TWO[:1]), "its weight file has the same content at .* as before"),
        (lambda package: _copied(package, _TWO[:1], 1), "1 matrices of function k2 are not those of k4"),
        (lambda package: _copied(package, _TWO, 1), "2 matrices of function k2 are not those of k4"),
        (lambda package: package.weights.extend(bytes(64)), "its weight file has .* bytes, of which"),
        (lambda package: _said(package, "precision", "int8"), "is fp16 in a package that is int8"),
        (lambda package: _said(package, "precision", "fp32"), "is fp16 in a package that is fp32"),
        (lambda package: _said(package, "precision", "4-bit"), "its precision is '4-bit'"),
    ],
)
def test_what_is_not_as_promised_in_a_package_of_several_is_named(write: Write, change: Change, message: str) -> None:
    _, _, path = write(heads=(2, 4), graph="universal")
    TARGET.lint(path)
    package = Opened(path, "k2")
    change(package)
    sealed(package)
    with pytest.raises(CheckFailed, match=message):
        TARGET.lint(path)


@pytest.mark.parametrize("ios", [16, 18])
def test_quantized_weights_in_a_package_that_says_otherwise_are_named(write: Write, ios: int) -> None:
    _, _, path = write(precision="int8", ios=ios)
    TARGET.lint(path)
    package = Opened(path)
    _said(package, "precision", "fp16")
    sealed(package)
    with pytest.raises(CheckFailed, match=r"it uses operations .*constexpr"):
        TARGET.lint(path)


def test_one_matrix_that_was_not_quantized_is_named(write: Write) -> None:
    """A quantizer that leaves one out, for its size or its kind."""
    _, _, path = write(precision="int8")
    _, _, other = write(precision="fp16")
    package, whole = Opened(path), Opened(other)
    place = whole.constant("blocks_1_attn_k_weight_0").blobFileValue.offset
    size, start = struct.unpack_from("<QQ", whole.weights, place + 8)
    record, data = whole.weights[place : place + 64], whole.weights[start : start + size]
    dequantize = package.operation("blocks_1_attn_k_weight")
    constant = whole.operation("blocks_1_attn_k_weight_0")
    dequantize.CopyFrom(constant)
    dequantize.outputs[0].name = "blocks_1_attn_k_weight"
    package.weights += bytes(-len(package.weights) % 64)
    package.constant("blocks_1_attn_k_weight").blobFileValue.offset = len(package.weights)
    struct.pack_into("<Q", record, 16, len(package.weights) + 64)
    package.weights += record + data
    sealed(package)
    assert np.isfinite(TARGET.load(path, 2).run(np.zeros((1, 3, 16, 16), np.float32))).all()
    with pytest.raises(CheckFailed, match="the weight of blocks_1_attn_k is fp16 in a package that is int8"):
        TARGET.lint(path)
