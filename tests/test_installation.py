"""The command that installs more of this package, as it was installed."""

from __future__ import annotations

import json
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import pytest

from hydra_export.errors import MissingExtra
from hydra_export.installation import install_command

ORIGINS: dict[str, tuple[dict[str, Any] | None, str]] = {
    "an index": (None, "pip install 'hydra-export[tflite]'"),
    "an editable checkout": (
        {"url": "file:///home/me/my%20code/hydra", "dir_info": {"editable": True}},
        "pip install -e '/home/me/my code/hydra[tflite]'",
    ),
    "a folder": ({"url": "file:///src/hydra", "dir_info": {}}, "pip install '/src/hydra[tflite]'"),
    "a repository": (
        {
            "url": "https://example.org/hydra.git",
            "vcs_info": {"vcs": "git", "commit_id": "0" * 40, "requested_revision": "v1"},
        },
        "pip install 'hydra-export[tflite] @ git+https://example.org/hydra.git@v1'",
    ),
    "a wheel": (
        {"url": "file:///tmp/hydra_export-1.whl", "archive_info": {}},
        "pip install 'hydra-export[tflite] @ file:///tmp/hydra_export-1.whl'",
    ),
}


@pytest.mark.parametrize("kind", ORIGINS)
def test_more_is_installed_as_the_package_was(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin, expected = ORIGINS[kind]
    installed(tmp_path, origin, monkeypatch)
    assert install_command("tflite") == expected
    assert MissingExtra("It", "a package", "tflite").remedy == f"Run: {expected}"


def test_uv_installs_what_it_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, None, monkeypatch, installer="uv")
    assert install_command() == "uv pip install hydra-export"


def installed(folder: Path, origin: dict[str, Any] | None, patch: pytest.MonkeyPatch, installer: str = "pip") -> None:
    """The metadata that an installer writes."""
    metadata = folder / "hydra_export-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: hydra-export\nVersion: 1\n")
    (metadata / "INSTALLER").write_text(f"{installer}\n")
    if origin is not None:
        (metadata / "direct_url.json").write_text(json.dumps(origin))
    patch.syspath_prepend(folder)
    assert str(Distribution.from_name("hydra-export").locate_file("")) == str(folder)
