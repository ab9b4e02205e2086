"""What lint sees in a package that runs and is not as promised."""

from __future__ import annotations

import json
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
        (_build_info, "how it was built"),
        (_division, "uses operations .*real_div"),
        (_opset, "it says iOS 17 and its operations are those of iOS 16"),
        (_renamed_input, "other inputs and outputs than an image and logits"),
        (lambda package: setattr(package.model.description.input[0], "shortDescription", ""), "has no description"),
        (lambda package: package.weights.extend(bytes(64)), "its weight file has .* bytes, used are"),
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
        (lambda path: (path / "Data" / "notes.txt").write_text("x"), "it holds .*notes.txt"),
        (_random_identifiers, "not the one that goes with its model"),
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
