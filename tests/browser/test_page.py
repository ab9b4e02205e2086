"""The example page: onnxruntime-web in headless Chromium on whole bundles, against their golden logits."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from hydra_export import checkpoint
from hydra_export.bundle import GOLDEN
from hydra_export.data.decoding import decoded
from hydra_export.exporting import export, jobs
from hydra_export.preprocess import Preprocessing
from tests.browser.conftest import Serve, resigned

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HEADS = (3, 6, 12)
DONE = "document.body.dataset.ready && !document.querySelector('#check').disabled"


@pytest.fixture(scope="session")
def bundles(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The packaged model, in every graph kind and precision, in both input forms."""
    folder = tmp_path_factory.mktemp("bundles")
    packaged = checkpoint.load()
    graphs, precisions = ["separate", "shared", "universal"], ["fp32", "fp16", "int8"]
    export(packaged, folder / "tensor", jobs(["onnx"], graphs, precisions), heads=HEADS)
    export(packaged, folder / "image", jobs(["onnx"], ["universal"], input="image"), heads=HEADS)
    return {form: folder / form for form in ("tensor", "image")}


@contextmanager
def opened(browser: Browser, url: str) -> Iterator[Page]:
    page = browser.new_page()
    page.goto(url)
    page.wait_for_selector("body[data-ready]")
    yield page
    page.close()


def checked(page: Page) -> list[list[str]]:
    """The table's rows, after a click on the button."""
    page.click("#check")
    page.wait_for_function(f"{DONE} || document.querySelector('#error').textContent", timeout=120_000)
    rows: list[list[str]] = page.eval_on_selector_all(
        "#results tr", "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
    )
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("form", ["tensor", "image"])
def test_every_artifact_gives_the_golden_logits_with_head_counts_switched_call_by_call(
    browser: Browser, bundles: dict[str, Path], serve: Serve, form: str
) -> None:
    manifest = json.loads((bundles[form] / "manifest.json").read_text())
    wanted = {(Path(each["path"]).name, str(k)) for each in manifest["artifacts"] for k in each["heads"]}
    with serve(bundles[form]) as url, opened(browser, url) as page:
        rows = checked(page)
        assert page.inner_text("#error") == ""
        assert page.inner_text("#status") == "Every artifact gives the golden logits."
    assert {(name, k) for name, k, *_ in rows} == wanted
    assert {row[-1] for row in rows} == {"passed"}


def test_the_page_says_what_the_chosen_head_count_makes_of_each_image(
    browser: Browser, bundles: dict[str, Path], serve: Serve
) -> None:
    with serve(bundles["image"]) as url, opened(browser, url) as page:
        for k in (12, 3, 6):
            page.check(f"input[value='{k}']")
            page.wait_for_function(f"document.querySelector('#status').textContent.startsWith('{k} heads')")
            captions = page.locator("figcaption").all_inner_texts()
            assert [caption.split(",")[0] for caption in captions] == ["T-shirt/top", "Trouser", "Pullover", "Dress"]


def test_head_counts_are_chosen_with_the_keyboard(browser: Browser, bundles: dict[str, Path], serve: Serve) -> None:
    with serve(bundles["image"]) as url, opened(browser, url) as page:
        page.focus("input[value='3']")
        page.keyboard.press("ArrowDown")
        page.wait_for_function("document.querySelector('#status').textContent.startsWith('6 heads')")


def test_nothing_is_asked_of_another_machine(browser: Browser, bundles: dict[str, Path], serve: Serve) -> None:
    asked: list[str] = []
    with serve(bundles["image"]) as url:
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        page.wait_for_selector("body[data-ready]")
        page.close()
        assert asked
        assert [each for each in asked if not each.startswith((url, "data:", "blob:"))] == []


