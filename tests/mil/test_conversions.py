"""Packages that coremltools wrote: the evaluator agrees with torch on them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydra_export import mil
from hydra_export.mil.operation import find
from hydra_export.mil.types import TensorType


@pytest.mark.parametrize("ios", [15, 16, 17, 18])
def test_a_converted_vit_computes_what_torch_computes(converted: Path, ios: int) -> None:
    expected = np.load(converted / "expected.npz")
    package = mil.load(converted / f"ios{ios}-FLOAT32.mlpackage")
    assert package.ios == ios
    (name,) = package.functions["main"].inputs
    (logits,) = package.run({name: expected["normalised"]}).values()
    np.testing.assert_allclose(logits, expected["logits"], atol=2e-6)  # float32 sums in another order


@pytest.mark.parametrize("ios", [15, 16, 17, 18])
def test_rounding_results_to_fp16_is_seen_and_small(converted: Path, ios: int) -> None:
    expected = np.load(converted / "expected.npz")
    package = mil.load(converted / f"ios{ios}-FLOAT16.mlpackage")
    (name,) = package.functions["main"].inputs
    (as_saved,) = package.run({name: expected["normalised"]}).values()
    (exact,) = package.run({name: expected["normalised"]}, compute="fp64").values()
    (rounded,) = package.run({name: expected["normalised"]}, compute="fp16").values()
    np.testing.assert_allclose(as_saved, exact, atol=2e-6)
    np.testing.assert_allclose(as_saved, expected["logits"], atol=2e-3)  # weights have ten bits
    np.testing.assert_allclose(rounded, expected["logits"], atol=4e-3)  # and so have activations
    assert np.abs(rounded - as_saved).max() > 1e-5
    assert exact.dtype == np.float64


# Of logits of about 1; palettes of 4 bits or less change them more.
@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("ios16-int8", 0.02),
        ("ios16-uint8", 0.02),
        ("ios16-palette", 0.1),
        ("ios18-int8", 0.02),
        ("ios18-uint8", 0.02),
        ("ios18-palette", 0.1),
        ("ios18-int4", 0.2),
        ("ios18-groups", 0.6),
        ("ios18-vectors", 0.6),
    ],
)
def test_compressed_weights_are_understood(converted: Path, name: str, tolerance: float) -> None:
    expected = np.load(converted / "expected.npz")
    package = mil.load(converted / f"{name}.mlpackage")
    (given,) = package.functions["main"].inputs
    (logits,) = package.run({given: expected["normalised"]}).values()
    assert any(step.startswith("constexpr_") for step in package.functions["main"].operations)
    np.testing.assert_allclose(logits, expected["logits"], atol=tolerance)


def test_each_function_of_a_package_runs(converted: Path) -> None:
    expected = np.load(converted / "expected.npz")
    package = mil.load(converted / "functions.mlpackage")
    assert (set(package.functions), package.default_function) == ({"half", "full"}, "full")
    (name,) = package.functions["full"].inputs
    given = {name: expected["normalised"]}
    (default,), (full,), (half,) = (package.run(given, which).values() for which in (None, "full", "half"))
    np.testing.assert_array_equal(default, full)
    np.testing.assert_allclose(full, expected["logits"], atol=2e-6)
    assert 1e-5 < np.abs(half - full).max() < 2e-3


def test_a_classifier_names_the_label_of_its_largest_probability(converted: Path) -> None:
    expected = np.load(converted / "expected.npz")
    package = mil.load(converted / "classifier.mlpackage")
    (image,) = package.signatures["main"].inputs
    assert (image.kind, image.shape, image.color) == ("image", (1, 3, 16, 16), "rgb")
    outputs = package.run({"x": expected["image"]})
    assert outputs["classLabel"] == f"class {expected['logits'].argmax()}"
    values = [outputs["classLabel_probs"][f"class {i}"] for i in range(11)]
    np.testing.assert_allclose(values, expected["logits"][0], atol=2e-3)


_INFERRED = """
import sys
sys.modules["tensorflow"] = None  # it and coremltools cannot share a process
import torch, torchvision, numpy as np
import coremltools as ct
from coremltools.converters.mil import Builder as mb

x, found = np.load(f"{sys.argv[1]}/x.npy"), {}

@mb.program(input_specs=[mb.TensorSpec(shape=x.shape)], opset_version=ct.target.iOS17)
def main(given):
    for name, of in {
        "gelu": lambda x: mb.gelu(x=x, mode="SIGMOID_APPROXIMATION"),
        "relu": lambda x: mb.relu(x=x),
        "reduce_max": lambda x: mb.reduce_max(x=x, axes=[1], keep_dims=True),
        "reduce_mean": lambda x: mb.reduce_mean(x=x, axes=[1], keep_dims=True),
        "quantize": lambda x: mb.quantize(
            input=x, scale=np.float32(0.03), zero_point=np.int8(9), output_dtype="int8"
        ),
        "silu": lambda x: mb.silu(x=x),  # of which it computes no constants
    }.items():
        found[f"{name}_shape"] = of(given).shape
        if of(x).val is not None:
            found[name] = of(x).val
    return given

np.savez(f"{sys.argv[1]}/inferred.npz", **found)
"""


def test_operations_give_the_types_and_the_values_that_coremltools_infers(tmp_path: Path) -> None:
    x = 3 * np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    done = subprocess.run([sys.executable, "-c", _INFERRED, str(tmp_path)], capture_output=True, text=True, check=False)
    if "No module named 'coremltools'" in done.stderr:
        pytest.skip("coremltools is not installed: pip install 'hydra-export[coreml]'")
    assert done.returncode == 0, done.stderr[-2000:]
    inferred = np.load(tmp_path / "inferred.npz")
    pool: dict[str, Any] = {"axes": (1,), "keep_dims": True}
    static = {
        "gelu": {"mode": "SIGMOID_APPROXIMATION"},
        "reduce_max": pool,
        "reduce_mean": pool,
        "quantize": {
            "scale": np.float32(0.03),
            "zero_point": np.array(9, np.int8),
            "output_dtype": "int8",
            "axis": None,
        },
        "relu": {},
        "silu": {},
    }
    assert {name.removesuffix("_shape") for name in inferred} == set(static)
    for name, given in static.items():
        operation, key = find(name, 17), "input" if name == "quantize" else "x"
        types = {each: _type_of(value) for each, value in {key: x, **given}.items()}
        dtype = given.get("output_dtype", "fp32")
        assert operation.infer(**types) == (TensorType(dtype, tuple(inferred[f"{name}_shape"].tolist())),)
        if name != "silu":
            np.testing.assert_allclose(operation.compute(**{key: x, **given}), inferred[name], rtol=2e-6)


def _type_of(value: Any) -> Any:
    """As inference takes it: the types of arrays, and what is static as it is."""
    dtypes = {"float32": "fp32"}
    if not isinstance(value, np.ndarray | np.generic):
        return value
    return TensorType(dtypes.get(value.dtype.name, value.dtype.name), value.shape)
