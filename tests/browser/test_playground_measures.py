"""A device measures itself in the playground, and the record becomes times of the device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hydra_export import serving
from hydra_export.cli import main
from tests.browser.conftest import PACKAGES, Serve
from tests.browser.playground import ANSWERS, HEADS, SOON, differences, every_choice, opened, served, use

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PRETEND = """() => {
    Object.defineProperty(document, 'hidden', { configurable: true, get: () => window.away });
    window.leave = away => { window.away = away; document.dispatchEvent(new Event('visibilitychange')); };
    leave(false);
}"""


def measured(page: Page) -> None:
    page.click("#measure")
    page.wait_for_selector("#save:visible:enabled", timeout=2 * SOON)


@pytest.mark.parametrize("backend", ["ort-wasm", "litert-wasm"])
def test_its_record_is_kept_and_profile_answers_with_it(
    browser: Browser, bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], backend: str
) -> None:
    with served(bundles["universal"], tmp_path) as played, opened(browser, played.url, query="?calls=9") as page:
        assert "Passed" in use(page, backend)
        measured(page)
        said = page.inner_text("#measure-status")
        rows = page.locator("#measured tbody tr").all_inner_texts()
    (record,) = played.records
    assert {k: len(times) for k, times in record["samples_ms"].items()} == {str(k): 9 for k in HEADS}
    assert all(check["passed"] for check in record["checks"].values())
    assert record["version"] == {"ort-wasm": "1.30.0", "litert-wasm": "2.5.3"}[backend]
    assert not record["conditions"]["hidden"]
    assert record["browser"]["cores"] > 0
    assert [(row.split()[0], row.split()[-1]) for row in rows] == [(str(k), "9") for k in HEADS]
    assert said.startswith("Saved 3 times of ")
    command = said[said.index("hydra-export ") : said.index(" shows")].split()[1:]
    assert main([*command, "--profiles", str(tmp_path), "--bundle", str(bundles["universal"]), "--json"]) == 0
    assert record["backend"] in capsys.readouterr().out


def test_each_call_is_timed_after_a_warm_up_until_there_are_fifty_of_each_head_count(
    browser: Browser, bundles: dict[str, Path], tmp_path: Path
) -> None:
    with served(bundles["universal"], tmp_path) as played, opened(browser, played.url) as page:
        measured(page)
    (record,) = played.records
    assert [len(times) for times in record["samples_ms"].values()] == [50, 50, 50]
    assert record["conditions"]["warmup_calls"] == 5


def test_slow_calls_end_after_ten_seconds_and_head_counts_take_turns(playground: Page) -> None:
    program = """async () => {
        const { measure } = await import('./page/measure.js');
        const clock = performance.now;
        let now = 0;
        performance.now = () => now;
        const order = [];
        const golden = { pixels: { shape: [1, 2, 2, 1], data: new Uint8Array(4) } };
        const runFitted = async (_, k) => { order.push(k); now += k === 3 ? 1 : 3000; };
        const { samples } = await measure({ heads: [3, 6], bundle: { golden }, runFitted }, { calls: 8 });
        performance.now = clock;
        return [samples[3].length, samples[6].length, order.slice(10, 18)];
    }"""
    fast, slow, order = playground.evaluate(program)
    assert (fast, slow) == (8, 4)
    assert [sorted(order[at : at + 2]) for at in range(0, 8, 2)] == [[3, 6]] * 4


def test_drift_is_the_last_third_over_the_first_whatever_the_head_counts(playground: Page) -> None:
    program = """async order => (await import('./page/measure.js')).drift(order)"""
    steady = [[k, float(k)] for _ in range(9) for k in (3, 12)]
    heated = [[k, k * (1.0 if turn < 6 else 1.5)] for turn in range(9) for k in (3, 12)]
    assert playground.evaluate(program, steady) == 1
    assert playground.evaluate(program, heated) == 1.5


def test_in_the_background_it_waits_and_says_so(browser: Browser, bundles: dict[str, Path], tmp_path: Path) -> None:
    with served(bundles["universal"], tmp_path) as played, opened(browser, played.url, query="?calls=100") as page:
        page.evaluate(PRETEND)
        page.click("#measure")
        page.wait_for_selector("progress[value]:visible")
        page.evaluate("leave(true)")
        page.wait_for_timeout(300)  # the call in progress ends
        before = page.evaluate("document.querySelector('#progress').value")
        page.wait_for_timeout(700)
        assert page.evaluate("document.querySelector('#progress').value") == before < 1
        page.evaluate("leave(false)")
        page.wait_for_selector("#save:visible:enabled", timeout=SOON)
        assert "was in the background" in page.inner_text("#measure-status")
    assert played.records[0]["conditions"]["hidden"]


def test_it_can_be_stopped_and_then_keeps_nothing(browser: Browser, bundles: dict[str, Path], tmp_path: Path) -> None:
    with served(bundles["universal"], tmp_path) as played, opened(browser, played.url, query="?calls=5000") as page:
        page.click("#measure")
        assert page.is_disabled("#heads")
        page.click("#stop")
        page.wait_for_selector("#measure:enabled")
        assert page.inner_text("#measure-status") == "Stopped; nothing was saved."
        assert page.is_enabled("#heads")
        assert page.is_hidden("#save")
    assert played.records == []


def test_what_the_server_refuses_is_shown_and_can_be_saved(browser: Browser, bundles: dict[str, Path]) -> None:
    answer = """const real = fetch; window.fetch = (url, how) => how?.method !== 'POST' ? real(url, how) :
        Promise.resolve(Response.json({ error: { message: 'It is full.', remedy: 'Make room.' } }, { status: 400 }));"""
    with served(bundles["universal"]) as played, opened(browser, played.url, query="?calls=3", script=answer) as page:
        measured(page)
        assert page.inner_text("#measure-status").startswith("Not saved: It is full. Make room.")
        with page.expect_download() as downloading:
            page.click("#save")
        assert downloading.value.suggested_filename.startswith("hydravit-fashion-mnist-universal-onnxruntime-web-wasm-")


def test_in_a_folder_of_a_static_host_it_runs_and_saves_a_file(
    browser: Browser, bundles: dict[str, Path], files: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving.opened(bundles["universal"], PACKAGES) as listing:
        serving.write(listing.with_session(is_static=True, is_secure=True), tmp_path / "site" / "below")
    with files(tmp_path / "site") as url, opened(browser, f"{url}below/", query="?calls=5") as page:
        answers = page.evaluate(ANSWERS, every_choice())
        page.click("#measure")
        page.wait_for_selector("#measure-status:has-text('Save the times')", timeout=SOON)
        with page.expect_download() as downloading:
            page.click("#save")
        downloading.value.save_as(tmp_path / "times.json")
    assert differences(bundles["universal"], every_choice(), answers) == []
    record = json.loads((tmp_path / "times.json").read_text())
    assert record["threads"] == 1  # threads need headers that such a host does not send
    where = ["--bundle", str(bundles["universal"]), "--profiles", str(tmp_path / "profiles")]
    assert main(["profile", "import", str(tmp_path / "times.json"), *where]) == 0
    assert "onnxruntime-web" in capsys.readouterr().out
