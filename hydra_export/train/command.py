"""The command that repeats a run."""

from __future__ import annotations

from typing import Any

import msgspec

from hydra_export.train import recipes
from hydra_export.train.config import TrainConfig


def command(config: TrainConfig) -> str:
    """The command that repeats the run *config*: its recipe, and what differs from it."""
    recipe = msgspec.to_builtins(recipes.get(config.recipe, "" if config.start == "packaged" else config.start))
    words = ["hydra-export train --recipe", config.recipe, "--out RUN --seed", str(config.seed)]
    if config.start not in ("", "packaged"):
        words += ["--start", config.start]
    if config.data:
        words += ["--data", config.data]
    options = {
        "steps": "--steps",
        "batch_size": "--batch-size",
        "lr": "--lr",
        "keep": "--keep",
        "trained_heads": "--train-heads",
    }
    for name, value in _differences(recipe, msgspec.to_builtins(config)):
        shown = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        words += [options[name], shown] if name in options else ["--override", f"{name}={shown}"]
    return " ".join(words)


def _differences(recipe: dict[str, Any], config: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    differences = []
    for name, value in config.items():
        if prefix + name in ("seed", "data", "start", "recipe"):
            continue
        if isinstance(value, dict) and isinstance(recipe[name], dict):
            differences += _differences(recipe[name], value, f"{prefix}{name}.")
        elif value != recipe[name]:
            differences.append((prefix + name, value))
    return differences
