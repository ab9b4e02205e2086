"""Pages in a real browser; `make browser` installs what they need and names the browser."""

from __future__ import annotations

import functools
import http.server
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

EXAMPLE = Path(__file__).parents[2] / "examples" / "browser"
Serve = Callable[[Path], AbstractContextManager[str]]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless, by the path in HYDRA_EXPORT_BROWSER."""
    executable = os.environ.get("HYDRA_EXPORT_BROWSER")
    if not executable:
        pytest.skip("no HYDRA_EXPORT_BROWSER: `make browser` runs this")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Without a sandbox, which containers do not allow: the pages are our own, from this machine.
        running = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def serve() -> Serve:
    """Serves the example on this machine, with the folder it is given as ``bundle/``."""

    @contextmanager
    def serving(bundle: Path) -> Iterator[str]:
        handler = functools.partial(_Handler, bundle=bundle)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            try:
                yield f"http://127.0.0.1:{server.server_port}/"
            finally:
                server.shutdown()

    return serving


class _Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *args: object, bundle: Path) -> None:
        self.bundle = bundle
        super().__init__(*args, directory=str(EXAMPLE))  # type: ignore[arg-type]

    def translate_path(self, path: str) -> str:
        below = path.removeprefix("/bundle/")
        return str(self.bundle / below) if below != path else super().translate_path(path)

    def log_message(self, *_: object) -> None:
        pass
