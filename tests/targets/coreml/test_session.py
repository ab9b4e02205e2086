"""Running packages without coremltools, and what is no package of ours."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from hydra_export.errors import BadInput, CheckFailed, UnknownName
from hydra_export.targets.coreml import TARGET
from tests.targets.conftest import given
from tests.targets.coreml.conftest import Opened, Write

_RUN = """
import sys
sys.modules.update({name: None for name in ("coremltools", "torch", "tensorflow", "onnx", "onnxruntime")})
from pathlib import Path
import numpy as np
from hydra_export import targets
target = targets.get("coreml")
target.lint(Path(sys.argv[1]))
print(target.load(Path(sys.argv[1]), 2).run(np.load(sys.argv[2])[:1]).tolist())
"""


def test_running_and_linting_need_neither_coremltools_nor_torch(write: Write) -> None:
    checkpoint, artifact, path = write()
    image = given(checkpoint, artifact.spec)
    np.save(path.parent / "image.npy", image)
    arguments = [sys.executable, "-c", _RUN, str(path), str(path.parent / "image.npy")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(TARGET.load(path, 2).run(image[:1]).tolist())


def test_each_runtime_is_another_arithmetic(write: Write) -> None:
    checkpoint, artifact, path = write()
    image = given(checkpoint, artifact.spec)
    default, exact, rounded = (TARGET.load(path, 2, runtime=name).run(image) for name in ("", "mil", "mil-fp16"))
    np.testing.assert_array_equal(default, exact)
    assert exact.shape == (5, 11)
    assert exact.dtype == rounded.dtype == np.float32
    assert 1e-5 < np.abs(rounded - exact).max() < 0.05


def test_an_unknown_runtime_is_refused(write: Write) -> None:
    _, _, path = write()
    with pytest.raises(UnknownName, match="No Core ML runtime 'mli'"):
        TARGET.load(path, 2, runtime="mli")


def test_what_is_no_package_of_ours_is_refused(write: Write) -> None:
    _, _, path = write()
    with pytest.raises(BadInput, match="There is no package"):
        TARGET.load(path / "none", 2)
    package = Opened(path)
    package.model.description.output[0].name = "numbers"
    package.operation("logits").outputs[0].name = package.block.outputs[0] = "numbers"
    package.save()
    with pytest.raises(CheckFailed, match="inputs or outputs other than an image and logits"):
        TARGET.load(path, 2)


def test_a_function_is_chosen_by_the_number_of_heads(write: Write) -> None:
    checkpoint, artifact, path = write()
    image = given(checkpoint, artifact.spec)
    expected = TARGET.load(path, 2).run(image)
    package = Opened(path)
    model = package.model
    function = model.mlProgram.functions[0].value
    described = model.description.functions.add(name="k2")
    described.input.extend(model.description.input)
    described.output.extend(model.description.output)
    model.description.ClearField("input")
    model.description.ClearField("output")
    model.description.defaultFunctionName = model.mlProgram.functions[0].key = "k2"
    other = model.mlProgram.functions.add(key="k4").value
    other.CopyFrom(function)
    model.description.functions.add(name="k4").MergeFrom(described)
    model.description.functions[1].name = "k4"
    package.save()
    np.testing.assert_array_equal(TARGET.load(path, 2).run(image), expected)
    np.testing.assert_array_equal(TARGET.load(path, 4).run(image), expected)
    with pytest.raises(CheckFailed, match="none for heads 3"):
        TARGET.load(path, 3)
