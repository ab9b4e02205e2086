"""The playground in headless Chromium, on whole bundles, against their golden data."""

from __future__ import annotations

import random
import re
import shutil
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from hydra_export import checkpoint, checkpoint_file
from hydra_export.architecture import HydraConfig
from hydra_export.bundle import GOLDEN
from hydra_export.data.decoding import decoded
from hydra_export.exporting import export, jobs
from hydra_export.preprocess import Preprocessing
from tests.browser.conftest import Launch, resigned
from tests.browser.playground import (
    ANSWERS,
    HEADS,
    NEXT,
    SOON,
    differences,
    every_choice,
    opened,
    served,
    use,
)
from tests.conftest import perturbed

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.mark.parametrize("backend", ["ort-wasm", "litert-wasm"])
def test_head_counts_switched_a_hundred_times_give_the_golden_outputs_each_time(
    browser: Browser, bundles: dict[str, Path], backend: str
) -> None:
    chosen = random.Random(7)
    choices = [(chosen.choice(HEADS), chosen.randrange(4)) for _ in range(100)]
    with served(bundles["universal"]) as played, opened(browser, played.url) as page:
        assert "Passed" in use(page, backend)
        answers = page.evaluate(ANSWERS, choices)
        assert page.is_hidden("#problem")
    assert differences(bundles["universal"], choices, answers) == []


def test_webgpu_gives_the_golden_outputs_on_a_graphics_processor_in_software(
    launch: Launch, bundles: dict[str, Path]
) -> None:
    flags = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"]
    with launch(*flags) as browser, served(bundles["universal"]) as played, opened(browser, played.url) as page:
        if page.is_disabled("#use-ort-webgpu"):
            pytest.skip("this Chromium has no WebGPU in software")
        assert "Passed" in use(page, "ort-webgpu")
        answers = page.evaluate(ANSWERS, every_choice())
    assert differences(bundles["universal"], every_choice(), answers) == []


def test_each_head_count_is_checked_and_the_errors_are_listed(playground: Page) -> None:
    rows = playground.locator("[data-backend=ort-wasm] tbody tr").all_text_contents()
    assert [row.startswith(f"{k}passed") for k, row in zip(HEADS, rows, strict=True)] == [True] * 3
    assert "found no GPU for WebGPU" in playground.inner_text("#verdict-ort-webgpu")
    assert playground.is_disabled("#use-ort-webgpu")


def test_a_page_opened_as_a_file_says_what_to_do(browser: Browser) -> None:
    page = browser.new_page()
    page.goto(Path(str(resources.files("hydra_export.serving") / "page" / "index.html")).as_uri())
    assert "hydra-export serve BUNDLE" in page.inner_text("body")
    assert "Loading" not in page.inner_text("body")
    page.close()


def test_samples_are_the_golden_images_whatever_the_crop_takes_away(browser: Browser, tmp_path: Path) -> None:
    config = HydraConfig(heads=4, head_dim=8, depth=2, patch_size=4, image_size=16, num_classes=7)
    data = Preprocessing(image_size=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), crop=0.875)
    info = checkpoint_file.CheckpointInfo(name="tiny", config=config, preprocessing=data, export_heads=(2, 4))
    checkpoint_file.write(tmp_path / "tiny.safetensors", perturbed(config).state_dict(), info)
    wide = checkpoint.with_image_size(checkpoint.load(tmp_path / "tiny.safetensors"), (16, 24))
    export(wide, tmp_path / "tiny", jobs(["onnx"], ["universal"]))
    choices = [(k, sample) for k in (2, 4) for sample in range(4)]
    with served(tmp_path / "tiny") as played, opened(browser, played.url) as page:
        answers = page.evaluate(ANSWERS, choices)
        assert "--target tflite" in page.inner_text("#verdict-litert-wasm")
    with np.load(tmp_path / "tiny" / GOLDEN) as golden:
        for (k, sample), outputs in zip(choices, answers, strict=True):
            np.testing.assert_allclose(outputs, golden[f"logits_k{k}"][sample], rtol=1e-4, atol=1e-5)


def test_another_precision_is_checked_and_used_too(browser: Browser, bundles: dict[str, Path]) -> None:
    with served(bundles["universal"]) as played, opened(browser, played.url) as page:
        page.select_option("#precision", "int8")
        page.wait_for_selector("#verdict-ort-wasm:has-text('Passed: error ')", timeout=SOON)
        page.wait_for_selector("#measure:enabled", timeout=SOON)
        rows = page.locator("[data-backend=ort-wasm] tbody tr").all_text_contents()
        assert [re.fullmatch(r"\d+passed.*same class", row) is not None for row in rows] == [True] * 3
        used = "import('./page/chooser.js').then(({ inUse }) => inUse().model.artifacts.get(3).precision)"
        assert page.evaluate(used) == "int8"
        assert page.input_value("#precision") == "int8"
        assert "Passed" in use(page, "litert-wasm")
        assert page.is_hidden("#precision-field")


