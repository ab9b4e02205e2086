"""What is checked before anything is served."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hydra_export import archive, serving
from hydra_export.errors import BadInput, VerificationFailed
from hydra_export.serving import listing as listings
from hydra_export.serving import packages


def refused(path: Path, package_folder: Path, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told), serving.opened(path, package_folder):
        pytest.fail("it would be served")


def test_a_damaged_bundle_is_not_served(folder: Path, package_folder: Path) -> None:
    path = next((folder / "onnx").iterdir())
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    refused(folder, package_folder, VerificationFailed, "its SHA-256 differs")


def test_a_bundle_with_a_file_that_it_does_not_list_is_not_served(folder: Path, package_folder: Path) -> None:
    (folder / "more.html").write_text("<script>")
    refused(folder, package_folder, VerificationFailed, r"more\.html is not listed")


def test_a_bundle_with_a_link_is_not_served(folder: Path, package_folder: Path) -> None:
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to("/etc/passwd")
    refused(folder, package_folder, VerificationFailed, "is a link")


def test_a_link_that_takes_the_place_of_a_file_is_not_followed(folder: Path, package_folder: Path) -> None:
    with serving.opened(folder, package_folder) as listing:
        (folder / "README.md").unlink()
        (folder / "README.md").symlink_to("/etc/passwd")
        with pytest.raises(BadInput, match="a link"), listing.resources["bundle/README.md"].opened():
            pass


def test_what_is_no_bundle_is_said_so(tmp_path: Path, package_folder: Path) -> None:
    refused(tmp_path, package_folder, BadInput, "is not a bundle")
    refused(tmp_path / "none", package_folder, BadInput, "There is no folder")


def test_an_archive_is_served_from_its_files_alone_and_leaves_none(
    exported: Path, package_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "bundle.zip"
    archive.write(exported, file, "bundle")
    with serving.opened(file, package_folder) as listing, listing.resources["bundle/README.md"].opened() as content:
        assert content.read() == (exported / "README.md").read_bytes()
        place = listing.resources["bundle/README.md"].file
    assert place is not None
    assert not place.exists()
    file.write_bytes(file.read_bytes() + b"more")
    refused(file, package_folder, VerificationFailed, "failed")


def test_packages_in_another_version_are_refused_with_the_command_that_installs_them(
    exported: Path, package_folder: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(package_folder, tmp_path / "npm"))
    refused(
        exported, tmp_path / "none", BadInput, "is missing in .*none. Install it: hydra-export serve BUNDLE `install`"
    )
    for text in ('{"version": "9.9.9"}', "[]", '{"version": 3}', "no JSON"):
        (other / "node_modules" / "onnxruntime-web" / "package.json").write_text(text)
        refused(exported, other, BadInput, "onnxruntime-web 1.30.0, which runs artifacts in browsers, (has|is missing)")


def test_pinned_are_the_versions_that_package_json_asks_for_and_no_host() -> None:
    folder = Path(packages.__file__).parent
    wanted = json.loads((folder / "package.json").read_text())["dependencies"]
    lock = json.loads((folder / "package-lock.json").read_text())
    assert wanted == {"onnxruntime-web": "1.30.0", "@litertjs/core": "2.5.3"}
    assert wanted.items() <= packages.pinned().items()
    assert lock["packages"][""]["dependencies"] == wanted
    for path, entry in lock["packages"].items():
        assert "resolved" not in entry
        assert not path or entry["integrity"].startswith("sha512-")


def test_each_target_that_runs_in_browsers_has_its_packages() -> None:
    assert packages.needed(["onnx"]) == {"onnxruntime-web": "onnxruntime-web"}
    assert packages.needed(["tflite", "coreml"]) == {
        "@litertjs/core": "litert",
        "@litertjs/wasm-utils": "litert-wasm-utils",
    }
    assert packages.needed(["coreml"]) == {}
    assert packages.needed(["onnx", "tflite"]).keys() <= packages.pinned().keys()


def test_the_pages_inline_scripts_are_allowed_by_their_hash_alone(listing: serving.Listing) -> None:
    page = b'<script type="importmap">{"imports": {}}</script><script src="page/main.mjs"></script>'
    resources = {**listing.resources, listings.INDEX: listings._of_bytes(page, "text/html")}
    (script,) = serving.Listing(listing.manifest, listing.versions, resources).inline_scripts()
    assert script == "'sha256-CJt/FpW3RQlGvqBeO/YK74xrTm1ctS6rLMJu1bV4fMc='"


def test_npm_runs_no_script_of_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in npm's place says what it was asked for."""
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text('#!/bin/sh\necho "$@" > asked\nls > found\n[ ! -e "$FAILS" ] || { echo "E404 none" >&2; exit 1; }\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = serving.install()
    assert place == packages.default_folder()
    assert (place / "asked").read_text().split()[:2] == ["ci", "--ignore-scripts"]
    assert {"package.json", "package-lock.json"} <= set((place / "found").read_text().split())
    (tmp_path / "fails").touch()
    monkeypatch.setenv("FAILS", str(tmp_path / "fails"))
    with pytest.raises(BadInput, match="npm could not install the browser runtimes: E404 none"):
        serving.install()
    assert (place / "asked").is_file(), "what was there before stays"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput, match="npm, which installs"):
        serving.install()
