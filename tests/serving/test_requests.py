"""What the server gives, to whom, and that it is nothing else than what it listed."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hydra_export import serving
from hydra_export.serving import handler
from hydra_export.serving.limits import Received
from hydra_export.version import VERSION
from tests.serving.conftest import Site, answered, error_of, served


@pytest.fixture(scope="module")
def site(listing: serving.Listing, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with served(listing, tmp_path_factory.mktemp("profiles")) as running:
        yield running


# What is given


def test_every_file_that_the_manifest_lists_is_served_as_it_is(site: Site, exported: Path) -> None:
    listed = [*(entry.path for entry in site.manifest.files), "manifest.json", "SHA256SUMS"]
    for path in listed:
        status, headers, body = site.ask(f"/bundle/{path}")
        assert (status, body) == (200, (exported / path).read_bytes()), path
        assert headers["etag"] == f'"{hashlib.sha256(body).hexdigest()}"'
        assert headers["content-length"] == str(len(body))


def test_the_session_says_versions_and_what_can_be_done(site: Site) -> None:
    status, headers, body = site.ask("/session.json")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body) == {
        "schema_version": 1,
        "tool": {"hydra_export": VERSION},
        "packages": {"onnxruntime-web": "1.30.0"},
        "can_save": True,
        "static": False,
        "model": "tiny",
        "secure": True,
    }


@pytest.mark.parametrize(
    ("path", "mime"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/page/runtime/bundle.mjs", "text/javascript; charset=utf-8"),
        ("/packages/onnxruntime-web/dist/run.min.mjs", "text/javascript; charset=utf-8"),
        ("/packages/onnxruntime-web/dist/run.wasm", "application/wasm"),
        ("/bundle/manifest.json", "application/json"),
        ("/bundle/README.md", "application/octet-stream"),
        ("/bundle/snippets/bundle.mjs", "application/octet-stream"),  # no program of a bundle runs on our page
    ],
)
def test_browsers_are_told_what_each_file_is(site: Site, path: str, mime: str) -> None:
    status, headers, _ = site.ask(path)
    assert (status, headers["content-type"]) == (200, mime)
    assert headers["x-content-type-options"] == "nosniff"


def test_the_bundles_run_time_comes_from_the_package(site: Site) -> None:
    modules = [*(Path(serving.__file__).parents[1] / "data" / "snippets").glob("*.mjs")]
    assert {"bundle.mjs", "npz.mjs", "preprocess.mjs"} < {module.name for module in modules}
    for module in modules:
        status, _, body = site.ask(f"/page/runtime/{module.name}")
        assert (status, body == module.read_bytes()) == ((404, False) if module.name == "run.mjs" else (200, True))


def test_of_packages_only_what_browsers_ask_for_is_served(listing: serving.Listing) -> None:
    ours = [name for name in listing.resources if name.startswith("packages/")]
    assert sorted(ours) == [f"packages/onnxruntime-web/dist/run{end}" for end in (".min.mjs", ".wasm")]


def test_every_answer_isolates_the_page_and_lets_it_ask_this_server_alone(site: Site) -> None:
    for path in ("/", "/bundle/manifest.json", "/nothing"):
        headers = site.ask(path)[1]
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cross-origin-embedder-policy"] == "require-corp"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-cache"
        policy = dict(part.partition(" ")[::2] for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'self'"
        assert policy["connect-src"] == "'self'"
        assert policy["worker-src"] == "'self' blob:"
        assert policy["script-src"].split()[:2] == ["'self'", "'wasm-unsafe-eval'"]
        assert "'unsafe-eval'" not in policy["script-src"].split()
        assert "'unsafe-inline'" not in headers["content-security-policy"]


def test_what_a_browser_has_is_not_sent_again(site: Site) -> None:
    tag = site.ask("/bundle/manifest.json")[1]["etag"]
    assert site.ask("/bundle/manifest.json", If_None_Match=tag)[::2] == (304, b"")
    assert site.ask("/bundle/manifest.json", If_None_Match='"other"')[0] == 200


def test_head_says_what_get_would_give(site: Site) -> None:
    status, headers, body = site.ask("/bundle/manifest.json", "HEAD")
    assert (status, body) == (200, b"")
    assert headers["content-length"] == site.ask("/bundle/manifest.json")[1]["content-length"]


def test_a_file_that_changed_after_it_was_checked_is_not_given(
    folder: Path, package_folder: Path, tmp_path: Path
) -> None:
    with serving.opened(folder, package_folder) as listing, served(listing, tmp_path) as site:
        (folder / "README.md").write_text("other")
        answer = site.ask("/bundle/README.md")
        assert (answer[0], "changed" in error_of(answer)) == (410, True)
        assert b"other" not in answer[2]


# What is not


OUTSIDE = "etc/passwd"
UP = [
    *("..", "%2e%2e", "%2E%2e", ".%2e", "%252e%252e", "..%00", "..;", "%c0%ae%c0%ae", "%u002e%u002e", "....//", "..\\"),
    *("..%5c", "..%255c", "%2e%2e%2f", "..%2f", "..%252f", ".%00./..", "../.", "//.."),
]
TRAVERSALS = [
    *(f"/{up}/{up}/{up}/{up}/{up}/{up}/{OUTSIDE}" for up in UP),
    *(f"/bundle/{up}/{up}/{up}/{up}/{up}/{up}/{up}/{OUTSIDE}" for up in UP),
    *(f"/bundle/{up}/tiny.safetensors" for up in UP),
    *(f"/packages/onnxruntime-web/dist/{up}/src/secret.js" for up in UP),
    *(f"/page/{up}/serving/server.py" for up in UP),
    *(f"/{OUTSIDE}", f"//{OUTSIDE}", f"///{OUTSIDE}", f"/%2f{OUTSIDE}", f"/%2F%2F{OUTSIDE}", f"file:///{OUTSIDE}"),
    *(f"/bundle//{OUTSIDE}", f"/bundle/%2f{OUTSIDE}", f"http://localhost/{OUTSIDE}", f"/bundle\\..\\{OUTSIDE}"),
    *("/bundle/manifest.json%00.txt", "/bundle/manifest.json/", "/bundle/./manifest.json", "/BUNDLE/manifest.json"),
    *("/bundle", "/bundle/", "/page/", "/page/index.html", "/packages/", "/packages/onnxruntime-web/package.json"),
    *(
        "/packages/onnxruntime-web/src/secret.js",
        "/page/../serving/server.py",
        "/.git/config",
        "*",
        "bundle/manifest.json",
    ),
]


@pytest.mark.parametrize("path", TRAVERSALS)
def test_no_spelling_of_a_path_leads_out_of_the_table(site: Site, path: str) -> None:
    status, _, body = site.ask(path)
    assert status in (400, 404)
    assert b"root:" not in body
    assert b"secret" not in body
    assert set(json.loads(body)) == {"error"}


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "FOO"])
@pytest.mark.parametrize("path", ["/", "/measurements", "/bundle/manifest.json"])
def test_other_methods_are_refused(site: Site, method: str, path: str) -> None:
    answer = site.ask(path, method)
    assert answer[0] == 405
    assert "allow" in answer[1]
    assert error_of(answer)


def test_records_are_sent_to_their_address_alone_and_not_got_from_it(site: Site) -> None:
    assert site.ask("/bundle/manifest.json", "POST", b"{}", Content_Type="application/json")[0] == 405
    assert site.ask("/", "POST", b"{}", Content_Type="application/json")[0] == 405
    assert site.ask("/measurements")[0] == 405


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "192.0.2.7"),
        *("localhost:x", "localhost@evil.example", "evil.example#localhost", "[::2]", "", None),
    ],
)
def test_a_name_that_is_not_this_servers_is_refused(site: Site, host: str | None) -> None:
    """DNS may send browsers here under any name (rebinding), whose pages would then be of our origin."""
    status, _, body = site.ask("/bundle/manifest.json", Host=host)
    assert (status, set(json.loads(body))) == (421, {"error"})


def test_two_names_are_refused(site: Site) -> None:
    both = f"GET / HTTP/1.1\r\nHost: {site.host}\r\nHost: evil.example\r\n\r\n"
    assert site.raw(both.encode())[0] == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9000", "127.0.0.1", "127.0.0.1:8000", "[::1]:8000"])
def test_this_machines_names_are_known_at_any_port(site: Site, host: str) -> None:
    """A phone may have this port under another number: adb reverse."""
    assert site.ask("/", Host=host)[0] == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        *(
            b"\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET / HTTP/1.1 more\r\n\r\n",
            b"\x16\x03\x01\x00\xa5\x01",
        ),
        *(b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: " + b"a" * 70_000 + b"\r\n\r\n"),
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"GET /bundle/manifest.json\r\n\r\n",
    ],
    ids=lambda each: repr(each[:20]),
)
def test_what_is_no_request_gets_no_file(site: Site, request_bytes: bytes) -> None:
    with socket.create_connection(("127.0.0.1", site.server.server_port), timeout=60) as connection:
        connection.sendall(request_bytes)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while piece := connection.recv(2**16):
            received += piece
    assert b" 200 " not in received[:20]
    assert b"generator" not in received
    assert site.ask("/")[0] == 200
    assert site.said == []


# Slow ones


def test_a_request_that_never_ends_is_dropped(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler, "RECEIVING_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", site.server.server_port), timeout=60) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: loc")
        assert connection.recv(10) == b""


def test_one_that_comes_letter_by_letter_has_no_more_time() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        received = Received(ours, 0.2)
        with pytest.raises(TimeoutError):
            while True:
                theirs.sendall(b"a")
                assert received.read(1) == b"a"


def test_slow_requests_do_not_keep_others_out(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler, "RECEIVING_SECONDS", 0.5)
    slow = [socket.create_connection(("127.0.0.1", site.server.server_port), timeout=60) for _ in range(80)]
    for connection in slow:
        connection.sendall(b"GET / HTTP/1.1\r\n")
    try:
        assert site.ask("/")[0] == 200
    finally:
        for connection in slow:
            connection.close()


def test_a_body_that_does_not_come_is_given_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler, "RECEIVING_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", site.server.server_port), timeout=60) as connection:
        head = f"POST /measurements HTTP/1.1\r\nHost: {site.host}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
        assert answered(connection)[0] == 408
