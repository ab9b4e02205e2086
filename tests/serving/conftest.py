"""A server on a real socket, with a small bundle and packages that are no real ones."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hydra_export import serving
from hydra_export.bundle import Manifest, read
from hydra_export.serving import packages
from hydra_export.serving.taking import take

Answer = tuple[int, dict[str, str], bytes]  # status, headers by their names in small letters, body


@dataclass
class Site:
    """A running server and what it said and kept."""

    server: serving.Server
    manifest: Manifest
    profiles: Path
    address: str
    host: str
    said: list[str] = field(default_factory=list)

    def raw(self, request: bytes) -> Answer:
        """What comes back for exactly these bytes."""
        with socket.create_connection((self.address, self.server.server_port), timeout=60) as connection:
            connection.sendall(request)
            return answered(connection)

    def ask(self, path: str = "/", method: str = "GET", body: bytes = b"", **headers: str | None) -> Answer:
        """A request as browsers send it; a header that is None is left out."""
        named = {"Host": self.host, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if body and "Content-Length" not in named:
            named["Content-Length"] = str(len(body))
        lines = [
            f"{method} {path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in named.items() if value is not None),
        ]
        return self.raw("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    def post(self, body: bytes | dict[str, Any], **headers: str | None) -> Answer:
        """A record, as the page sends it."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        page = {"Origin": f"http://{self.host}", "Sec_Fetch_Site": "same-origin", "Content_Type": "application/json"}
        return self.ask("/measurements", "POST", content, **{**page, **headers})


def answered(connection: socket.socket) -> Answer:
    received = b""
    while piece := connection.recv(2**16):
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers, body


def error_of(answer: Answer) -> str:
    """What an answer says was wrong, and what to do."""
    error = json.loads(answer[2])["error"]
    assert error.keys() == {"message", "remedy"}
    assert error["message"]
    assert error["remedy"]
    return f"{error['message']} {error['remedy']}"


@pytest.fixture(scope="session")
def package_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where npm would have installed what browsers need."""
    place = tmp_path_factory.mktemp("npm")
    for name, version in packages.pinned().items():
        folder = place / "node_modules" / name
        (folder / "dist").mkdir(parents=True)
        (folder / "package.json").write_text(json.dumps({"name": name, "version": version}))
        for file in ("run.mjs", "run.min.mjs", "run.min.mjs.map", "run.wasm", "run.d.ts"):
            (folder / "dist" / file).write_text(f"{file} of {name}")
        (folder / "src").mkdir()
        (folder / "src" / "secret.js").write_text("secret")
    return place


@pytest.fixture(scope="session")
def listing(exported: Path, package_folder: Path) -> Iterator[serving.Listing]:
    with serving.opened(exported, package_folder) as found:
        yield found


@contextmanager
def served(listing: serving.Listing, profiles: Path, address: str = "127.0.0.1", **options: Any) -> Iterator[Site]:
    """A server on a port that was free."""
    said: list[str] = []
    take_record: Callable[[bytes], dict[str, Any]] = lambda content: take(content, listing.manifest, "", profiles)  # noqa: E731
    given = {"inline_scripts": listing.inline_scripts(), "take": take_record, "say": said.append, **options}
    resources = listing.with_session(is_static=False, is_secure=True)
    with serving.Server((address, 0), resources, **given) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield Site(server, listing.manifest, profiles, address, f"localhost:{server.server_port}", said)
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def site(listing: serving.Listing, tmp_path: Path) -> Iterator[Site]:
    profiles = tmp_path / "profiles"
    profiles.mkdir()
    with served(listing, profiles) as running:
        yield running


@pytest.fixture
def record(exported: Path) -> dict[str, Any]:
    """What the page sends of the bundle's separate graph for 4 heads."""
    manifest = read(exported)
    artifact = next(each for each in manifest.artifacts if each.heads == (4,))
    return {
        "kind": "hydra-export browser times",
        "schema_version": 1,
        "date": "2025-02-03",
        "model": {"name": manifest.model.name, "checkpoint_sha256": manifest.model.checkpoint_sha256},
        "artifact": {"path": artifact.path, "sha256": artifact.sha256, "precision": artifact.precision},
        "backend": "onnxruntime-web",
        "version": "1.30.0",
        "provider": "wasm",
        "threads": 4,
        "browser": {
            "user_agent": "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 Chrome/140.0.0.0 Mobile Safari/537.36",
            "platform": "Android",
            "platform_version": "16.0.0",
            "model": "Pixel 7",
            "architecture": "",
            "mobile": True,
            "cores": 8,
            "memory_gb": 8,
            "gpu": "",
            "cross_origin_isolated": True,
        },
        "conditions": {"hidden": False, "drift": 1.01, "warmup_calls": 5},
        "checks": {"4": {"error": 1e-7, "allowed": 1e-5, "passed": True}},
        "samples_ms": {"4": [2.0 + 0.01 * (step % 7) for step in range(50)]},
    }
