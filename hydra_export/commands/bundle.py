"""``hydra-export bundle``: a checkpoint becomes a folder and one archive, the same bytes every time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from hydra_export.commands import Result, size
from hydra_export.commands.choices import Choices, run
from hydra_export.commands.export import document, shown

if TYPE_CHECKING:
    from hydra_export.cache import Cache


def bundle(
    choices: Choices | None = None,
    *,
    out: Path = Path("hydra-bundle"),
    cache: Path | None = None,
    no_cache: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> Result:
    """Export as ``export`` does, reuse what was written before, and write one archive beside the folder.

    The same checkpoint, choices and tool versions give the same bytes, wherever and whenever.

    Args:
        out: The bundle's folder; its archive is OUT.zip. Ours there are replaced; anything else is refused.
        cache: Where artifacts are kept for next time; by default a folder of hydra-export among the user's caches.
        no_cache: Write everything anew, and keep nothing.
    """
    from rich.console import Group

    from hydra_export import archive, files

    kept = None if no_cache else _cache(cache)
    zipped = archive.beside(out)
    manifest = run(choices or Choices(), out, kept, zipped)
    reused = len(kept.reused) if kept else 0
    if kept:
        kept.prune()
    sha256, num_bytes = files.sha256(zipped), zipped.stat().st_size
    lines = [
        f"{reused} of {len(manifest.artifacts)} artifacts came out of the cache; all were proven.",
        f"{zipped}: {size(num_bytes)}, SHA-256 {sha256}",
    ]
    return Result(
        {
            "out": str(out),
            "archive": {"path": str(zipped), "bytes": num_bytes, "sha256": sha256},
            "reused": reused,
            "manifest": document(manifest),
        },
        Group(shown(manifest, out), *lines),
    )


def _cache(folder: Path | None) -> Cache:
    from hydra_export.cache import Cache, default_folder

    cache = Cache(folder or default_folder())
    cache.check()
    return cache
