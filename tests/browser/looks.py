"""How pages look: sizes of screens, and whether texts can be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
_WORST = """
texts => {
    const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
    const parts = colour => {
        canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map(each => each / 255);
    };
    const light = colour => parts(colour)
        .map(each => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
        .reduce((sum, each, at) => sum + each * [0.2126, 0.7152, 0.0722][at], 0);
    const behind = each => {
        for (; each; each = each.parentElement) {
            const colour = getComputedStyle(each).backgroundColor;
            if (!/rgba\\(.*, 0\\)/.test(colour)) return colour;
        }
    };
    return [...document.querySelectorAll(texts)]
        .filter(each => [...each.childNodes].some(({ nodeType, data }) => nodeType === Node.TEXT_NODE && data.trim()))
        .map(each => {
            const style = getComputedStyle(each);
            const ink = each.matches('text') ? style.fill : style.color;
            const [dark, bright] = [light(ink), light(behind(each))].sort((a, b) => a - b);
            return [(bright + 0.05) / (dark + 0.05), each.outerHTML.slice(0, 80)];
        })
        .sort((a, b) => a[0] - b[0])[0];
}
"""


def worst_contrast(page: Page, texts: str) -> tuple[float, str]:
    """The smallest contrast (WCAG 2.2, 1.4.3) of the elements that the selector *texts* finds, and that element."""
    ratio, element = page.evaluate(_WORST, texts)
    return ratio, element
