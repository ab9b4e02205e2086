"""Which layers int8 changes most."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hydra_export import checkpoint, checkpoint_file
from hydra_export.cli import main
from hydra_export.model import HydraViT
from hydra_export.preprocess import Preprocessing
from hydra_export.quantization import layer_errors
from tests.targets.conftest import pixels

DATA = Preprocessing(image_size=16, mean=(0.5,) * 3, std=(0.25,) * 3, crop=1.0)


def test_every_linear_layer_of_the_subnetwork_is_measured(tiny_model: HydraViT) -> None:
    found = layer_errors(tiny_model, 2, pixels(tiny_model.config), DATA)
    layers = {f"blocks.{i}.{name}" for i in (0, 1) for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    assert {error.name for error in found} == {*layers, "head"}
    assert all(0 < error.weights < 0.02 and 0 < error.both < 0.05 for error in found)
    assert [error.both for error in found] == sorted((error.both for error in found), reverse=True)


def test_a_layer_with_one_large_weight_per_row_and_one_with_one_large_input_come_out(tiny_model: HydraViT) -> None:
    blocks: Any = tiny_model.blocks
    with torch.no_grad():
        blocks[0].mlp.fc1.weight[:, 3] = 100.0  # rows that int8 can hardly hold beside it
        blocks[1].norm2.bias[5] = 1000.0
        blocks[1].mlp.fc1.weight[:, 5] = 0.0  # so that the output does not hide what is lost
    found = {error.name: error for error in layer_errors(tiny_model, 4, pixels(tiny_model.config), DATA)}
    assert found["blocks.1.mlp.fc1"].both > 10 * found["blocks.1.mlp.fc1"].weights
    assert found["blocks.0.mlp.fc1"].weights < found["blocks.0.mlp.fc1"].both


def test_the_error_is_what_rounding_to_255_steps_gives() -> None:
    from hydra_export.quantization import _rounded

    values = torch.tensor([[1.0, -0.5, 0.25], [10.0, 5.0, 0.01]])
    assert torch.equal(_rounded(torch.tensor([[127.0, 3.4]])), torch.tensor([[127.0, 3.0]]))
    largest = values.abs().amax(1, keepdim=True)
    assert float(((_rounded(values, per_row=True) - values).abs() / largest).max()) <= 0.5 / 127 + 1e-7
    np.testing.assert_allclose(_rounded(values, per_row=True).abs().amax(1), largest.squeeze())


def test_an_export_that_int8_fails_names_the_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packaged = checkpoint.load()
    # The same function, but for one input of each MLP that is so large that int8 loses the others beside it.
    blocks: Any = packaged.model.blocks
    with torch.no_grad():
        for block in blocks:
            block.norm2.bias[5] += 3000.0
            block.mlp.fc1.bias -= 3000.0 * block.mlp.fc1.weight[:, 5]
    path = tmp_path / "outliers.safetensors"
    checkpoint_file.write(path, packaged.model.state_dict(), packaged.info)
    before = sorted(tmp_path.iterdir())
    arguments = ["--checkpoint", str(path), "--heads", "3", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--precision", "int8"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "loses" in said
    assert "points of top-1" in said
    assert "change the outputs of these layers most: blocks." in said
    assert said.count(".mlp.fc1 by ") == 4
    assert "--max-drop" in said
    assert sorted(tmp_path.iterdir()) == before
    assert main(arguments) == 0
