"""The packages of npm by which browsers run artifacts: which versions, where they are, and how they come there."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from hydra_export import documents, files, targets
from hydra_export.errors import BadInput, Unreadable

_HERE = Path(__file__).parent
_LISTS = ("package.json", "package-lock.json")


def default_folder() -> Path:
    """Where they are installed."""
    return files.caches() / "browser"


def needed(formats: Iterable[str]) -> dict[str, str]:
    """Those that run artifacts of the targets *formats*: the name of each, and the folder that a page has it in."""
    known, of = targets.device_runtimes(), set(formats)
    runtimes = [known[name] for name, target in targets.formats().items() if target in of]
    return {name: folder for runtime in runtimes for name, folder in runtime.browser.items()}


def pinned() -> dict[str, str]:
    """The version of every package that is installed."""
    entries: dict[str, Any] = json.loads((_HERE / _LISTS[1]).read_text(encoding="utf-8"))["packages"]
    return {path.removeprefix("node_modules/"): entry["version"] for path, entry in entries.items() if path}


def installed(names: Iterable[str], folder: Path | None = None) -> dict[str, Path]:
    """The folder of each package.

    Args:
        folder: where npm installed them; by default where ``install`` does.

    Raises:
        BadInput: one is not there in the version that is pinned.
    """
    place, versions = folder or default_folder(), pinned()
    found = {name: place / "node_modules" / name for name in names}
    for name, package in found.items():
        if (version := _version(package)) != versions[name]:
            what = f"has version {version[:40]}" if version else "is missing"
            remedy = "Install it: hydra-export serve BUNDLE `install`."
            raise BadInput(f"{name} {versions[name]}, which runs artifacts in browsers, {what} in {place}.", remedy)
    return found


def _version(package: Path) -> str:
    """What its package.json says; nothing where that cannot be read."""
    try:
        document = documents.decode_json(files.read(package / "package.json", files.MIB))
    except (Unreadable, msgspec.DecodeError):
        return ""
    version = document.get("version") if isinstance(document, dict) else None
    return version if isinstance(version, str) else ""


def install() -> Path:
    """Has npm install what is pinned, checked by its hashes, in place of what was there; runs no script of theirs.

    Raises:
        BadInput: there is no npm, or it failed.
    """
    npm, place = shutil.which("npm"), default_folder()
    if npm is None:
        raise BadInput(
            "npm, which installs the browser runtimes, is not installed.", "Install Node.js, or pass `packages`."
        )
    with files.replaced_folder(place) as partial:
        for name in _LISTS:
            shutil.copyfile(_HERE / name, partial / name)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=partial, capture_output=True, encoding="utf-8", errors="replace")
        if done.returncode:
            said = next((line for line in done.stderr.splitlines() if line.strip()), "it printed nothing")
            raise BadInput(f"npm could not install the browser runtimes: {said[:300]}.", "See npm's log.")
    return place
