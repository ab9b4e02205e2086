"""What every asset of ours promises, checked on the files themselves."""
from __future__ import annotations

from pathlib import Path

from hydra_export.target import Work
from hydra_export.targets.coreai import folder, reader


def lint(path: Path) -> Work:
    """Raises CheckFailed naming *path* and the first promise that it breaks; what a run of it takes otherwise."""
    folder.check(path)
    folder.check_metadata(path)
    reader.described.afresh(path)
    return Work(macs=1, tensor_bytes=1)
