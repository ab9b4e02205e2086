"""What is served: every address with its content, listed before the first request; nothing else can be asked for."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from hydra_export import archive, bundle, files
from hydra_export import data as packaged
from hydra_export.bundle import Manifest
from hydra_export.errors import BadInput, Unreadable
from hydra_export.serving import packages
from hydra_export.verification import read_whole
from hydra_export.version import VERSION

INDEX, SESSION = "index.html", "session.json"
_PAGE = Path(__file__).parent / "page"
_SNIPPETS = Path(packaged.__file__).parent / "snippets"
_WORKER = "sw.js"
_FOR_NODE = "run.mjs"  # of the snippets: the one that is no module
_PARTS = ("dist", "wasm")  # of a package
_NOT_SERVED = (".map", ".ts", ".json")  # of these: what a browser never asks for
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".wasm": "application/wasm",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
_BYTES = "application/octet-stream"
_INLINE = re.compile(rb"<script[^>]*>(.*?)</script>", re.DOTALL)


@dataclass(frozen=True)
class Resource:
    """One content: bytes, or a file as it was when it was listed (*stamp*)."""

    sha256: str
    num_bytes: int
    mime: str
    content: bytes = b""
    file: Path | None = None
    stamp: tuple[int, ...] = ()

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Its bytes; Unreadable where the file is not as it was."""
        if self.file is None:
            yield io.BytesIO(self.content)
            return
        with files.opened(self.file, links=False) as file:
            if _stamp(os.fstat(file.fileno())) != self.stamp:
                raise Unreadable(str(self.file), "it changed after it was checked", "Serve it again.")
            yield file


@dataclass(frozen=True)
class Listing:
    """Resources by their address, relative to the page, which is at ``index.html``; *manifest*: of the bundle."""

    manifest: Manifest
    versions: Mapping[str, str]
    resources: Mapping[str, Resource]

    def with_session(self, *, is_static: bool, is_secure: bool) -> dict[str, Resource]:
        """All of it, with what the page is told of where it is."""
        session = {
            "schema_version": 1,
            "tool": {"hydra_export": VERSION},
            "packages": self.versions,
            "can_save": not is_static,
            "static": is_static,
            "model": self.manifest.model.name,
            "secure": is_secure,
        }
        if is_static:
            session["files"] = sorted({*self.resources, SESSION})
        return {**self.resources, SESSION: _of_bytes(msgspec.json.encode(session), _TYPES[".json"])}

    def inline_scripts(self) -> list[str]:
        """What a Content-Security-Policy calls the scripts within the page, such as its import map."""
        with self.resources[INDEX].opened() as page:
            scripts = [script for script in _INLINE.findall(page.read()) if script.strip()]
        return [f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'" for script in scripts]


@contextmanager
def opened(path: Path, package_folder: Path | None = None) -> Iterator[Listing]:
    """The listing of the bundle at *path*, a folder or an archive, every file of which was compared with its hash.

    Args:
        package_folder: where npm installed what browsers need; by default where ``packages.install`` does.

    Raises:
        BadInput: it is no bundle, nothing in it runs in a browser, or what browsers need is not installed.
        VerificationFailed: it is damaged.
    """
    if not path.is_file():
        yield _listed(path, path, package_folder)
        return
    with archive.unpacked(path) as folder:
        archive.check_nothing_else(path, folder)
        yield _listed(folder, path, package_folder)


def _listed(folder: Path, called: Path, package_folder: Path | None) -> Listing:
    manifest = read_whole(folder)
    names = packages.needed(artifact.target for artifact in manifest.artifacts)
    if not names:
        raise BadInput(f"No artifact of {called} runs in a browser.", "Export it for another target as well.")
    listed = {entry.path: entry.sha256 for entry in manifest.files}
    own = dict.fromkeys((bundle.MANIFEST, bundle.SUMS), "")
    found = {f"bundle/{name}": _of_file(folder / name, sha256, is_data=True) for name, sha256 in (listed | own).items()}
    found |= {f"page/{name}": _of_file(_PAGE / name) for name in bundle.tree(_PAGE) if name not in (INDEX, _WORKER)}
    found |= {name: _of_file(_PAGE / name) for name in (INDEX, _WORKER) if (_PAGE / name).is_file()}
    runtime = [path for path in sorted(_SNIPPETS.glob("*.mjs")) if path.name != _FOR_NODE]
    found |= {f"page/runtime/{path.name}": _of_file(path) for path in runtime}
    for name, place in packages.installed(names, package_folder).items():
        found |= {f"packages/{names[name]}/{file}": _of_file(place / file) for file in _served(place)}
    return Listing(manifest, {name: version for name, version in packages.pinned().items() if name in names}, found)


def _served(package: Path) -> list[str]:
    """The files of a package that browsers may ask for; of a script that it has minimised as well, that one."""
    names = {f"{part}/{name}" for part in _PARTS if (package / part).is_dir() for name in bundle.tree(package / part)}
    small = {name.replace(".min.", ".") for name in names if ".min." in name}
    return sorted(name for name in names - small if not name.endswith(_NOT_SERVED))


def _of_file(path: Path, sha256: str = "", *, is_data: bool = False) -> Resource:
    """A file, with its hash where that was compared already; *is_data*: no page and no program to a browser."""
    mime = _TYPES.get(path.suffix.lower(), _BYTES)
    mime = _BYTES if is_data and path.suffix != ".json" else mime
    with files.opened(path, links=False) as file:
        status = os.fstat(file.fileno())
        sha256 = sha256 or hashlib.file_digest(file, "sha256").hexdigest()
    return Resource(sha256, status.st_size, mime, file=path, stamp=_stamp(status))


def _of_bytes(content: bytes, mime: str) -> Resource:
    return Resource(hashlib.sha256(content).hexdigest(), len(content), mime, content)


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
