"""What ``import hydra_export`` promises."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import hydra_export
from hydra_export.reference import held_to

PUBLIC = {
    "BadInput",
    "CheckFailed",
    "Checkpoint",
    "CheckpointInfo",
    "ExportSpec",
    "HydraConfig",
    "HydraExportError",
    "HydraViT",
    "Manifest",
    "Preprocessing",
    "export_bundle",
    "jobs",
    "load_checkpoint",
    "save_checkpoint",
    "save_reference",
    "verify_bundle",
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
    with pytest.raises(AttributeError, match="module 'hydra_export' has no attribute 'exprot'"):
        hydra_export.exprot  # noqa: B018 (the access is the test)


def test_the_public_functions_make_and_verify_a_bundle(tiny_checkpoint: Path, tmp_path: Path) -> None:
    loaded = hydra_export.load_checkpoint(tiny_checkpoint)
    assert isinstance(loaded, hydra_export.Checkpoint)
    hydra_export.save_checkpoint(tmp_path / "again.safetensors", loaded.model.state_dict(), loaded.info)
    again = hydra_export.load_checkpoint(tmp_path / "again.safetensors")
    manifest = hydra_export.export_bundle(again, tmp_path / "out", hydra_export.jobs(["onnx"], ["separate"], ["fp32"]))
    assert isinstance(manifest, hydra_export.Manifest)
    assert len(hydra_export.verify_bundle(tmp_path / "out")) == 2
    hydra_export.save_reference(again.model, tmp_path / "reference.npz")
    assert held_to(again, tmp_path / "reference.npz").info == again.info


def test_a_model_of_ones_own_is_described_and_exported(tmp_path: Path) -> None:
    config = hydra_export.HydraConfig(heads=2, head_dim=8, depth=1, patch_size=4, image_size=8, num_classes=3)
    preprocessing = hydra_export.Preprocessing(image_size=8, mean=(0.5,) * 3, std=(0.5,) * 3)
    info = hydra_export.CheckpointInfo(name="own", config=config, preprocessing=preprocessing, trained_heads=(1, 2))
    model = hydra_export.HydraViT(config)
    hydra_export.save_checkpoint(tmp_path / "own.safetensors", model.state_dict(), info)
    jobs = hydra_export.jobs(["onnx"], ["universal"], input="image", batch="dynamic")
    assert [job.spec for job in jobs] == [hydra_export.ExportSpec(graph="universal", input="image", batch="dynamic")]
    loaded = hydra_export.load_checkpoint(tmp_path / "own.safetensors")
    assert loaded.info == info
    manifest = hydra_export.export_bundle(loaded, tmp_path / "out", jobs)
    assert {artifact.graph for artifact in manifest.artifacts} == {"universal"}


def test_errors_are_caught_by_their_public_names(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(hydra_export.BadInput) as bad:
        hydra_export.load_checkpoint(tmp_path / "none.safetensors")
    assert isinstance(bad.value, hydra_export.HydraExportError)
    assert bad.value.remedy
    loaded = hydra_export.load_checkpoint(tiny_checkpoint)
    hydra_export.export_bundle(loaded, tmp_path / "out", hydra_export.jobs(["onnx"]))
    (tmp_path / "out" / "manifest.json").write_bytes(b"{}")
    with pytest.raises(hydra_export.CheckFailed) as failed:
        hydra_export.verify_bundle(tmp_path / "out")
    assert isinstance(failed.value, hydra_export.HydraExportError)
    assert not isinstance(failed.value, hydra_export.BadInput)


def test_what_the_core_ml_evaluator_has_is_listed_and_documented() -> None:
    """It is public, too, under a name of its own."""
    from hydra_export import mil

    assert mil.__all__ == ["Compute", "Feature", "Function", "Limits", "Package", "Signature", "check", "load"]
    for name in set(mil.__all__) - {"Compute"}:  # a Literal, which has no text of its own
        assert inspect.getdoc(getattr(mil, name)), name
