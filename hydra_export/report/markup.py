"""HTML and SVG from Python calls. Every text is escaped, whoever wrote it, without exception."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable

from hydra_export.text import shown

_VOID = {"br", "link", "meta"}
_URL = re.compile(r"https?://[^\s<>\"'`]+[^\s<>\"'`.,;:)]")
_GITHUB = re.compile(
    r"\b(?P<repository>[A-Za-z0-9-]{1,39}/[A-Za-z0-9._-]{1,100})@(?P<commit>[0-9a-f]{40}):(?P<path>[A-Za-z0-9._/-]*[A-Za-z0-9_])"
)


class Markup(str):
    """Text that is HTML already; only this module makes it."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element. ``class_`` is class, other underscores are hyphens; an attribute that is None is left out.

    Children are texts, elements, None, or iterables of such.
    """
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{pairs}>")
    return Markup(f"<{name}{pairs}>{joined(children)}</{name}>")


def joined(children: Iterable[object]) -> Markup:
    """Texts and elements one after the other."""
    return Markup("".join(_one(child) for child in children))


def escaped(text: str) -> Markup:
    """A text as HTML, in an element or in an attribute."""
    return Markup(html.escape(shown(text), quote=True))


def linked(text: str) -> Markup:
    """A text whose addresses are links: URLs, and files in GitHub repositories, owner/name@commit:path."""
    parts: list[object] = []
    at = 0
    matches = sorted((m for pattern in (_URL, _GITHUB) for m in pattern.finditer(text)), key=lambda m: m.start())
    for match in matches:
        if match.start() < at:
            continue
        parts += [text[at : match.start()], _link(match)]
        at = match.end()
    return joined([*parts, text[at:]])


def anchor(text: str) -> str:
    """A text as part of an id."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or "x"


def _link(match: re.Match[str]) -> Markup:
    url = match[0]
    if match.re is _GITHUB:
        url = f"https://github.com/{match['repository']}/blob/{match['commit']}/{match['path']}"
    return tag("a", match[0], href=url, rel="noreferrer noopener external")


def _one(child: object) -> str:
    match child:
        case None:
            return ""
        case Markup():
            return child
        case str():
            return escaped(child)
        case Iterable():
            return joined(child)
    raise AssertionError(f"{child!r} is not text")
