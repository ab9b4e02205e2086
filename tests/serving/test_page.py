"""The page's files, without a browser: what they import and name is served."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

import pytest

from hydra_export import serving

PAGE = Path(serving.__file__).parent / "page"
IMPORTS = re.compile(r"""(?:\bfrom|\bimport) "([^"]+)";""")
NAMED = re.compile(r"""(?:href|src)="([^"#]+)"|"(\./packages/[^"]+)\"""")
HOST = re.compile(r"https?://([\w.]+)")


def test_every_module_that_is_imported_is_served(listing: serving.Listing) -> None:
    wanted = set()
    for address, resource in listing.resources.items():
        if address.startswith("page/") and address.endswith(("js", "mjs")):
            with resource.opened() as file:
                found = IMPORTS.findall(file.read().decode())
            wanted |= {posixpath.normpath(posixpath.join(posixpath.dirname(address), each)) for each in found}
    assert {"page/runtime/hydra_runtime.mjs", "page/runtime/sha256.mjs", "page/measure.js"} <= wanted
    assert wanted - listing.resources.keys() == set()


def test_what_the_page_names_lies_beside_it(listing: serving.Listing) -> None:
    named = {one or other for one, other in NAMED.findall((PAGE / "index.html").read_text(encoding="utf-8"))}
    own = {each for each in named if each.startswith("page/")}
    assert own == {"page/icon.svg", "page/style.css", "page/main.js"}
    assert own <= listing.resources.keys()
    assert named - own == {"./packages/litert-wasm-utils/dist/index.js"}


@pytest.mark.parametrize("file", sorted(PAGE.iterdir()), ids=lambda file: file.name)
def test_no_file_of_the_page_names_another_host(file: Path) -> None:
    assert {*HOST.findall(file.read_text(encoding="utf-8"))} <= {
        "www.w3.org"
    }  # SVG's namespace, which nothing asks for
