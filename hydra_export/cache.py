"""What was written before: artifacts by what they were made from, files by their hashes.

    <folder>/writes/<key>.json     the artifacts of one write, and the hash of each of their files
    <folder>/files/<sha256>        a file's content

Everything is copied in and out, never linked, and hashed on the way: what was damaged meanwhile is deleted, made anew.
Nothing that comes out of it is trusted further: an export lints and proves it like what it wrote.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import msgspec

from hydra_export import files
from hydra_export.errors import BadInput, HydraExportError
from hydra_export.target import Artifact

DEFAULT_LIMIT = 8 * 2**30
_MARK = "CACHEDIR.TAG"  # by which backups know that they may leave it out: https://bford.info/cachedir/
_SIGNATURE = (
    b"Signature: 8a477f597d28d172789f06886806bc55\n# Artifacts that hydra-export wrote; delete it when you like.\n"
)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PIECE = 2**20


class _Written(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    artifacts: tuple[Artifact, ...]
    sha256: dict[str, str]  # by path


@dataclass(frozen=True)
class Cache:
    """A folder of writes; several processes may use it at once.

    Attributes:
        limit: bytes of files that ``prune`` leaves, those that were used last.
        reused: the artifacts that came out of it, by the folder and the path that they were copied to.
    """

    folder: Path
    limit: int = DEFAULT_LIMIT
    reused: list[Path] = field(default_factory=list)

    def check(self) -> None:
        """Makes the folder. Raises BadInput where something else is there, OutputRefused where it cannot be made."""
        if self.folder.exists() and not self.folder.is_dir():
            raise BadInput(f"The cache {self.folder} is not a folder.", "Choose another --cache.")
        mark = self.folder / _MARK
        if not mark.exists():
            if self.folder.exists() and any(self.folder.iterdir()):
                raise BadInput(
                    f"The cache {self.folder} holds something else.",
                    "Choose an empty folder, or one that does not exist.",
                )
            with files.replaced_file(mark) as partial:
                partial.write_bytes(_SIGNATURE)

    def fetch(self, key: str, out: Path) -> list[Artifact] | None:
        """Copies the files of the write *key* into the folder *out*; None, and nothing is there, where one is not."""
        entry = self._entry(key)
        try:
            content = entry.read_bytes()
            digest, _, document = content.partition(b"\n")
            if digest != hashlib.sha256(document).hexdigest().encode():
                raise ValueError("damaged")
            written = msgspec.json.decode(document, type=_Written)
            if any(PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts for path in written.sha256):
                raise ValueError("outside")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, msgspec.DecodeError, HydraExportError):  # of another release, or damaged
            entry.unlink(missing_ok=True)
            return None
        copied: list[Path] = []
        for path, sha256 in written.sha256.items():
            copied.append(out / path)
            if not self._copy_out(sha256, out / path):
                for each in copied:
                    each.unlink(missing_ok=True)
                entry.unlink(missing_ok=True)
                return None
        with contextlib.suppress(OSError):
            os.utime(entry)
        self.reused.extend(out / artifact.path for artifact in written.artifacts)
        return list(written.artifacts)

    def keep(self, key: str, artifacts: Sequence[Artifact], out: Path) -> None:
        """Copies the files of *artifacts* out of the folder *out*; where that cannot be done, nothing is kept."""
        paths = sorted({path for artifact in artifacts for path in artifact.files})
        with contextlib.suppress(OSError, HydraExportError):
            sha256 = {path: self._copy_in(out / path) for path in paths}
            document = msgspec.json.encode(_Written(artifacts=tuple(artifacts), sha256=sha256))
            with files.replaced_file(self._entry(key)) as partial:
                partial.write_bytes(hashlib.sha256(document).hexdigest().encode() + b"\n" + document)

    def prune(self) -> None:
        """Deletes files beyond the limit, those first that were not used for longest."""
        with contextlib.suppress(OSError):
            stored = [(path, path.stat()) for path in (self.folder / "files").iterdir() if _SHA256.fullmatch(path.name)]
            left = self.limit
            for path, stat in sorted(stored, key=lambda each: each[1].st_mtime_ns, reverse=True):
                left -= stat.st_size
                if left < 0:
                    path.unlink(missing_ok=True)

    def _entry(self, key: str) -> Path:
        return self.folder / "writes" / f"{key}.json"

    def _file(self, sha256: str) -> Path:
        return self.folder / "files" / sha256

    def _copy_out(self, sha256: str, out: Path) -> bool:
        stored, digest = self._file(sha256), hashlib.sha256()
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            with stored.open("rb") as source, out.open("xb") as target:
                while piece := source.read(_PIECE):
                    digest.update(piece)
                    target.write(piece)
        except FileNotFoundError:
            return False
        if digest.hexdigest() != sha256:
            stored.unlink(missing_ok=True)
            return False
        with contextlib.suppress(OSError):
            os.utime(stored)
        return True

    def _copy_in(self, path: Path) -> str:
        sha256 = files.sha256(path)
        stored = self._file(sha256)
        # One that is there may be damaged: it costs a look to know, and a fetch would only find out too late.
        if not stored.exists() or files.sha256(stored) != sha256:
            with files.replaced_file(stored) as partial, path.open("rb") as source, partial.open("wb") as target:
                while piece := source.read(_PIECE):
                    target.write(piece)
        return sha256


def default_folder() -> Path:
    """Where the cache is by default: as the XDG Base Directory Specification says."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if Path(root).is_absolute() else Path.home() / ".cache") / "hydra-export"
