"""What an emitter could get wrong is caught: by what Apple's runtime computes, or by lint where that cannot tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hydra_export import checkpoint_file
from hydra_export.checkpoint import load
from hydra_export.errors import CheckFailed, ParityFailed
from hydra_export.target import GraphKind, Precision
from tests.targets.conftest import MakeCheckpoint, given
from tests.targets.coreai.conftest import COREAI, case

pytestmark = pytest.mark.usefixtures("needs_coreai")


@pytest.fixture
def emitter() -> Any:
    return pytest.importorskip("hydra_export.targets.coreai.graph").CoreAIEmitter


def _mixed_heads(emitter: Any, _ca: Any) -> Any:
    def heads_apart(self: Any, x_BND: Any) -> Any:
        import coreai.authoring as ca

        B, N, D = x_BND.type.shape
        shape = np.array([B, N, D // self.heads, self.heads], np.uint32)
        return ca.transpose(ca.reshape(x_BND, shape), np.array([0, 3, 1, 2], np.uint32))

    return "_heads_apart", heads_apart


def _no_bias(emitter: Any, ca: Any) -> Any:
    return "linear", lambda self, x, place: ca.broadcasting_batch_matmul(
        x, self._matrix(f"{place.replace('/', '.')}.weight")
    )


def _transposed(emitter: Any, ca: Any) -> Any:
    right = emitter._matrix

    def matrix(self: Any, name: str) -> Any:
        weight = right(self, name)
        return ca.transpose(weight, np.array([1, 0], np.uint32)) if ".attn." in name else weight

    return "_matrix", matrix


def _other_epsilon(emitter: Any, ca: Any) -> Any:
    def normalise(self: Any, x_BND: Any, gamma_D: Any, beta_D: Any) -> Any:
        centred = ca.broadcasting_sub(x_BND, ca.reduce_mean(x_BND, np.array([2], np.int32)))
        variance = ca.reduce_mean(ca.broadcasting_mul(centred, centred), np.array([2], np.int32))
        scaled = ca.broadcasting_mul(centred, ca.rsqrt(ca.broadcasting_add(variance, self.dtype(1e-3))))
        return ca.broadcasting_add(ca.broadcasting_mul(scaled, gamma_D), beta_D)

    return "_normalise", normalise


def _tanh_gelu(emitter: Any, ca: Any) -> Any:
    return "activation", lambda self, x, place: ca.gelu(x, approximate="tanh")


def _no_residual(emitter: Any, ca: Any) -> Any:
    return "residual", lambda self, x, y, place: ca.broadcasting_add(y, y)


def _last_token(emitter: Any, ca: Any) -> Any:
    def select(self: Any, x_BND: Any, span: tuple[int, int], place: str) -> Any:
        B, N, D = x_BND.type.shape
        begin, end = np.array([0, N - 1, 0], np.int32), np.array([B, N, D], np.int32)
        return ca.slice_(x_BND, begin, end, np.array([1, 1, 1], np.int32))

    return "select", select


WRONG = [_mixed_heads, _no_bias, _transposed, _other_epsilon, _tanh_gelu, _no_residual, _last_token]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda make: make.__name__.strip("_").replace("_", " "))
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_what_computes_something_else_is_not_exported(
    emitter: Any,
    wrong: Any,
    precision: Precision,
    make_checkpoint: MakeCheckpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import coreai.authoring as ca

    monkeypatch.setattr(emitter, *wrong(emitter, ca))
    checkpoint = make_checkpoint()
    artifacts = case(precision).write(checkpoint, (2,), tmp_path / "out")
    with pytest.raises(ParityFailed, match="does not compute subnetwork 2"):
        case(precision).verify(checkpoint, artifacts, tmp_path / "out")


def test_a_subnetwork_that_begins_elsewhere_is_not_exported(
    emitter: Any, make_checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import coreai.authoring as ca

    from hydra_export.targets.coreai.builder import AssetBuilder

    def end(self: Any, whole: Any, shape: tuple[int, ...]) -> Any:
        full = np.array(whole.type.shape, np.int32)
        begin, steps = full - np.array(shape, np.int32), np.ones(len(shape), np.int32)
        name = f"beginning_{'x'.join(map(str, (*full, *shape)))}"
        return self.call(name, {"whole": whole}, lambda whole: ca.slice_(whole, begin, full, steps))

    monkeypatch.setattr(AssetBuilder, "beginning", end)
    checkpoint = make_checkpoint()
    artifacts = case(graph="universal").write(checkpoint, (2, 4), tmp_path / "out")
    with pytest.raises(ParityFailed, match="does not compute subnetwork 2"):
        case(graph="universal").verify(checkpoint, artifacts, tmp_path / "out")


@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        ("eps = {eps:.8e}", "eps = 1.0e-3", "declares to add 1.0"),
        ("axes = [{axis} : si64]", "axes = [1 : si64]", "does not declare the operation"),
        ("axes = [{axis} : si64]", "axes = [3 : si64]", "declares axis 3"),
        ("scale = 1.0", "scale = 0.5", "does not declare the operation"),
        ("is_causal = false", "is_causal = true", "does not declare the operation"),
    ],
)
def test_what_a_device_would_take_instead_is_what_was_verified(
    right: str,
    wrong: str,
    problem: str,
    make_checkpoint: MakeCheckpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The runtime for Linux computes the graph beside the declaration, and would not see it."""
    from hydra_export.targets.coreai import graph

    for name in ("_LAYER_NORM", "_ATTENTION"):
        monkeypatch.setattr(graph, name, getattr(graph, name).replace(right, wrong))
    checkpoint = make_checkpoint()
    (artifact,) = case().write(checkpoint, (2,), tmp_path / "out")
    case().verify(checkpoint, [artifact], tmp_path / "out")
    with pytest.raises(CheckFailed, match=problem):
        COREAI.lint(tmp_path / "out" / artifact.path)


@pytest.mark.parametrize("graph", ["separate", "universal"])
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_float16_arithmetic_gives_nearly_the_same(
    precision: Precision, graph: GraphKind, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    """The program as it is saved, which takes Apple's runtime a hundred times as long."""
    checkpoint = make_checkpoint()
    (artifact,) = case(precision, graph).write(checkpoint, (2,), tmp_path / "out")
    path, image = tmp_path / "out" / artifact.path, given(checkpoint, artifact.spec)
    half, exact = (COREAI.load(path, 2, runtime=name).run(image) for name in ("coreai", "coreai-fp32"))
    assert not np.array_equal(half, exact)
    np.testing.assert_allclose(half, exact, atol=0.01 * np.abs(exact).max())


def test_weights_that_are_subnormal_in_float16_are_verified_as_they_are(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    """A cast of Apple's from float16 to float32 changes them."""
    checkpoint = make_checkpoint()
    state = {name: tensor.clone() for name, tensor in checkpoint.state.items()}
    for name in ("head.weight", "head.bias"):
        state[name] *= 2.0**-14
    assert (state["head.weight"].abs() < torch.finfo(torch.float16).tiny).all()
    checkpoint_file.write(tmp_path / "small.safetensors", state, checkpoint.info)
    small = load(tmp_path / "small.safetensors")
    artifacts = case("fp16").write(small, (2,), tmp_path / "out")
    case("fp16").verify(small, artifacts, tmp_path / "out")
