"""Pages in a real browser; `make browser` installs what they need and names the browser."""

from __future__ import annotations

import functools
import http.server
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hydra_export import bundle, checkpoint, checkpoint_file
from hydra_export.architecture import HydraConfig
from hydra_export.bundle import ArtifactEntry
from hydra_export.conversion import Job
from hydra_export.exporting import export, jobs
from hydra_export.gate import Gate
from hydra_export.preprocess import Preprocessing
from tests.conftest import available_targets, perturbed

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PACKAGES = Path(__file__).parents[2] / ".browser"  # where `make browser` has npm install them
Serve = Callable[[Path], AbstractContextManager[str]]
Launch = Callable[..., AbstractContextManager["Browser"]]


@pytest.fixture(scope="session")
def launch() -> Iterator[Launch]:
    """Starts the browser at the path in HYDRA_EXPORT_BROWSER, headless, with the arguments it is given."""
    executable = os.environ.get("HYDRA_EXPORT_BROWSER")
    if not executable:
        pytest.skip("no HYDRA_EXPORT_BROWSER: `make browser` runs this")
    from playwright.sync_api import sync_playwright

    @contextmanager
    def launched(*arguments: str) -> Iterator[Browser]:
        # Without a sandbox, which containers do not allow: the pages are our own, from this machine.
        running = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", *arguments])
        try:
            yield running
        finally:
            running.close()

    with sync_playwright() as playwright:
        yield launched


@pytest.fixture(scope="session")
def browser(launch: Launch) -> Iterator[Browser]:
    """One for the tests that want nothing special; it has a camera, which shows a test picture."""
    with launch("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream") as running:
        yield running


@pytest.fixture(scope="session")
def bundles(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The playground's; see ``export_bundles``."""
    from tests.browser.playground import export_bundles

    return export_bundles(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles of a tiny model for ONNX and TFLite: every graph kind and precision, input form and batch; and tokens."""
    place = tmp_path_factory.mktemp("tiny")
    config = HydraConfig(heads=4, head_dim=8, depth=2, patch_size=4, image_size=16, num_classes=7)
    data = Preprocessing(image_size=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), crop=1.0)
    info = checkpoint_file.CheckpointInfo(name="tiny", config=config, preprocessing=data, export_heads=(2, 4))
    checkpoint_file.write(place / "tiny.safetensors", perturbed(config).state_dict(), info)
    model, every = checkpoint.load(place / "tiny.safetensors"), ["fp32", "fp16", "int8"]
    both = ["onnx", "tflite"] if "tflite" in available_targets() else ["onnx"]

    def written(name: str, model: checkpoint.Checkpoint, *wanted: Job) -> None:
        export(model, place / name, wanted, gate=Gate(open=True))

    two = ["separate", "universal"]
    written("tensor", model, *jobs(both, two, every), *jobs(["onnx"], ["shared"], every))
    written("three", model, *jobs(both, two, batch=3), *jobs(["onnx"], ["shared"], batch=3))
    written("image", model, *jobs(both, two, input="image"), *jobs(["onnx"], ["shared"], input="image"))
    written("dynamic", model, *jobs(both, ["universal"], input="image", batch="dynamic"))
    tokens = checkpoint.with_output(checkpoint.with_image_size(model, (16, 24)), "tokens")
    written("tokens", tokens, *jobs(both, ["separate"], ["fp32", "int8"]))
    return {path.name: path for path in place.iterdir() if path.is_dir()}


def onnx(folder: Path) -> list[ArtifactEntry]:
    return [each for each in bundle.read(folder).artifacts if each.target == "onnx"]


def resigned(folder: Path, change: Callable[[str], str] = str) -> None:
    """Writes into the manifest what *change* makes of it, and into manifest and SHA256SUMS what the files hash to."""
    manifest = bundle.read(folder)
    (old,) = (entry.sha256 for entry in manifest.files if entry.path == bundle.GOLDEN)
    new = bundle.file_entry(folder, bundle.GOLDEN).sha256
    (folder / bundle.MANIFEST).write_text(change((folder / bundle.MANIFEST).read_text().replace(old, new)))
    digest = bundle.file_entry(folder, bundle.MANIFEST).sha256
    sums = (folder / bundle.SUMS).read_text().replace(old, new)
    (folder / bundle.SUMS).write_text(re.sub(r".{64}  manifest.json", f"{digest}  manifest.json", sums))


@pytest.fixture(scope="module")
def playground(browser: Browser, bundles: dict[str, Path]) -> Iterator[Page]:
    """The page on a bundle without calibration, for tests that leave it as it is."""
    from tests.browser.playground import opened, served

    with served(bundles["universal"]) as played, opened(browser, played.url) as page:
        yield page


@pytest.fixture
def files() -> Serve:
    """Serves a folder as any host of static files does."""

    @contextmanager
    def serving(folder: Path) -> Iterator[str]:
        handler = functools.partial(_Quiet, directory=str(folder))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            try:
                yield f"http://127.0.0.1:{server.server_port}/"
            finally:
                server.shutdown()

    return serving


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass
