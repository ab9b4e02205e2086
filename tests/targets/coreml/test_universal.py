"""One package with a function for each head count: what it holds, how large it is, and how it is chosen from."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydra_export import mil
from hydra_export.errors import BadInput, CheckFailed
from hydra_export.exporting import export, jobs
from hydra_export.target import ExportSpec, Precision
from hydra_export.targets.coreml import TARGET, CoreMLOptions
from tests.targets.conftest import given
from tests.targets.coreml.conftest import WEIGHTS, Opened, Proof, Write

_LARGER = {"head_dim": 64, "image_size": 32, "patch_size": 8}  # so that matrices are most of it, as in real models


@pytest.mark.parametrize("precision", ["fp16", "fp32", "int8"])
@pytest.mark.parametrize("heads", [(1, 2, 4), (2, 3), (4,), (1, 2, 3, 4)])
def test_each_function_computes_its_subnetwork(write: Write, precision: Precision, heads: tuple[int, ...]) -> None:
    checkpoint, artifact, path = write(precision=precision, heads=heads, graph="universal")
    package = mil.load(path)
    assert set(package.functions) == {f"k{k}" for k in heads}
    assert package.default_function == f"k{heads[-1]}"
    assert artifact.heads == heads
    assert artifact.needs == {"ios": "18", "macos": "15"}
    for k in heads:
        Proof(checkpoint, artifact, k).of(path)
    TARGET.lint(path)


@pytest.mark.parametrize("precision", ["fp16", "fp32", "int8"])
@pytest.mark.parametrize("heads", [(2, 4), (1, 2, 3, 4)])
def test_it_is_hardly_larger_than_the_largest_subnetwork_alone(
    write: Write, precision: Precision, heads: tuple[int, ...]
) -> None:
    """Further are vectors, which every subnetwork has its own of, and 64 bytes before every block."""
    _, _, alone = write(_LARGER, precision=precision, heads=4)
    _, _, path = write(_LARGER, precision=precision, heads=heads, graph="universal")
    largest, together = ((each / WEIGHTS).stat().st_size for each in (alone, path))
    assert largest < together < (1.03 if precision == "int8" else 1.02) * largest


def test_every_matrix_of_a_smaller_subnetwork_lies_where_the_largest_has_it(write: Write) -> None:
    _, _, path = write(precision="int8", heads=(1, 2, 4), graph="universal")
    functions = mil.load(path).functions
    places = {
        name: {each.offset for each in function.every_constant if each.offset is not None and "int8" in str(each.type)}
        for name, function in functions.items()
    }
    assert places["k1"] < places["k2"] < places["k4"]
    assert len(places["k1"]) == 1 + 6 * 2 + 1


def test_the_smallest_subnetwork_is_as_if_it_were_alone(write: Write) -> None:
    """Its program is the same, operation by operation: nothing is cut that is not."""
    _, _, alone = write(heads=2)
    _, _, path = write(heads=(2, 4), graph="universal")
    assert Opened(path, "k2").kinds() == Opened(alone).kinds()


@pytest.mark.parametrize("form", ["tensor", "image"])
def test_a_classifier_says_the_label_in_every_function(write: Write, form: str) -> None:
    checkpoint, artifact, path = write(heads=(2, 4), graph="universal", classifier=True, input=form)
    package = mil.load(path)
    image = given(checkpoint, artifact.spec)[:1]
    image = image if form == "tensor" else image.transpose(0, 3, 1, 2)
    for k in (2, 4):
        signature = package.signatures[f"k{k}"]
        assert signature.inputs[0].kind == form
        assert (signature.predicted_label, signature.predicted_probabilities) == ("classLabel", "classLabel_probs")
        assert all(each.description for each in (*signature.inputs, *signature.outputs))
        outputs = package.run({"image": image}, f"k{k}")
        assert outputs["classLabel"] == checkpoint.info.labels[outputs["logits"].argmax()]
        Proof(checkpoint, artifact, k).of(path)
    TARGET.lint(path)


def test_features_are_as_many_as_the_chosen_width(write: Write) -> None:
    checkpoint, artifact, path = write({"num_classes": 0}, heads=(1, 3), graph="universal")
    assert artifact.outputs[0].shape == (1, "width")
    for k in (1, 3):
        assert TARGET.load(path, k).run(given(checkpoint, artifact.spec)).shape == (5, 16 * k)
        Proof(checkpoint, artifact, k).of(path)


def test_a_batch_of_three_is_one(write: Write) -> None:
    checkpoint, artifact, path = write(heads=(1, 2), graph="universal", batch=3)
    for k in (1, 2):
        Proof(checkpoint, artifact, k).of(path)


def test_switching_in_any_order_gives_what_a_fresh_session_gives(write: Write) -> None:
    checkpoint, artifact, path = write(heads=(1, 2, 4), graph="universal", precision="int8")
    images = given(checkpoint, artifact.spec)
    fresh = {k: [TARGET.load(path, k).run(images[i : i + 1]) for i in range(len(images))] for k in artifact.heads}
    sessions, package = {k: TARGET.load(path, k) for k in artifact.heads}, mil.load(path)
    rng = random.Random(0)
    for _ in range(40):
        k, i = rng.choice(artifact.heads), rng.randrange(len(images))
        np.testing.assert_array_equal(sessions[k].run(images[i : i + 1]), fresh[k][i])
        np.testing.assert_array_equal(package.run({"image": images[i : i + 1]}, f"k{k}")["logits"], fresh[k][i])
    assert len({fresh[k][0].tobytes() for k in artifact.heads}) == 3


def test_a_head_count_that_it_does_not_hold_is_refused_with_those_it_holds(write: Write) -> None:
    _, _, path = write(heads=(1, 2, 4), graph="universal")
    for k in (3, 5, 0, -1):
        with pytest.raises(CheckFailed, match=f"has functions k1, k2, k4, none for heads {k}"):
            TARGET.load(path, k)


def test_the_package_says_what_it_is_and_that_no_apple_device_has_run_it(write: Write) -> None:
    _, _, path = write(heads=(1, 2, 4), graph="universal")
    package = mil.load(path)
    assert package.metadata["description"] == (
        "tiny, subnetworks of 1, 2, 4 of 4 attention heads, as functions k1 to k4 over common weights: Vision "
        "Transformers for images of 16 x 16 pixels. Experimental: it has not been run on Apple hardware."
    )
    assert package.user_metadata["hydra_export.heads"] == "1,2,4"
    assert json.loads(package.user_metadata["hydra_export.labels"])[0] == "class 0"
    assert package.build_info == {}


@pytest.mark.parametrize("ios", [15, 16, 17])
def test_before_ios_18_there_is_none(ios: Any) -> None:
    with pytest.raises(BadInput, match=f"universal` needs iOS 18: `ios` {ios}") as refused:
        TARGET.check(ExportSpec(graph="universal", options=CoreMLOptions(ios=ios)))
    assert refused.value.remedy == "Pass `ios=18`, or `graph=separate`."


_OPENED = """
import sys
sys.modules["tensorflow"] = None
import torch, torchvision
import coremltools
from coremltools.converters.mil.frontend.milproto.load import load
spec = coremltools.models.MLModel(sys.argv[1], skip_model_load=True).get_spec()
program = load(spec, spec.specificationVersion, f"{sys.argv[1]}/Data/com.apple.CoreML/weights")
print(sorted(program.functions), [each.name for each in spec.description.functions])
print(spec.description.defaultFunctionName, spec.specificationVersion)
again = coremltools.utils.MultiFunctionDescriptor(sys.argv[1])
again.default_function_name = "k2"
coremltools.utils.save_multifunction(again, sys.argv[2])
"""


@pytest.mark.slow
def test_coremltools_opens_it_and_saves_it_again_no_smaller(write: Write, tmp_path: Path) -> None:
    """Its own search for common constants finds none that are not shared yet."""
    checkpoint, artifact, path = write(heads=(2, 4), graph="universal")
    again = tmp_path / "again.mlpackage"
    done = subprocess.run([sys.executable, "-c", _OPENED, path, again], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "['k2', 'k4'] ['k2', 'k4']\nk4 9\n"
    assert (again / WEIGHTS).stat().st_size >= (path / WEIGHTS).stat().st_size
    image = given(checkpoint, artifact.spec)[:1]
    for k in ("k2", "k4"):
        ours, theirs = (mil.load(each).run({"image": image}, k)["logits"] for each in (path, again))
        np.testing.assert_array_equal(ours, theirs)


def test_an_export_proves_every_function_and_its_card_shows_how_one_is_chosen(write: Write, tmp_path: Path) -> None:
    checkpoint, _, _ = write(heads=(1, 2, 4), graph="universal")
    out = tmp_path / "bundle"
    manifest = export(checkpoint, out, jobs(["coreml"], ["universal"]), heads=(1, 4))
    (entry,) = manifest.artifacts
    assert entry.heads == (1, 4)
    assert set(entry.parity) == {1, 4}
    code = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    run = subprocess.run([sys.executable, "-c", code], cwd=out, capture_output=True, text=True, check=True)
    found, expected = run.stdout.split()
    assert found == expected
    assert ', "k1")' in code
