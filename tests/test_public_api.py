"""What ``import hydra_export`` promises."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

import hydra_export
from hydra_export.reference import held_to

PUBLIC = {
    "BadInput",
    "Bundle",
    "BundleArtifact",
    "CheckFailed",
    "Checkpoint",
    "CheckpointInfo",
    "DeviceEntry",
    "HydraConfig",
    "HydraExportError",
    "HydraViT",
    "ImageSession",
    "Manifest",
    "Preprocessing",
    "choose",
    "export",
    "load_checkpoint",
    "make_elastic",
    "open_bundle",
    "save_checkpoint",
    "save_reference",
    "train_model",
}


def test_all_is_exact() -> None:
    """A name more or less is a change that users see: edit the list above and the changelog with it."""
    assert set(hydra_export.__all__) == PUBLIC
    assert set(hydra_export._PUBLIC) == PUBLIC


def test_what_type_checkers_see_is_what_is_public() -> None:
    tree = ast.parse(inspect.getsource(hydra_export))
    (guarded,) = [node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    seen = {
        alias.asname: (node.module, alias.name)
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }
    assert set(seen) == PUBLIC
    for public, (module, name) in seen.items():
        assert module is not None
        assert getattr(importlib.import_module(module), name) is getattr(hydra_export, str(public))


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_is_used_below(name: str) -> None:
    assert f"hydra_export.{name}" in Path(__file__).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_is_documented(name: str) -> None:
    assert inspect.getdoc(getattr(hydra_export, name))


def test_star_import_gives_the_public_names() -> None:
    program = "from hydra_export import *; print(*sorted(name for name in dir() if not name.startswith('_')))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(found.stdout.split()) == PUBLIC


def test_dir_lists_the_public_names_and_the_version() -> None:
    assert set(dir(hydra_export)) == {*PUBLIC, "__version__"}
    assert hydra_export.__version__ == version("hydra-export")


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'hydra_export' has no attribute 'exprot'"):  # codespell:ignore
        hydra_export.exprot  # noqa: B018 (the access is the test) codespell:ignore


def test_the_public_functions_make_and_verify_a_bundle(tiny_checkpoint: Path, tmp_path: Path) -> None:
    loaded = hydra_export.load_checkpoint(tiny_checkpoint)
    assert isinstance(loaded, hydra_export.Checkpoint)
    hydra_export.save_checkpoint(tmp_path / "again.safetensors", loaded.model.state_dict(), loaded.info)
    notes: list[str] = []
    bundle = hydra_export.export(
        tmp_path / "again.safetensors", tmp_path / "out", targets="onnx", heads=[2, 4], zip=True, tell=notes.append
    )
    assert isinstance(bundle, hydra_export.Bundle)
    assert isinstance(bundle.manifest, hydra_export.Manifest)
    assert [artifact.heads for artifact in bundle.artifacts] == [(2,), (4,)]
    assert notes == []
    assert len(bundle.verify()) == 2
    with hydra_export.open_bundle(tmp_path / "out.zip") as archived:
        assert archived.manifest == bundle.manifest
        folder = archived.folder
        assert len(archived.verify()) == 2
    assert not folder.exists()
    hydra_export.save_reference(loaded.model, tmp_path / "reference.npz")
    assert held_to(loaded, tmp_path / "reference.npz").info == loaded.info


def test_an_artifact_runs_on_arrays_and_on_pictures(tiny_checkpoint: Path, tmp_path: Path) -> None:
    loaded = hydra_export.load_checkpoint(tiny_checkpoint)
    bundle = hydra_export.export(loaded, tmp_path / "out", graphs="universal", input="image")
    (universal, *_fixed) = bundle.artifacts
    assert isinstance(universal, hydra_export.BundleArtifact)
    session = universal.session(2)
    assert isinstance(session, hydra_export.ImageSession)
    picture = Image.effect_noise((40, 30), 90).convert("RGB")
    picture.save(tmp_path / "photo.png")
    assert isinstance(loaded.info.preprocessing, hydra_export.Preprocessing)
    pixels = loaded.info.preprocessing.fit(picture)[None]
    with torch.inference_mode():
        expected = loaded.model(torch.from_numpy(loaded.info.preprocessing.normalise(pixels)), 2).numpy()
    for image in (pixels, picture, tmp_path / "photo.png", str(tmp_path / "photo.png")):
        assert np.allclose(session.run(image), expected, atol=1e-5)
    with pytest.raises(hydra_export.BadInput, match="has no `heads` 3"):
        universal.session(3)


def test_a_model_of_ones_own_is_described_and_exported(tmp_path: Path) -> None:
    config = hydra_export.HydraConfig(heads=2, head_dim=8, depth=1, patch_size=4, image_size=8, num_classes=3)
    preprocessing = hydra_export.Preprocessing(image_size=8, mean=(0.5,) * 3, std=(0.5,) * 3)
    model = hydra_export.HydraViT(config)
    model.info = hydra_export.CheckpointInfo(
        name="own", config=config, preprocessing=preprocessing, trained_heads=(1, 2)
    )
    bundle = hydra_export.export(model, tmp_path / "out", graphs=["universal"], batch="dynamic", heads="all")
    assert bundle.manifest.model.name == "own"
    assert {artifact.graph for artifact in bundle.artifacts} == {"universal"}


def test_a_module_of_timm_is_exported_and_held_to_what_it_computes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = VisionTransformer(img_size=16, patch_size=4, embed_dim=16, depth=1, num_heads=2, num_classes=3)
    notes: list[str] = []
    bundle = hydra_export.export(module, tmp_path / "out", heads=2, tell=notes.append)
    image = torch.randn(1, 3, 16, 16)
    with torch.inference_mode():
        expected = module.eval()(image).numpy()
    assert np.allclose(bundle.artifacts[0].session().run(image.numpy()), expected, atol=1e-5)
    assert any("preprocessing" in note for note in notes)


def test_the_options_of_a_target_are_its_own(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from hydra_export.targets.onnx import OnnxOptions

    bundle = hydra_export.export(tiny_checkpoint, tmp_path / "out", options=OnnxOptions(opset=20))
    assert {artifact.entry.needs["opset"] for artifact in bundle.artifacts} == {"20"}
    with pytest.raises(hydra_export.BadInput, match=r"`opset` 99") as refused:
        hydra_export.export(tiny_checkpoint, tmp_path / "out", options=OnnxOptions(opset=99))
    assert refused.value.field == "opset"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [({"targets": "onx"}, "targets"), ({"graphs": "universl"}, "graphs"), ({"max_drop": 101}, "max_drop")],
)
def test_a_wrong_argument_is_named_as_python_names_it(
    tiny_checkpoint: Path, tmp_path: Path, wrong: dict[str, Any], field: str
) -> None:
    with pytest.raises(hydra_export.BadInput) as refused:
        hydra_export.export(tiny_checkpoint, tmp_path / "out", **wrong)
    assert refused.value.field == field
    assert "--" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_device_gets_its_choice(tiny_checkpoint: Path, tmp_path: Path) -> None:
    chosen = hydra_export.choose("rpi5", budget_ms=1000)
    assert isinstance(chosen, hydra_export.DeviceEntry)
    assert (chosen.fits, chosen.heads is not None) == (True, True)
    assert hydra_export.choose("rpi5", budget_ms=1000, heads=[3, 6]).heads in (3, 6)
    bundle = hydra_export.export(tiny_checkpoint, tmp_path / "out")
    for model in (bundle, tiny_checkpoint, hydra_export.load_checkpoint(tiny_checkpoint)):
        assert hydra_export.choose("rpi5", model=model).id == "rpi5"
    with pytest.raises(hydra_export.BadInput, match="has no `heads` 99"):
        hydra_export.choose("rpi5", heads=[99])


def test_a_run_is_trained_and_its_checkpoint_exported(tmp_path: Path) -> None:
    steps = []
    outcome = hydra_export.train_model(
        "digits",
        tmp_path / "run",
        steps=3,
        batch_size=8,
        train_heads=[2, 6],
        head_weights=[1, 2],
        override={"ema_decay": 0.5},
        report=lambda progress: steps.append(progress.step),
    )
    assert (outcome.config.trained_heads, outcome.config.weights, outcome.config.ema_decay) == ((2, 6), (1, 2), 0.5)
    assert steps[-1] == 3
    assert hydra_export.load_checkpoint(outcome.checkpoint).info.trained_heads == (2, 6)
    with pytest.raises(hydra_export.BadInput, match="has `lr`"):
        hydra_export.train_model("digits", tmp_path / "run", lr=0.5, resume=True)


def test_a_dense_vit_is_made_elastic_and_saved(tmp_path: Path) -> None:
    dense = VisionTransformer(img_size=16, patch_size=4, num_classes=3, embed_dim=16, depth=2, num_heads=2).eval()
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    elastic = hydra_export.make_elastic(dense, images)
    hydra_export.save_checkpoint(tmp_path / "elastic.safetensors", elastic.state, elastic.info)
    with torch.inference_mode():
        found = hydra_export.load_checkpoint(tmp_path / "elastic.safetensors").model(images)
        torch.testing.assert_close(found, dense(images), rtol=0, atol=1e-5)


def test_errors_are_caught_by_their_public_names(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(hydra_export.BadInput) as bad:
        hydra_export.load_checkpoint(tmp_path / "none.safetensors")
    assert isinstance(bad.value, hydra_export.HydraExportError)
    assert bad.value.remedy
    bundle = hydra_export.export(tiny_checkpoint, tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_bytes(b"{}")
    with pytest.raises(hydra_export.CheckFailed) as failed:
        bundle.verify()
    assert isinstance(failed.value, hydra_export.HydraExportError)
    assert not isinstance(failed.value, hydra_export.BadInput)


def test_what_the_core_ml_evaluator_has_is_listed_and_documented() -> None:
    """It is public, too, under a name of its own."""
    from hydra_export import mil

    assert mil.__all__ == ["Compute", "Feature", "Function", "Limits", "Package", "Signature", "check", "load"]
    for name in set(mil.__all__) - {"Compute"}:  # a Literal, which has no text of its own
        assert inspect.getdoc(getattr(mil, name)), name
