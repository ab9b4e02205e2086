"""The playground fits a phone and a desk, can be read in any light, and is used by thumb or by keyboard alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.looks import DESK, PHONE, worst_contrast
from tests.browser.playground import NEXT, SOON, opened, served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FOCUS = """() => {
    const each = document.activeElement, box = each.getBoundingClientRect();
    const outlined = each.matches('.segments input') ? each.nextElementSibling : each;
    const style = getComputedStyle(outlined);
    return [each.id || each.dataset.sample || each.value || each.className || each.textContent.trim(),
            `${style.outlineStyle} ${style.outlineWidth}`,
            box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth];
}"""


@contextmanager
def busy(browser: Browser, bundle: Path, profiles: Path, size: dict[str, int], colours: str) -> Iterator[Page]:
    """The page with all that it can show at once: budget and cascade, charts, errors by head count, a measurement."""
    how: dict[str, Any] = {"viewport": size, "color_scheme": colours}
    with served(bundle, profiles) as played, opened(browser, played.url, query="?calls=8", **how) as page:
        page.click("#repeat")
        for mode in ("cascade", "budget", "both"):
            page.check(f"[name=mode][value={mode}]")
            for _ in range(12):
                page.evaluate(f"({NEXT})('answer').then(() => true)")
        page.click("#repeat")
        page.click("#measure")
        page.wait_for_selector("#save:visible:enabled", timeout=SOON)
        page.click("[data-backend=ort-wasm] summary")
        page.wait_for_selector("#plot text:has-text('12 heads')", state="attached")
        yield page


@pytest.mark.parametrize("how", ["phone", "desk"])
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_everything_fits_can_be_read_and_is_large_enough_to_touch(
    browser: Browser, bundles: dict[str, Path], tmp_path: Path, how: str, colours: str
) -> None:
    size = PHONE if how == "phone" else DESK
    with busy(browser, bundles["calibrated"], tmp_path, size, colours) as page:
        if folder := os.environ.get("HYDRA_EXPORT_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=Path(folder) / f"playground-{how}-{colours}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
        wider = page.evaluate(
            """() => [...document.querySelectorAll('body *:not(.skip)')]
                .filter(each => each.checkVisibility() && each.getBoundingClientRect().right > innerWidth + 0.5)
                .map(each => each.outerHTML.slice(0, 100))"""
        )
        assert wider == []
        small = page.evaluate(
            """() => [...document.querySelectorAll('button, select, summary, input')]
                .filter(each => each.checkVisibility())
                .map(each => [each, each.matches('[type=radio]') ? each.closest('label') : each])
                .map(([each, target]) => [each, target.getBoundingClientRect()])
                .filter(([, { width, height }]) => width < 44 || height < 44)
                .map(([each]) => each.outerHTML.slice(0, 100))"""
        )
        assert small == []
        texts = "h1, h2, p, b, legend, th, td, code, summary, span, text, button:enabled, select, label, output"
        worst = worst_contrast(page, f":is({texts}):not(#drop, .skip)")
        assert worst[0] >= 4.5, worst


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_the_keyboard_reaches_everything_in_order_and_the_focus_is_seen(
    browser: Browser, bundles: dict[str, Path], size: dict[str, int]
) -> None:
    how: dict[str, Any] = {"viewport": size, "reduced_motion": "reduce"}
    with served(bundles["calibrated"]) as played, opened(browser, played.url, **how) as page:
        reached = []
        for _ in range(14):
            page.keyboard.press("Tab")
            name, outline, seen = page.evaluate(FOCUS)
            assert outline == "solid 3px", name
            assert seen, name
            reached.append(name)
    assert reached[:7] == ["skip", "choose", "camera", "0", "1", "2", "3"]
    assert reached[7:] == ["heads", "fixed", "repeat", "use-ort-wasm", "Errors by head count", "precision", "measure"]


def test_everything_is_done_by_keyboard_alone(browser: Browser, bundles: dict[str, Path], tmp_path: Path) -> None:
    with served(bundles["calibrated"], tmp_path) as played, opened(browser, played.url, query="?calls=3") as page:
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")  # the skip link
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowRight")
        page.wait_for_selector("#facts:has-text('6 heads')")
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowRight")
        page.wait_for_selector("#ms:visible")
        page.keyboard.press("Tab")
        page.wait_for_selector("#status:has-text('Ready')")
        page.keyboard.press("ControlOrMeta+a")
        page.keyboard.type("0.001")
        page.keyboard.press("Tab")
        page.wait_for_selector("#facts:has-text('3 heads')")
        page.focus("#use-ort-wasm")
        page.keyboard.press("ArrowDown")
        page.wait_for_selector("[data-backend=litert-wasm][data-state=passed]", timeout=SOON)
        page.wait_for_selector("#measure:enabled")
        page.focus("#measure")
        page.keyboard.press("Enter")
        page.wait_for_selector("#save:visible:enabled", timeout=SOON)
        assert page.evaluate("document.activeElement.id") == "measure"


def test_controls_have_names_for_those_who_do_not_see_them(browser: Browser, bundles: dict[str, Path]) -> None:
    with served(bundles["calibrated"]) as played, opened(browser, played.url) as page:
        page.check("[name=mode][value=both]")
        page.wait_for_selector("#histogram svg")
        tree = page.locator("body").aria_snapshot()
        for line in (
            'slider "Heads"',
            'radio "Both" [checked]',
            'spinbutton "At most ms"',
            'combobox "As good as"',
            'button "Sample 1" [pressed]',
            'img "The image that the model sees: sample 1"',
            'region "Time of each call"',
        ):
            assert line in tree, tree
        assert 'img "Time of calls. ' in tree


def test_nothing_moves_by_itself_where_that_is_not_wanted(playground: Page) -> None:
    style = "getComputedStyle(document.querySelector('#top .filled')).transitionDuration"
    playground.wait_for_selector("#top .filled", state="attached")
    assert playground.evaluate(style) == "0.15s"
    playground.emulate_media(reduced_motion="reduce")
    assert playground.evaluate(style) == "0s"
    playground.emulate_media(reduced_motion="no-preference")
