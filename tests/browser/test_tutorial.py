"""The page that docs/deploying/browser.md writes, as it stands there, with the bundle that it exports."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from hydra_export.cli import main
from tests.browser.conftest import PACKAGES, Serve

if TYPE_CHECKING:
    from playwright.sync_api import Browser

TUTORIAL = Path(__file__).parents[2] / "docs" / "deploying" / "browser.md"


def test_the_page_of_the_tutorial_names_what_is_on_a_photograph(
    browser: Browser, files: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = TUTORIAL.read_text(encoding="utf-8")
    (html,) = re.findall(r"^```html\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (command,) = re.findall(r"^hydra-export (--target onnx .+)$", text, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command)) == 0
    (tmp_path / "index.html").write_text(html, encoding="utf-8")
    (tmp_path / "node_modules").symlink_to(PACKAGES / "node_modules")
    golden = np.load(tmp_path / "dist" / "golden" / "golden.npz")
    Image.fromarray(golden["pixels"][0, ..., 0]).save("photo.png")
    labels = (tmp_path / "dist" / "labels.txt").read_text(encoding="utf-8").splitlines()

    with files(tmp_path) as url:
        page = browser.new_page()
        page.goto(url)
        page.wait_for_function("document.querySelector('#answer').textContent === 'Choose a photograph.'")
        page.set_input_files("#photo", "photo.png")
        page.wait_for_function("document.querySelector('#answer').textContent.includes('%')")
        assert page.inner_text("#answer").startswith(labels[golden["logits_k12"][0].argmax()])
        page.close()