@pytest.mark.parametrize("given", ["2", "0", "13", "-1"])
def test_a_head_count_that_is_not_listed_is_an_error(
    browser: Browser, bundles: dict[str, Path], serve: Serve, given: str
) -> None:
    program = """async (k) => {
        const ort = await import("./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs");
        const { Bundle } = await import("./bundle/snippets/bundle.mjs");
        const bundle = await Bundle.open("bundle/");
        const artifact = bundle.artifacts.find((each) => each.inputs.length > 1);
        const model = await bundle.load(ort, artifact);
        try {
            return String(await model.run(bundle.image(artifact, 0), Number(k)));
        } catch (error) {
            return `refused: ${error.message}`;
        }
    }"""
    with serve(bundles["image"]) as url, opened(browser, url) as page:
        said = page.evaluate(program, given)
    assert said.startswith("refused: ")
    assert "cannot be reshaped" in said  # the guard inside the graph


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_photograph_becomes_in_the_page_what_it_becomes_here(
    browser: Browser, bundles: dict[str, Path], serve: Serve, tmp_path: Path, kind: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6 if kind == "JPEG" else 1  # to be turned
    photo = Image.fromarray(load_sample_image("flower.jpg"))
    photo.save(tmp_path / "photo", kind, exif=exif)
    data = Preprocessing(image_size=96, mean=(0.5,) * 3, std=(0.5,) * 3)
    program = """async (preprocessing) => {
        const { decoded, fitted } = await import("./bundle/snippets/preprocess.mjs");
        return [...fitted(await decoded(document.querySelector("#photograph").files[0]), preprocessing)];
    }"""
    with serve(bundles["image"]) as url, opened(browser, url) as page:
        page.set_input_files("#photograph", tmp_path / "photo")
        pixels = page.evaluate(program, msgspec.to_builtins(data))
        page.wait_for_function("document.querySelector('#answer').textContent")
        answer, error = page.inner_text("#answer"), page.inner_text("#error")
    expected = data.fit(decoded(tmp_path / "photo"))
    difference = np.abs(np.reshape(pixels, expected.shape) - expected.astype(int))
    assert difference.max() <= (0 if kind == "PNG" else 2)  # browsers decode a JPEG with a library of their own
    assert error == ""
    assert answer == best_label(decoded(tmp_path / "photo"))


def best_label(photo: Image.Image) -> str:
    loaded = checkpoint.load()
    pixels = loaded.info.preprocessing.fit(photo)
    with torch.inference_mode():
        logits = loaded.model(torch.from_numpy(loaded.info.preprocessing.normalise(pixels[None])), HEADS[0])
    share, best = logits.softmax(1)[0].max(0)
    return f"{loaded.info.labels[int(best)]}, {100 * float(share):.0f} %"


@pytest.mark.parametrize("damage", ["weights", "golden", "missing"])
def test_what_is_not_as_the_manifest_says_does_not_pass(
    browser: Browser, bundles: dict[str, Path], serve: Serve, tmp_path: Path, damage: str
) -> None:
    copy = shutil.copytree(bundles["image"], tmp_path / "copy")
    manifest: dict[str, Any] = json.loads((copy / "manifest.json").read_text())
    weights = copy / next(name for name in manifest["artifacts"][0]["files"] if name.endswith(".bin"))
    if damage == "weights":
        content = bytearray(weights.read_bytes())
        content[1000] ^= 1
        weights.write_bytes(content)
    elif damage == "missing":
        weights.unlink()
    else:
        with np.load(copy / GOLDEN) as arrays:
            changed = {name: np.roll(arrays[name], 1, -1) if "logits" in name else arrays[name] for name in arrays}
        np.savez(copy / GOLDEN, **changed)
        resigned(copy, lambda text: re.sub(r'"bound": [0-9.e-]+', '"bound": 1e308', text))  # nothing to judge by
    with serve(copy) as url, opened(browser, url) as page:
        if damage == "golden":
            assert {row[-1] for row in checked(page)} == {"failed"}
            assert "checks failed" in page.inner_text("#status")
        else:
            error = page.inner_text("#error")
            assert weights.name in error
            assert ("404" if damage == "missing" else "is not what the manifest says") in error
