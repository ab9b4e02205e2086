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


def _point(package: Opened, name: str, other: str) -> None:
    """Lets the weight *name* be what *other* is."""
    package.constant(name).blobFileValue.offset = package.constant(other).blobFileValue.offset


def _exchange_places(package: Opened, one: str, other: str) -> None:
    first, second = (package.constant(name).blobFileValue for name in (one, other))
    first.offset, second.offset = second.offset, first.offset


def _concatenated_the_other_way(package: Opened) -> None:
    values = next(each for each in package.operation("blocks_0_attn_k").inputs if each.key == "values").value.arguments
    assert len(values) == 2
    values[0].name, values[1].name = values[1].name, values[0].name


def _the_other_half(package: Opened) -> None:
    """The new columns multiply the older channels."""
    slice_ = package.operation("blocks_0_norm2_2_4")
    for entry in slice_.inputs:
        if entry.key in ("begin", "end"):
            entry.value.arguments[0].name = {"begin": "place_0_0_0", "end": "place_1_17_32"}[entry.key]


# Of function k4, of which k2 is a part: what is wrong in the one alone must not be seen in the other.
SHELLS: dict[str, Change] = {
    "the shells of two layers exchanged": lambda package: _exchange_places(
        package, "blocks_0_attn_q_2_4_weight_0", "blocks_0_attn_k_2_4_weight_0"
    ),
    "a shell of another block": lambda package: _point(
        package, "blocks_0_mlp_fc2_2_4_weight_0", "blocks_1_mlp_fc2_2_4_weight_0"
    ),
    "the columns for older rows of another layer": lambda package: _point(
        package, "blocks_1_attn_v_2_4_older_weight_0", "blocks_1_attn_k_2_4_older_weight_0"
    ),
    "the columns for older rows left out": lambda package: _input_of(
        package, "blocks_0_mlp_fc1_2_4_sum", "y", "blocks_0_mlp_fc1_0_2"
    ),
    "shells in the other order": _concatenated_the_other_way,
    "a wrong part of the activations": _the_other_half,
    "a bias for older rows": lambda package: _input_of(
        package, "blocks_0_attn_proj_2_4_older", "bias", "blocks_0_attn_proj_0_2_bias_0"
    ),
    "another shell's bias": lambda package: _point(package, "blocks_0_attn_v_2_4_bias_0", "blocks_0_attn_v_0_2_bias_0"),
    "another shell's patches": lambda package: _point(package, "patch_embed_2_4_weight_0", "patch_embed_0_2_weight_0"),
    "another shell's class token": lambda package: _point(package, "cls_token_2_4", "cls_token_0_2"),
    "the older columns of the classifier twice": lambda package: _input_of(
        package, package.named("head_2_4_older", "logits_2_4_older"), "x", "cls_0_2"
    ),
}


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_wrong_shell_fails_parity_in_its_function_alone(write: Write, precision: Precision) -> None:
    checkpoint, artifact, path = write(precision=precision, heads=(2, 4), graph="universal")
    content = {each: each.read_bytes() for each in path.rglob("*") if each.is_file()}
    smaller, larger = Proof(checkpoint, artifact, 2), Proof(checkpoint, artifact, 4)
    larger.of(path)
    for name, change in SHELLS.items():
        package = Opened(path, "k4")
        change(package)
        package.save()
        assert any(each.read_bytes() != old for each, old in content.items()), name
        smaller.of(path)
        with pytest.raises(ParityFailed):
            larger.of(path)
            pytest.fail(f"{name} was not seen")
        for each, old in content.items():
            each.write_bytes(old)


def test_a_wrong_number_that_functions_share_fails_parity_in_all_of_them(write: Write) -> None:
    checkpoint, artifact, path = write(heads=(2, 4), graph="universal")
    package = Opened(path, "k4")
    package.array("blocks_0_mlp_fc1_0_2_weight_0")[:] *= np.float16(1.01)
    package.save()
    for k in (2, 4):
        with pytest.raises(ParityFailed):
            Proof(checkpoint, artifact, k).of(path)


def test_functions_under_each_others_names_fail_parity(write: Write) -> None:
    checkpoint, artifact, path = write(heads=(2, 4), graph="universal")
    package = Opened(path, "k4")
    for entries, name in ((package.model.mlProgram.functions, "key"), (package.model.description.functions, "name")):
        for entry in entries:
            setattr(entry, name, {"k2": "k4", "k4": "k2"}[getattr(entry, name)])
    package.save()
    for k in (2, 4):
        with pytest.raises(ParityFailed):
            Proof(checkpoint, artifact, k).of(path)


QUANTIZED: dict[str, Change] = {
    "a wrong scale": lambda package: _scale("blocks_0_attn_v_weight.scale", 1.01)(package),
    "one row's scale": lambda package: package.array("blocks_1_mlp_fc2_weight.scale")[3:4].__imul__(np.float16(1.2)),
    "the scales of two matrices exchanged": lambda package: _exchange(
        package, "blocks_0_attn_q_weight.scale", "blocks_0_attn_k_weight.scale"
    ),
    "scales of another order": lambda package: package.array("blocks_0_mlp_fc1_weight.scale").__setitem__(
        slice(None), package.array("blocks_0_mlp_fc1_weight.scale")[::-1].copy()
    ),
    "a number of another sign": lambda package: package.array("blocks_0_attn_proj_weight.data")[0].__imul__(-1),
    "a step more": lambda package: package.array("patch_embed_weight.data")[:, 0].__iadd__(1),
    "the patches' scale": lambda package: _scale("patch_embed_weight.scale", 1.02)(package),
}


@pytest.mark.parametrize("ios", [16, 18])
def test_wrongly_quantized_weights_are_seen(write: Write, ios: int) -> None:
    checkpoint, artifact, path = write(precision="int8", ios=ios)
    content = {each: each.read_bytes() for each in path.rglob("*") if each.is_file()}
    proof = Proof(checkpoint, artifact)
    proof.of(path)
    for name, change in QUANTIZED.items():
        package = Opened(path)
        change(package)
        package.save()
        assert any(each.read_bytes() != old for each, old in content.items()), name
        with pytest.raises(ParityFailed):
            proof.of(path)
            pytest.fail(f"{name} was not seen")
        for each, old in content.items():
            each.write_bytes(old)
