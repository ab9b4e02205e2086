"""The notebook runs from its first cell to its last, with another model than its own, which is downloaded."""

from __future__ import annotations

from pathlib import Path

import msgspec
import nbclient
import nbformat
import pytest

from hydra_export import load_checkpoint, save_checkpoint

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebooks" / "hydra_export.ipynb"


def opened() -> nbformat.NotebookNode:
    notebook: nbformat.NotebookNode = nbformat.read(NOTEBOOK, as_version=4)
    return notebook


def test_it_is_stored_without_outputs() -> None:
    for cell in opened().cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.slow
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = load_checkpoint()
    info = msgspec.structs.replace(packaged.info, name="my-vit", trained_heads=(12,), export_heads=(12,))
    save_checkpoint(tmp_path / "my-vit.safetensors", packaged.state, info)
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[2]))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")

    notebook = opened()
    notebook.cells = [cell for cell in notebook.cells if "install" not in cell.metadata.get("tags", [])]
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source += '\nMODEL = "my-vit.safetensors"'
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()

    printed = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = "".join(output.get("text", "") for output in printed)
    assert "tflite/my-vit-k12.tflite" in shown
    assert all(f"k = {heads:2}: top-1" in shown for heads in (3, 6, 12))
    assert any("image/png" in output.get("data", {}) for output in printed)
