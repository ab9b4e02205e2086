"""The report in headless Chromium: it asks for nothing, fits a phone, and every part of it is reached by keyboard."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hydra_export import checkpoint, network, report
from hydra_export.data import packaged_images
from hydra_export.exporting import export, jobs
from tests.browser.conftest import Serve
from tests.browser.looks import DESK, PHONE, worst_contrast

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_EVIL = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">" + "long" * 60
_BOARD = """
schema_version = 1
id = "{name}"
name = "Board {name}"
class = "board"
[sources]
web = "https://example.org/times"
[[latency]]
model = "another"
k = 12
gmacs = {gmacs}
model_gmacs = {gmacs}
resolution = 28
runtime = "onnxruntime"
precision = "fp32"
unit = "cpu"
ms = {ms}
date = "2025-01-02"
provenance = "published"
source = "web"
"""


@pytest.fixture(scope="session")
def bundles(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The packaged model at three head counts and at all, and an older form of the former."""
    folder = tmp_path_factory.mktemp("bundles")
    listed = jobs(["onnx"], ["separate", "shared", "universal"], ["fp32", "int8"])
    packaged = checkpoint.load()
    images = packaged_images(packaged.info.preprocessing, 200)
    export(packaged, folder / "three", listed, heads=[3, 6, 12], images=images)
    export(packaged, folder / "all", heads=range(1, 13), images=images)
    manifest: dict[str, Any] = json.loads((folder / "three" / "manifest.json").read_text())
    manifest["model"].update(license=_EVIL, name=_EVIL, labels=[_EVIL] * 10)
    manifest["model"]["subnetworks"][2]["accuracy"] += 2
    manifest["tool"]["onnx"] = _EVIL
    shutil.copytree(folder / "three", folder / "old")
    (folder / "old" / "manifest.json").write_text(json.dumps(manifest))
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="session")
def pages(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report with all that one can hold; of many head counts; and of texts that would be code."""
    import msgspec

    from hydra_export.bench import bench

    folder = tmp_path_factory.mktemp("pages")
    (folder / "profiles").mkdir()
    for name, ms in (("fast", 1.5), ("slow", 700.0)):
        gmacs = network.macs(checkpoint.load().info.config, 12) / 1e9
        (folder / "profiles" / f"{name}.toml").write_text(_BOARD.format(name=name, gmacs=gmacs, ms=ms))
    times = folder / "bench.json"
    times.write_bytes(msgspec.json.encode(bench(bundles["three"], runs=5)))
    own = folder / "profiles"
    whole = report.gather(
        bundles["three"],
        against=bundles["old"],
        devices=["fast", "slow", "pixel7"],
        bench_files=[times],
        profile_folder=own,
    )
    found = {
        "whole": whole,
        "all": report.gather(bundles["all"], devices=["fast"], profile_folder=own),
        "evil": report.gather(bundles["old"], against=bundles["three"], devices=["fast"], profile_folder=own),
    }
    for name, findings in found.items():
        (folder / f"{name}.html").write_text(report.page(findings))
    return {name: folder / f"{name}.html" for name in found}


@contextmanager
def opened(browser: Browser, url: str, **how: Any) -> Iterator[Page]:
    """A page that must neither ask for anything nor complain."""
    context = browser.new_context(**{"viewport": DESK, **how})
    page, asked, said = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(url)
    yield page
    context.close()
    assert [each for each in asked if each != url and not each.startswith("data:")] == []
    assert said == []


@pytest.mark.parametrize("name", ["whole", "all", "evil"])
@pytest.mark.parametrize("how", ["phone", "desk"])
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_nothing_is_wider_than_the_screen_but_what_scrolls_on_its_own(
    browser: Browser, pages: dict[str, Path], name: str, how: str, colours: str
) -> None:
    size = PHONE if how == "phone" else DESK
    with opened(browser, pages[name].as_uri(), viewport=size, color_scheme=colours) as page:
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
        wider = page.evaluate(
            """() => [...document.querySelectorAll('body *')]
                .filter(each => !each.closest('.scroll, svg') || each.matches('.scroll, svg.chart'))
                .filter(each => each.getBoundingClientRect().right > innerWidth + 0.5)
                .map(each => each.outerHTML.slice(0, 100))"""
        )
        assert wider == []
        if folder := os.environ.get("HYDRA_EXPORT_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            page.evaluate("document.querySelectorAll('details').forEach(each => each.open = false)")
            page.screenshot(path=Path(folder) / f"report-{name}-{how}-{colours}.png", full_page=True)


def test_a_server_is_asked_for_the_page_alone(browser: Browser, pages: dict[str, Path], files: Serve) -> None:
    with files(pages["whole"].parent) as url, opened(browser, f"{url}whole.html") as page:
        assert page.locator("h1").inner_text() == "hydravit-fashion-mnist"


def test_the_policy_lets_no_script_run_and_no_text_become_one(browser: Browser, pages: dict[str, Path]) -> None:
    with opened(browser, pages["evil"].as_uri()) as page:
        assert page.evaluate("document.querySelectorAll('script, img').length") == 0
        assert page.title().startswith("<script>document.title")
        assert page.locator("h1").inner_text() == _EVIL
    context = browser.new_context()
    page = context.new_page()
    page.goto(pages["whole"].as_uri())
    title = page.title()
    page.evaluate(
        """() => {
            const script = document.createElement('script');
            script.textContent = "document.title = 'taken'";
            document.body.append(script);
            const button = document.createElement('div');
            button.setAttribute('onclick', "document.title = 'taken'");
            document.body.append(button);
            button.click();
        }"""
    )
    assert page.title() == title
    context.close()


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_the_keyboard_reaches_everything_in_order_and_the_focus_is_seen(
    browser: Browser, pages: dict[str, Path], size: dict[str, int]
) -> None:
    with opened(browser, pages["whole"].as_uri(), viewport=size, reduced_motion="reduce") as page:
        page.evaluate(
            """() => [...document.querySelectorAll('a[href], summary, [tabindex="0"]')]
                .filter(each => each.checkVisibility())
                .forEach((each, number) => each.dataset.number = number)"""
        )
        count = page.locator("[data-number]").count()
        assert count > 15
        for number in range(count):
            page.keyboard.press("Tab")
            found, outline, visible = page.evaluate(
                """() => {
                    const each = document.activeElement, style = getComputedStyle(each);
                    const box = each.getBoundingClientRect();
                    return [each.dataset.number, style.outlineStyle + ' ' + style.outlineWidth,
                            box.bottom > 0 && box.top < innerHeight && box.right > 0];
                }"""
            )
            assert found == str(number)
            assert outline == "solid 3px"
            assert visible, found


def test_the_skip_link_leads_past_the_navigation_and_a_table_scrolls_by_arrow_key(
    browser: Browser, pages: dict[str, Path]
) -> None:
    with opened(browser, pages["whole"].as_uri(), viewport=PHONE) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('main') !== null")
        wide = page.locator(
            ".scroll:has(#changed-artifacts-caption), [aria-labelledby=subnetworks-caption].scroll"
        ).last
        wide.focus()
        assert wide.evaluate("each => each.scrollWidth > each.clientWidth")
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(500)  # it scrolls smoothly; the policy forbids what wait_for_function does
        assert wide.evaluate("each => each.scrollLeft > 0")


@pytest.mark.parametrize("name", ["whole", "all", "evil"])
def test_no_label_of_a_chart_touches_another_or_leaves_it(browser: Browser, pages: dict[str, Path], name: str) -> None:
    with opened(browser, pages[name].as_uri(), viewport=PHONE) as page:
        problems = page.evaluate(
            """() => [...document.querySelectorAll('svg.chart')].flatMap(svg => {
                const frame = svg.getBoundingClientRect(), found = [];
                const all = [...svg.querySelectorAll('text')].map(each => [each, each.getBoundingClientRect()]);
                for (const [each, box] of all)
                    if (box.left < frame.left - 0.5 || box.right > frame.right + 0.5 || box.bottom > frame.bottom + 0.5)
                        found.push(`${each.textContent} leaves ${svg.querySelector('title').textContent}`);
                // A box has room above and below its letters: a quarter of it may overlap.
                const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 0.5
                    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > a.height / 4;
                all.forEach(([one, a], at) => all.slice(at + 1).forEach(([other, b]) => {
                    if (meet(a, b)) found.push(`${one.textContent} meets ${other.textContent}`);
                }));
                return found;
            })"""
        )
        assert problems == []


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_texts_stand_out_from_what_is_behind_them(browser: Browser, pages: dict[str, Path], colours: str) -> None:
    with opened(browser, pages["whole"].as_uri(), color_scheme=colours) as page:
        worst = worst_contrast(page, "p, a, li, dt, dd, th, td, h1, h2, h3, figcaption, summary, text, small")
        assert worst[0] >= 4.5, worst  # WCAG 2.2, 1.4.3


def test_print_is_dark_on_white_with_everything_open(browser: Browser, pages: dict[str, Path]) -> None:
    with opened(browser, pages["whole"].as_uri(), color_scheme="dark") as page:
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.locator("#parity-figures-caption").bounding_box() is not None
        assert page.locator("nav").is_hidden()
