"""Packages that compute something else, a little: parity sees each of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hydra_export.errors import ParityFailed
from hydra_export.target import Precision
from tests.targets.coreml.conftest import Opened, Proof, Write

Change = Callable[[Opened], object]


def _exchange(package: Opened, one: str, other: str) -> None:
    first, second = package.array(one), package.array(other)
    first[:], second[:] = second.copy(), first.copy()


def _swap_heads(package: Opened, layer: str) -> None:
    """Of the query alone: every head then looks with another's eyes."""
    for part in ("weight", "bias"):
        q = package.array(f"{layer}_{part}_0")
        q[:] = np.roll(q, 16, axis=0)


def _input_of(package: Opened, output: str, name: str, given: str) -> None:
    entry = next(each for each in package.operation(output).inputs if each.key == name)
    entry.value.arguments[0].name = given


def _epsilon(package: Opened, value: float) -> None:
    for layer in ("blocks_0_norm1", "blocks_0_norm2", "blocks_1_norm1", "blocks_1_norm2", "norm"):
        tensor = package.constant(f"{layer}_epsilon_0").immediateValue.tensor
        if tensor.WhichOneof("value") == "bytes":
            tensor.bytes.values = np.float16(value).tobytes()
        else:
            tensor.floats.values[0] = value


def _tanh(package: Opened) -> None:
    package.numbers("blocks_0_mlp_gelu_mode_0")[0] = "TANH_APPROXIMATION"


def _second_token(package: Opened) -> None:
    for name in ("blocks_1_cls", "blocks_1_attn_cls"):
        package.numbers(f"{name}_begin_0")[1] = 1
        package.numbers(f"{name}_end_0")[1] = 2


def _scale(name: str, factor: float) -> Change:
    def change(package: Opened) -> None:
        weight = package.array(name)
        weight[:] = weight * factor

    return change


def _transpose(name: str) -> Change:
    def change(package: Opened) -> None:
        weight = package.array(name)
        weight[:] = weight.T.copy()

    return change


CHANGES: dict[str, Change] = {
    "two heads exchanged": lambda package: _swap_heads(package, "blocks_0_attn_q"),
    "two heads exchanged in the last block": lambda package: _swap_heads(package, "blocks_1_attn_q"),
    "GELU by tanh": _tanh,
    "another epsilon": lambda package: _epsilon(package, 1e-4),
    "a weight transposed": _transpose("blocks_0_attn_proj_weight_0"),
    "q and k exchanged": lambda package: _exchange(package, "blocks_0_attn_q_weight_0", "blocks_0_attn_k_weight_0"),
    "k and v exchanged": lambda package: _exchange(package, "blocks_0_attn_k_weight_0", "blocks_0_attn_v_weight_0"),
    "two blocks exchanged": lambda package: _exchange(
        package, "blocks_0_mlp_fc1_weight_0", "blocks_1_mlp_fc1_weight_0"
    ),
    "two norms exchanged": lambda package: _exchange(package, "blocks_0_norm1_gamma_0", "blocks_0_norm2_gamma_0"),
    "a patch for the class token": _second_token,
    "attention without its scale": _scale("blocks_0_attn_q_weight_0", 4),
    "attention scaled twice": _scale("blocks_1_attn_q_weight_0", 0.25),
    "a bias dropped": _scale("blocks_1_mlp_fc1_bias_0", 0),
    "the classifier's bias dropped": lambda package: package.array(
        package.named("head_bias_0", "logits_bias_0")
    ).__imul__(0),
    "the patches' bias dropped": _scale("patch_embed_bias_0", 0),
    "a weight a five-hundredth larger": _scale("blocks_0_mlp_fc2_weight_0", 1.002),
    "the class token dropped": _scale("cls_token", 0),
    "positions shifted by one": lambda package: package.array("positions_y_0").__setitem__(
        slice(None), np.roll(package.array("positions_y_0"), 1, axis=1)
    ),
    "a residual left out": lambda package: _input_of(package, "blocks_0_mlp_residual", "x", "blocks_0_mlp_fc2"),
    "a residual taken too early": lambda package: _input_of(package, "blocks_0_mlp_residual", "x", "tokens"),
    "a norm skipped": lambda package: _input_of(package, "blocks_0_attn_v", "x", "tokens"),
}


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("ios", [15, 18])
def test_each_of_them_fails_parity(write: Write, precision: Precision, ios: int) -> None:
    checkpoint, artifact, path = write(precision=precision, ios=ios)
    content = {each: each.read_bytes() for each in path.rglob("*") if each.is_file()}
    proof = Proof(checkpoint, artifact)
    proof.of(path)
    for name, change in CHANGES.items():
        package = Opened(path)
        change(package)
        package.save()
        assert any(each.read_bytes() != old for each, old in content.items()), name
        with pytest.raises(ParityFailed):
            proof.of(path)
            pytest.fail(f"{name} was not seen")
        for each, old in content.items():
            each.write_bytes(old)


def _exchange_channels(package: Opened) -> None:
    numbers = package.numbers("image_scaled_y_0")
    numbers[0], numbers[1] = numbers[1], numbers[0]


def _drop_mean(package: Opened) -> None:
    package.numbers("image_normalised_y_0")[:] = [0.0, 0.0, 0.0]


@pytest.mark.parametrize("change", [_exchange_channels, _drop_mean])
def test_a_wrong_normalisation_fails_parity(write: Write, change: Change) -> None:
    checkpoint, artifact, path = write(input="image")
    proof = Proof(checkpoint, artifact)
    proof.of(path)
    package = Opened(path)
    change(package)
    package.save()
    with pytest.raises(ParityFailed):
        proof.of(path)
