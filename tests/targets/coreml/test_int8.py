"""int8: which numbers are stored, and that a package computes with exactly these."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hydra_export import mil
from hydra_export.errors import BadInput
from hydra_export.mil.types import TensorType
from hydra_export.target import ExportSpec, GraphKind
from hydra_export.targets.coreml import TARGET, CoreMLOptions
from tests.targets.coreml.conftest import Opened, Proof, Write, dequantized

_OPERATION = {
    16: "constexpr_affine_dequantize",
    17: "constexpr_affine_dequantize",
    18: "constexpr_blockwise_shift_scale",
}
_ARCHITECTURES: list[dict[str, Any]] = [
    {"layer_scale": 0.5, "channels": 1},
    {"separate_classifiers": (2, 4)},
    {"head_dim": 8},
    {"num_classes": 0},
]


@pytest.mark.parametrize("ios", [16, 17, 18])
@pytest.mark.parametrize("form", ["tensor", "image"])
def test_a_package_computes_with_the_quantized_weights_and_nothing_else(write: Write, ios: int, form: str) -> None:
    checkpoint, artifact, path = write(precision="int8", ios=ios, input=form)
    assert path.name == "tiny-k2-int8.mlpackage"
    assert Opened(path).kinds().count(_OPERATION[ios]) == 1 + 6 * 2 + 1  # patches, six matrices a block, classifier
    Proof(checkpoint, artifact).of(path)
    TARGET.lint(path)


@pytest.mark.parametrize("architecture", _ARCHITECTURES, ids=lambda value: "-".join(value))
@pytest.mark.parametrize("graph", ["separate", "universal"])
def test_so_does_every_architecture(write: Write, architecture: dict[str, Any], graph: GraphKind) -> None:
    heads = 4 if graph == "separate" else (2, 4)
    checkpoint, artifact, path = write(architecture, precision="int8", heads=heads, graph=graph)
    for k in artifact.heads:
        Proof(checkpoint, artifact, k).of(path)
    TARGET.lint(path)


@pytest.mark.parametrize(("graph", "heads"), [("separate", 4), ("universal", (1, 2, 4))])
def test_no_number_is_off_by_more_than_half_a_step(write: Write, graph: GraphKind, heads: Any) -> None:
    """A step is a 127th of the largest number of a row, of one shell where there are several."""
    checkpoint, artifact, _ = write(precision="int8", heads=heads, graph=graph)
    exact, stored = checkpoint.model.weights(4), dequantized(checkpoint, artifact, 4)
    for name, tensor in exact.items():
        weight = tensor.detach().numpy()
        if weight.ndim in (2, 4):
            step = np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True) / 127
            off = np.abs(stored[name] - weight) / step
            assert 0.3 < off.max() < 0.57, name  # the step itself is rounded to fp16, of which 127 are off by 0.06
        else:
            np.testing.assert_array_equal(stored[name], weight.astype(np.float16).astype(np.float32))


def test_the_widest_number_is_127_and_never_128(write: Write) -> None:
    _, _, path = write(precision="int8", heads=3)
    data = Opened(path).array("blocks_0_mlp_fc1_weight.data")
    assert data.dtype == np.int8
    assert (data.min(), data.max()) == (-127, 127)
    assert (np.abs(data.astype(np.int16)).max(axis=1) == 127).all()


def test_only_vectors_and_positions_stay_fp16(write: Write) -> None:
    _, _, path = write(precision="int8", heads=3)
    for constant in mil.load(path).functions["main"].every_constant:
        if constant.offset is not None:
            kind = constant.type
            assert isinstance(kind, TensorType)
            matrix = kind.rank in (2, 4) and kind.shape[1] > 1 and kind.shape[-1] > 1
            assert kind.dtype == ("int8" if matrix else "fp16"), kind


def test_rows_of_zeros_and_of_the_smallest_numbers_are_kept(write: Write) -> None:
    from hydra_export.targets.coreml.weights import _quantized

    matrix = np.zeros((4, 3), np.float32)
    matrix[1:] = np.array([[1e-9], [1e-4], [6e4]]) * np.array([1, -0.5, 0.25])
    block = _quantized(matrix)
    found = block.data.astype(np.float32) * block.scale.astype(np.float32)[:, None]
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[:2], 0)
    np.testing.assert_allclose(found[2:], matrix[2:], rtol=0.05)


def test_ios_15_has_none(write: Write) -> None:
    with pytest.raises(BadInput, match="int8` needs iOS 16 or newer: `ios` 15") as refused:
        TARGET.check(ExportSpec(precision="int8", options=CoreMLOptions(ios=15)))
    assert refused.value.remedy == "Pass `ios=16` or newer, or `precision=fp16`."
