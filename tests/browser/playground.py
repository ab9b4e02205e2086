"""The playground as tests see it: served by the server itself, opened in a page that must ask for nothing elsewhere."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from hydra_export import checkpoint, serving
from hydra_export.bundle import GOLDEN
from hydra_export.calibration import CalibratedCascade, CalibratedHeads, Calibration
from hydra_export.exporting import export, jobs
from hydra_export.serving.taking import take
from tests.browser.conftest import PACKAGES, resigned

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HEADS = (3, 6, 12)
SOON = 60_000  # milliseconds
READY = "body[data-ready]"
# The next event that the page tells of; and those that follow a head count or a sample chosen in it.
NEXT = "name => new Promise(next => document.addEventListener(`playground-${name}`, e => next(e.detail), {once: true}))"
ANSWERS = """async choices => {
    const found = [], slider = document.querySelector('#heads');
    const { inUse } = await import('./page/chooser.js');
    for (const [heads, sample] of choices) {
        const answered = new Promise(next => document.addEventListener('playground-answer', function heard({ detail }) {
            if (detail.answer.heads !== heads || detail.sample !== sample) return;
            document.removeEventListener('playground-answer', heard);
            next([...detail.answer.outputs]);
        }));
        document.querySelector(`[data-sample="${sample}"]`).click();
        slider.value = inUse().model.heads.indexOf(heads);
        slider.dispatchEvent(new Event('input'));
        found.push(await answered);
    }
    return found;
}"""


@dataclass
class Played:
    """A server that runs; *records* are those that it was sent, *stop* ends it early."""

    url: str
    stop: Callable[[], None]
    records: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def served(bundle: Path, profiles: Path | None = None, name: str = "127.0.0.1") -> Iterator[Played]:
    """The server of `hydra-export serve` for *bundle*, which keeps records in *profiles*."""
    with serving.opened(bundle, PACKAGES) as listing:

        def keep(content: bytes) -> dict[str, Any]:
            played.records.append(json.loads(content))
            return take(content, listing.manifest, folder=profiles)

        server = serving.Server(
            ("127.0.0.1", 0),
            listing.with_session(is_static=False, is_secure=True),
            inline_scripts=listing.inline_scripts(),
            take=keep,
            say=lambda line: None,
            names=(name,),
        )
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()

        def stop() -> None:
            if thread.is_alive():
                server.shutdown()
                server.server_close()
                thread.join()

        played = Played(f"http://{name}:{server.server_port}/", stop)
        try:
            yield played
        finally:
            stop()


@contextmanager
def opened(browser: Browser, url: str, *, query: str = "", script: str = "", **how: Any) -> Iterator[Page]:
    """The page at *url*, ready; it must ask nothing of others, break no rule of its policy, and lose no error."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **how})
    asked: list[str] = []
    said: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text) if "Content Security" in message.text else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    if script:
        page.add_init_script(script)
    page.goto(url + query)
    page.wait_for_selector(READY, timeout=120_000)
    yield page
    context.close()
    assert asked
    assert [each for each in asked if not each.startswith((url, "blob:", "data:"))] == []
    assert said == []


def export_bundles(folder: Path) -> dict[str, Path]:
    """The packaged model for every backend, and the same with a calibration."""
    packaged = checkpoint.load()
    listed = [*jobs(["onnx", "tflite"], ["universal"]), *jobs(["onnx"], ["universal"], ["int8"])]
    export(packaged, folder / "universal", listed, heads=HEADS)
    shutil.copytree(folder / "universal", folder / "calibrated")
    resigned(folder / "calibrated", _calibrated)
    return {path.name: path for path in folder.iterdir()}


def _calibrated(text: str) -> str:
    """A manifest with two cascades: of the first, 3 heads are never sure enough; of the second, always."""
    accuracy: dict[str, Any] = {"accuracy": 89, "low": 88, "high": 90}
    gain: dict[str, Any] = {"gain": 0, "gain_low": -1, "gain_high": 1, "gmacs": 0.01, "shares": (1, 0.5)}
    calibration = Calibration(
        data="images",
        labels=True,
        num_fitted=3000,
        num_reported=7000,
        within=0,
        subnetworks=tuple(
            CalibratedHeads(heads=k, temperature=0.75, ece_before=9, ece_after=1, **accuracy) for k in HEADS
        ),
        cascades=(
            CalibratedCascade(as_good_as=6, heads=(3, 6), thresholds=(1,), **accuracy, **gain),
            CalibratedCascade(as_good_as=12, heads=(3, 12), thresholds=(0,), **accuracy, **gain),
        ),
    )
    return json.dumps({**json.loads(text), "calibration": msgspec.to_builtins(calibration)})


def differences(bundle: Path, choices: list[tuple[int, int]], answers: list[list[float]]) -> list[str]:
    """The answers that are not the golden outputs, within ten times what float32 takes on any backend here."""
    with np.load(bundle / GOLDEN) as golden:
        wanted = {k: golden[f"logits_k{k}"] for k in HEADS}
    found = []
    for (k, sample), outputs in zip(choices, answers, strict=True):
        error = np.abs(np.array(outputs) - wanted[k][sample]).max()
        if not error <= 2e-5:
            found.append(f"k = {k}, image {sample}: {error}")
    return found


def use(page: Page, backend: str) -> str:
    """Chooses *backend* and waits for what the page says of it."""
    page.check(f"#use-{backend}")
    page.wait_for_selector(f"[data-backend={backend}]:is([data-state=passed], [data-state=failed])", timeout=2 * SOON)
    if "Passed" in (verdict := page.inner_text(f"#verdict-{backend}")):
        page.wait_for_selector(f"#measure:enabled, #use-{backend}:not(:checked)", timeout=SOON)
    return verdict


def every_choice() -> list[tuple[int, int]]:
    return [(k, sample) for sample in range(4) for k in HEADS]
