"""What runs artifacts in ``bench``: the targets' runners, as ``board`` takes them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra_export import board, targets


def sources(names: Iterable[str]) -> dict[str, str]:
    """By target, the text of the module that runs its artifacts; targets without one are left out."""
    paths = ((name, targets.get(name).runners) for name in names)
    return {name: Path(path).read_text(encoding="utf-8") for name, path in paths if path}


def known() -> dict[str, dict[str, Any]]:
    """Every runtime by its name, as ``board.runners`` says of it; those of the default target first."""
    return board.runners(sources(sorted(targets.names(), key=lambda name: name != targets.DEFAULT)))


def installed() -> list[str]:
    """The names of those that are here."""
    return board.installed(known())