def test_a_backend_that_fails_is_neither_used_nor_timed(
    browser: Browser, bundles: dict[str, Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(bundles["universal"], tmp_path / "copy"))
    with np.load(copy / GOLDEN) as arrays:
        changed: dict[str, Any] = {
            name: np.roll(arrays[name], 1, -1) if name.endswith("logits_k6") else arrays[name] for name in arrays
        }
    np.savez(copy / GOLDEN, **changed)
    resigned(copy)
    with served(copy) as played, opened(browser, played.url) as page:
        assert page.inner_text("#verdict-ort-wasm") == "Failed with 6 heads"
        assert page.inner_text("#verdict-litert-wasm") == "Failed with 6 heads"
        assert "neither used nor timed" in page.inner_text("#problem")
        assert page.is_disabled("#measure")
        assert page.is_disabled("#heads")


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_where_a_backend_cannot_load_its_files_another_is_used(
    browser: Browser, bundles: dict[str, Path], damage: str
) -> None:
    context = browser.new_context(service_workers="block")
    page = context.new_page()

    def answer(route: Any) -> None:
        if damage == "missing":
            route.fulfill(status=404)
        else:
            content = bytearray(route.fetch().body())
            content[1000] ^= 1
            route.fulfill(body=bytes(content))

    page.route("**/*.bin", answer)
    with served(bundles["universal"]) as played:
        page.goto(played.url)
        page.wait_for_selector("body[data-ready]", timeout=SOON)
        said = page.inner_text("#verdict-ort-wasm")
        assert "universal.bin" in said
        assert ("404" if damage == "missing" else "does not match the manifest") in said
        assert page.is_checked("#use-litert-wasm")
        assert page.is_enabled("#measure")
    context.close()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_photograph_becomes_in_the_page_what_it_becomes_here(
    browser: Browser, bundles: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, as phones write it
    Image.fromarray(load_sample_image("china.jpg")).save(tmp_path / "photo", kind, exif=exif)
    loaded = checkpoint.load()
    pixels = loaded.info.preprocessing.fit(decoded(tmp_path / "photo"))
    with torch.inference_mode():
        logits = loaded.model(torch.from_numpy(loaded.info.preprocessing.normalise(pixels[None])), HEADS[0])
    share, best = logits.softmax(1)[0].max(0)
    with served(bundles["universal"]) as played, opened(browser, played.url) as page:
        page.evaluate(f"() => {{ window.answered = ({NEXT})('answer'); }}")
        page.set_input_files("#file", tmp_path / "photo")
        page.evaluate("answered.then(() => true)")
        assert page.inner_text("#label") == loaded.info.labels[int(best)]
        assert page.inner_text("#facts").startswith(f"{100 * float(share):.0f}\u00a0% sure")
        assert page.locator("#top li").count() == 5


def test_what_is_no_image_is_refused(browser: Browser, bundles: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_text("no image")
    with served(bundles["universal"]) as played, opened(browser, played.url) as page:
        page.set_input_files("#file", tmp_path / "photo.png")
        page.wait_for_selector("#problem:not([hidden])")
        assert page.inner_text("#problem").startswith("photo.png cannot be read by this browser.")


@pytest.mark.parametrize("given", [2, 0, 13, -1])
def test_a_head_count_that_is_not_listed_is_an_error(playground: Page, given: int) -> None:
    program = """async k => {
        const { inUse } = await import("./page/chooser.js");
        const ort = await import("./packages/onnxruntime-web/dist/ort.wasm.bundle.min.mjs");
        const { bundle, artifacts } = inUse().model, artifact = artifacts.get(3);
        const session = await bundle.load(ort, artifact);
        return session.run(bundle.image(artifact, 0), k).then(String, error => `refused: ${error.message}`);
    }"""
    said = playground.evaluate(program, given)
    assert said.startswith("refused: ")
    assert "cannot be reshaped" in said  # the guard inside the graph


def test_a_budget_keeps_the_head_count_small_or_lets_it_grow_and_counts_what_misses_it(
    browser: Browser, bundles: dict[str, Path]
) -> None:
    with served(bundles["universal"]) as played, opened(browser, played.url) as page:
        page.check("[name=mode][value=budget]")
        page.wait_for_selector("#ms:visible")
        page.fill("#ms", "0.001")
        page.press("#ms", "Tab")
        page.click("#repeat")
        page.wait_for_selector("#missed:has-text('calls took longer than 0.001 ms (100.0')", timeout=SOON)
        assert page.inner_text("#heads-now") == "3"
        assert page.is_disabled("#heads")
        page.fill("#ms", "10000")
        page.press("#ms", "Tab")
        page.wait_for_selector("#heads-now:has-text('12')", timeout=SOON)
        page.wait_for_selector("#missed:has-text('0 of')", timeout=SOON)


def test_a_cascade_tries_few_heads_first(browser: Browser, bundles: dict[str, Path]) -> None:
    with served(bundles["calibrated"]) as played, opened(browser, played.url) as page:
        page.check("[name=mode][value=cascade]")
        page.select_option("#as-good-as", "6")
        page.wait_for_selector("#facts:has-text('tried 3, then 6 heads')", timeout=SOON)
        page.select_option("#as-good-as", "12")
        page.wait_for_selector("#facts:has-text('3 heads')", timeout=SOON)
        page.wait_for_selector("#histogram text:has-text('3 → 6')", state="attached", timeout=SOON)
        page.select_option("#as-good-as", "6")
        page.check("[name=mode][value=both]")
        page.fill("#ms", "0.001")
        page.press("#ms", "Tab")
        page.wait_for_selector("#facts:has-text('3 heads')", timeout=SOON)
        page.fill("#ms", "10000")
        page.press("#ms", "Tab")
        page.click("#repeat")
        page.wait_for_selector("#facts:has-text('tried 3, then 6 heads')", timeout=SOON)
        page.wait_for_selector("#plot text:has-text('cascade for 6')", state="attached", timeout=SOON)


def test_without_calibration_the_page_says_how_to_get_cascades(playground: Page) -> None:
    assert playground.is_disabled("[name=mode][value=cascade]")
    assert playground.is_disabled("[name=mode][value=both]")
    assert "hydra-export calibrate BUNDLE" in playground.inner_text("#calibrate-note")


def test_the_camera_s_frames_are_answered_one_after_another(launch: Launch, bundles: dict[str, Path]) -> None:
    wanted = """const media = navigator.mediaDevices, real = media.getUserMedia.bind(media);
        window.facing = [];
        media.getUserMedia = wanted => { facing.push(wanted.video.facingMode); return real(wanted); };"""
    flags = ["--use-fake-device-for-media-stream=device-count=2", "--use-fake-ui-for-media-stream"]
    with (
        launch(*flags) as browser,
        served(bundles["universal"]) as played,
        opened(browser, played.url, script=wanted) as page,
    ):
        page.click("#camera")
        page.wait_for_selector("#video:visible")
        for _ in range(5):
            assert page.evaluate(f"({NEXT})('answer').then(({{sample}}) => sample === undefined)")
        page.click("#turn")
        page.wait_for_selector("#video.mirrored")
        assert page.evaluate("facing") == ["environment", "user"]
        assert page.evaluate(f"({NEXT})('answer').then(({{answer}}) => answer.tried[0])") == 3
        page.click("#camera")
        page.wait_for_selector("#shown:visible")
        assert page.evaluate("document.querySelector('#video').srcObject") is None


def test_a_camera_that_is_refused_is_said(browser: Browser, bundles: dict[str, Path]) -> None:
    refused = "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotAllowedError'); };"
    with served(bundles["universal"]) as played, opened(browser, played.url, script=refused) as page:
        page.click("#camera")
        page.wait_for_selector("#problem:has-text('The camera was not allowed')")
        assert page.inner_text("#camera") == "Camera"


def test_without_https_it_runs_and_says_why_there_is_no_camera(launch: Launch, bundles: dict[str, Path]) -> None:
    flags = ["--host-resolver-rules=MAP playground.test 127.0.0.1"]
    with (
        launch(*flags) as browser,
        served(bundles["universal"], name="playground.test") as played,
        opened(browser, played.url) as page,
    ):
        assert not page.evaluate("isSecureContext")
        assert page.is_disabled("#camera")
        assert "https or localhost" in page.inner_text("#camera-note")
        assert "https or localhost" in page.inner_text("#verdict-ort-webgpu")
        assert "https and localhost" in page.inner_text("#offline")
        assert differences(bundles["universal"], [(6, 1)], page.evaluate(ANSWERS, [(6, 1)])) == []


def test_once_loaded_it_works_without_the_server(browser: Browser, bundles: dict[str, Path]) -> None:
    with served(bundles["universal"]) as played, opened(browser, played.url) as page:
        assert "Passed" in use(page, "litert-wasm")
        page.wait_for_selector("body[data-offline]", timeout=SOON)
        page.evaluate("import('./page/offline.js').then(({ keepOffline }) => keepOffline())")
        played.stop()
        page.context.set_offline(True)
        page.reload()
        page.wait_for_selector("body[data-ready]", timeout=SOON)
        answers = page.evaluate(ANSWERS, every_choice())
        assert "Passed" in use(page, "litert-wasm")
        answers += page.evaluate(ANSWERS, every_choice())
        page.context.set_offline(False)
    assert differences(bundles["universal"], every_choice() * 2, answers) == []
