"""Reference outputs: what an import must reproduce, whatever was assumed of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers.activations import QuickGELU

import hydra_export
from hydra_export import checkpoint, reference
from hydra_export.cli import main
from hydra_export.errors import BadData, BadInput, ParityFailed
from tests.importing.cases import bare, vit


def written(tmp_path: Path, **changes: Any) -> tuple[Path, Path]:
    """A bare state dict and the reference of the module that it was taken from."""
    module = vit(**changes)
    hydra_export.save_reference(module, tmp_path / "reference.npz")
    return bare(module)(tmp_path).place, tmp_path / "reference.npz"


def test_an_import_that_reproduces_the_reference_assumes_its_preprocessing_alone(tmp_path: Path) -> None:
    path, expected = written(tmp_path)
    held = reference.held_to(checkpoint.load(path), expected)
    assert [line.partition(":")[0] for line in held.info.assumed] == ["preprocessing"]


@pytest.mark.parametrize(
    "changes", [{"num_heads": 6}, {"global_pool": "avg", "fc_norm": False}, {"act_layer": QuickGELU}]
)
def test_an_import_that_computes_something_else_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    path, expected = written(tmp_path, **changes)
    with pytest.raises(ParityFailed, match="does not reproduce") as caught:
        reference.held_to(checkpoint.load(path), expected)
    assert caught.value.exit_status == 1


def test_an_export_that_misses_its_reference_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, expected = written(tmp_path, num_heads=6)
    options = ["--checkpoint", str(path), "--reference", str(expected), "--out", str(tmp_path / "out")]
    assert main([*options]) == 1
    assert not (tmp_path / "out").exists()
    assert "does not reproduce" in capsys.readouterr().err


def test_the_module_is_left_as_it_was(tmp_path: Path) -> None:
    module = vit(drop_rate=0.5).train()
    hydra_export.save_reference(module, tmp_path / "a.npz", torch.ones(2, 3, 32, 32))
    hydra_export.save_reference(module, tmp_path / "b.npz", torch.ones(2, 3, 32, 32))
    assert module.training
    first, second = (dict(np.load(tmp_path / f"{name}.npz")) for name in "ab")
    assert first["logits"].shape == (2, 5)
    np.testing.assert_array_equal(first["logits"], second["logits"])


def test_a_module_that_returns_no_logits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="returns Tensor, not logits"):
        hydra_export.save_reference(torch.nn.Identity(), tmp_path / "a.npz")
    assert not (tmp_path / "a.npz").exists()


IMAGE, LOGITS = np.zeros((1, 3, 32, 32), np.float32), np.zeros((1, 5), np.float32)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"image": IMAGE}, "logits is not in it"),
        ({"image": IMAGE, "logits": LOGITS, "more": LOGITS}, "does not belong in it"),
        ({"image": IMAGE.astype(np.float64), "logits": LOGITS}, "float64"),
        (
            {"image": IMAGE[:, :, :16, :16], "logits": LOGITS},
            r"\[1, 3, 16, 16\], the model has float32 \[N, 3, 32, 32\]",
        ),
        ({"image": IMAGE, "logits": LOGITS[:, :4]}, "the model has"),
        ({"image": IMAGE, "logits": np.zeros((2, 5), np.float32)}, "the model has"),
        ({"image": IMAGE * np.nan, "logits": LOGITS}, "contains NaN or infinity"),
        ({"image": np.asfortranarray(IMAGE.repeat(2, 0)), "logits": LOGITS}, "unsupported layout"),
        ({"image": np.array([{}], object), "logits": LOGITS}, "object"),
    ],
)
def test_a_file_that_is_no_reference_of_the_model_is_refused(tmp_path: Path, arrays: dict[str, Any], says: str) -> None:
    np.savez(tmp_path / "reference.npz", **arrays)
    loaded = checkpoint.load(bare(vit())(tmp_path).place)
    with pytest.raises(BadData, match=says):
        reference.held_to(loaded, tmp_path / "reference.npz")


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "text"])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "reference.npz"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "text":
        path.write_text("text")
    loaded = checkpoint.load(bare(vit())(tmp_path).place)
    with pytest.raises(BadInput):
        reference.held_to(loaded, path)
