"""``hydra-export serve``: what it prints, how it ends, what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hydra_export import archive, files
from hydra_export.cli import main
from hydra_export.commands import serve as command
from tests.conftest import SOON, snapshot

Capture = pytest.CaptureFixture[str]


@contextmanager
def running(*arguments: object, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, which ends here at the latest."""
    command = [sys.executable, "-m", "hydra_export", "serve", *map(str, arguments), "--port", "0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def opened(url: str, body: bytes | None = None) -> bytes:
    """What is there, whatever proxy the system has."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"} if body else {})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=SOON) as answer:
        content: bytes = answer.read()
    return content


def test_it_prints_its_address_serves_keeps_and_ends_at_ctrl_c(
    exported: Path, package_folder: Path, tmp_path: Path, record: dict[str, Any]
) -> None:
    file, profiles, temporary = tmp_path / "bundle.zip", tmp_path / "profiles", tmp_path / "temporary"
    archive.write(exported, file, "bundle")
    profiles.mkdir()
    temporary.mkdir()
    options = ("--packages", package_folder, "--profiles", profiles)
    with running(file, *options, TMPDIR=str(temporary)) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://localhost:")
        assert opened(f"{url}bundle/manifest.json") == (exported / "manifest.json").read_bytes()
        assert json.loads(opened(f"{url}measurements", json.dumps(record).encode()))["device"] == "pixel7"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=SOON)
    assert (process.returncode, out) == (130, "")
    port = url.rstrip("/").rpartition(":")[2]
    assert f"adb reverse tcp:{port} tcp:{port}" in err
    assert "Saved 1 time of Google Pixel 7: hydra-export profile --device pixel7 --runtime onnxruntime-web" in err
    assert err.splitlines()[-1] == "error: Interrupted. The server has stopped."
    assert "Traceback" not in err
    assert [*temporary.iterdir()] == []
    assert [path.name for path in profiles.rglob("*") if path.is_file()] == ["pixel7.toml"]


def test_json_is_one_document_also_when_it_ends(exported: Path, package_folder: Path) -> None:
    with running(exported, "--packages", package_folder, "--json") as process:
        assert process.stderr is not None
        while "Ctrl-C" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=SOON)
    document = json.loads(out)
    assert document.keys() == {"schema_version", "bundle", "url", "urls"}
    assert document["urls"] == [document["url"]]
    assert "Interrupted" in err


def test_by_lan_each_address_lets_one_browser_in_and_what_http_lacks_is_said(
    exported: Path, package_folder: Path
) -> None:
    with running(exported, "--packages", package_folder, "--lan") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        url = process.stdout.readline().strip()
        assert "/?token=" in url
        said = process.stderr.readline()
        assert "disable camera and WebGPU" in said
        assert "one thread" in said
        assert b"<html" in opened(url)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            opened(url)
        while "Connected. For another browser: http" not in (said := process.stderr.readline()):
            assert process.poll() is None
        assert b"<html" in opened(said.split()[-1])


@pytest.mark.parametrize(("browser", "expected"), [(webbrowser.BackgroundBrowser, 1), (webbrowser.GenericBrowser, 0)])
def test_a_browser_is_opened_unless_it_would_take_the_terminal(
    monkeypatch: pytest.MonkeyPatch, browser: type[webbrowser.GenericBrowser], expected: int
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(browser, "open", lambda _self, url: asked.append(url))
    monkeypatch.setattr(webbrowser, "get", lambda: browser("none"))
    command._open("http://localhost:8000/")
    assert asked == ["http://localhost:8000/"] * expected


def test_static_writes_the_folder_and_ends(
    exported: Path, package_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    command = ["serve", str(exported), "--packages", str(package_folder), "--static", str(out), "--json"]
    assert main(command) == 0
    document = json.loads(capsys.readouterr().out)
    found = [path for path in out.rglob("*") if path.is_file()]
    assert document["files"] == len(found)
    assert document["bytes"] == sum(path.stat().st_size for path in found)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--port", "70000"], "--port is 70000. Use a number from 0 to 65535."),
        (["--https"], "--https needs a certificate. Pass --certificate FILE and --key FILE."),
        (["--key", "k.pem"], "--certificate and --key only work with --https. Add --https, or leave them out."),
        (["--static", "out", "--lan"], "--static writes files and does not serve. Leave out --lan and --https."),
        (["--static", "."], "exists and was not written by serve. Choose another --static"),
        (["--packages", "none"], "is missing in none. Install it: hydra-export serve BUNDLE --install."),
        (["--device", "pixl7"], "No device 'pixl7'. Did you mean 'pixel7'?"),
        (["--https", "--certificate", "c.pem", "--key", "k.pem"], "--certificate c.pem and --key k.pem cannot be used"),
    ],
)
def test_what_it_cannot_do_is_refused_and_nothing_is_written(
    exported: Path,
    package_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    arguments: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").touch()
    packages = [] if "--packages" in arguments else ["--packages", str(package_folder)]
    assert main(["serve", str(exported), *packages, *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, told in err) == ("", True), err
    assert list(snapshot(tmp_path)) == ["mine"]


def test_a_port_that_is_taken_is_said_so(exported: Path, package_folder: Path, capsys: Capture) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", str(exported), "--packages", str(package_folder), "--port", port]) == 2
    assert f"--port {port} cannot be opened: Address already in use." in capsys.readouterr().err


def test_a_damaged_bundle_has_exit_status_1(folder: Path, package_folder: Path, capsys: Capture) -> None:
    (folder / "README.md").write_text("other")
    assert main(["serve", str(folder), "--packages", str(package_folder)]) == 1
    assert "README.md is damaged" in capsys.readouterr().err


def test_without_packages_the_cache_is_looked_into(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["serve", str(exported)]) == 2
    assert f"is missing in {files.caches() / 'browser'}" in capsys.readouterr().err
