"""Where a checkpoint lies: in memory, in a file or a folder, on the Hub or in timm."""

from __future__ import annotations

import re
from pathlib import Path

from torch import nn

from hydra_export.errors import BadCheckpoint
from hydra_export.importing import sources
from hydra_export.importing.sources import Source

TIMM = "timm:"
_FILE = re.compile(r"\.(pth|tar|safetensors|pt|bin|ckpt)$")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


def read(place: Path | str | nn.Module) -> Source:
    """What lies at a path, under a Hub id (``org/name``) where there is no such path, in timm (``timm:NAME``), or here.

    Raises:
        BadCheckpoint: nothing does, or it cannot be read.
    """
    if isinstance(place, nn.Module):
        return sources.of_module(place)
    text = str(place)
    if text.startswith(TIMM):
        from hydra_export.importing import remote

        return remote.of_timm(text.removeprefix(TIMM))
    path = Path(place)
    try:
        if path.is_dir():
            return sources.of_folder(path)
        if not path.exists() and _HUB_ID.fullmatch(text) and not _FILE.search(text):
            from hydra_export.importing import remote

            return remote.of_hub(text)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadCheckpoint(f"Checkpoint {path} cannot be read: {reason}.", "Pass another path.") from error
    if path.name in sources.WEIGHTS:
        return sources.of_folder(path.parent, path.name)
    return sources.of_file(path)
