"""A training run and its folder: config.json, metrics.jsonl, state.pt and, at the end, checkpoint.safetensors."""

from __future__ import annotations

import json
import pickle
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import timm
import torch
from torch import Tensor

from hydra_export import checkpoint, files
from hydra_export.checkpoint import CheckpointInfo
from hydra_export.errors import BadInput, OutputRefused
from hydra_export.model import HydraViT
from hydra_export.train import data, recipes
from hydra_export.train.config import TrainConfig
from hydra_export.train.data import Dataset, Split
from hydra_export.train.evaluate import top1
from hydra_export.train.loop import Trainer
from hydra_export.version import VERSION

CONFIG, METRICS, STATE, CHECKPOINT = "config.json", "metrics.jsonl", "state.pt", "checkpoint.safetensors"


@dataclass(frozen=True)
class Progress:
    """Where a run is after a step; *accuracy* per head count is there when it was just measured."""

    step: int
    heads: int
    loss: float
    accuracy: dict[int, float] | None = None


@dataclass(frozen=True)
class Outcome:
    """A finished run: top-1 in percent per head count, as stored in the checkpoint."""

    checkpoint: Path
    config: TrainConfig
    accuracy: dict[int, float]
    accuracy_data: str
    seconds: float


def stored_config(out: Path) -> TrainConfig:
    """The configuration of the run in *out*.

    Raises:
        BadInput: there is none, or it cannot be read.
    """
    path = out / CONFIG
    if not path.is_file():
        raise BadInput(f"There is no run to continue in {out}.", "Start one there without --resume.")
    try:
        return msgspec.json.decode(path.read_bytes(), type=TrainConfig)
    except msgspec.DecodeError as error:
        raise BadInput(f"The configuration {path} is not valid: {error}.", "Start the run again.") from error


def run(
    config: TrainConfig,
    out: Path,
    *,
    data_folder: Path | None = None,
    resume: bool = False,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Outcome:
    """Trains into the folder *out*; *report* hears of every step.

    With *resume*, the run in *out* goes on from its last saved state as if it had never stopped.

    Raises:
        OutputRefused: *out* holds something and *resume* is not given, or cannot be written.
        BadData: the dataset is not there.
        BadInput: the saved state cannot be read.
        CheckFailed: the loss is not finite.
    """
    command(config)  # refuses an unknown recipe before hours are spent
    if not resume:
        _refuse_filled(out)
    dataset = data.load(config.dataset, data_folder)
    trainer = Trainer(config, dataset.train, _device())
    if resume:
        seconds = _restored_seconds(trainer, out / STATE)
    else:
        seconds = 0.0
        with files.replaced_file(out / CONFIG) as partial:
            partial.write_bytes(msgspec.json.format(msgspec.json.encode(config)) + b"\n")
    _drop_metrics_after(trainer.step, out / METRICS)
    seconds = _train(trainer, dataset.test, out, seconds, report)
    return _finish(trainer, dataset, out, seconds)


def _train(
    trainer: Trainer, test: Split, out: Path, seconds_before: float, report: Callable[[Progress], None]
) -> float:
    config = trainer.config
    started, losses = time.monotonic() - seconds_before, []
    monitored = sorted({config.trained_heads[0], *config.export_heads})
    with files.refusing(out / METRICS), (out / METRICS).open("a", encoding="utf-8") as metrics:
        while trainer.step < config.steps:
            k, loss = trainer.train_step()
            losses.append(loss)
            step, accuracy = trainer.step, None
            last = step == config.steps
            if step % config.log_every == 0 or last:
                spent = time.monotonic() - started
                _append(metrics, {"step": step, "loss": float(np.mean(losses)), "lr": trainer.lr, "seconds": spent})
                losses.clear()
            if step % config.monitor_every == 0 and not last:
                few = Split(test.pixels[: config.monitor_images], test.labels[: config.monitor_images])
                accuracy = top1(trainer.result(), config.preprocessing, few.pixels, few.labels, monitored)
                trainer.model.train()
                _append(metrics, {"step": step, "accuracy": accuracy, "test_images": len(few)})
            if step % config.save_every == 0 or last:
                with files.replaced_file(out / STATE) as partial:
                    torch.save({**trainer.state(), "seconds": time.monotonic() - started}, partial)
            report(Progress(step, k, loss, accuracy))
    return time.monotonic() - started


def _finish(trainer: Trainer, dataset: Dataset, out: Path, seconds: float) -> Outcome:
    config, dtype = trainer.config, getattr(torch, trainer.config.stored)
    state = {name: tensor.to(dtype).float() for name, tensor in trainer.result().state_dict().items()}
    heads = sorted({*config.trained_heads, *config.export_heads})
    test = dataset.test
    accuracy = top1(_model(config, state, trainer.device), config.preprocessing, test.pixels, test.labels, heads)
    info = CheckpointInfo(
        name=config.name,
        config=config.model,
        preprocessing=config.preprocessing,
        trained_heads=config.trained_heads,
        export_heads=tuple(k for k in config.export_heads if k in config.trained_heads) or config.trained_heads,
        labels=dataset.label_names,
        accuracy=accuracy,
        accuracy_data=f"{len(test):,} test images of {dataset.title}",
        license=config.license,
        training={
            "recipe": config.recipe,
            "command": command(config),
            "seed": config.seed,
            "steps": config.steps,
            "batch_size": config.batch_size,
            "train_images": len(dataset.train),
            "weights": f"{config.keep}, {config.stored}",
            "seconds": round(seconds),
            "device": trainer.device.type,
            "threads": torch.get_num_threads(),
            "versions": {
                "hydra-export": VERSION,
                "python": platform.python_version(),
                "torch": str(torch.__version__),
                "timm": timm.__version__,
                "numpy": np.__version__,
            },
        },
    )
    checkpoint.save(out / CHECKPOINT, state, info, dtype)
    return Outcome(out / CHECKPOINT, config, accuracy, info.accuracy_data, seconds)


def _model(config: TrainConfig, state: dict[str, Tensor], device: torch.device) -> HydraViT:
    model = HydraViT(config.model, weight_init="skip", device="meta")
    model.load_state_dict(state, assign=True)
    return model.to(device).eval()


def command(config: TrainConfig) -> str:
    """The command that repeats the run *config*."""
    recipe = recipes.get(config.recipe)
    words = ["hydra-export train --recipe", config.recipe, "--out RUN --seed", str(config.seed)]
    for option, field in (("--steps", "steps"), ("--batch-size", "batch_size"), ("--lr", "lr")):
        if getattr(config, field) != getattr(recipe, field):
            words += [option, str(getattr(config, field))]
    if config.trained_heads != recipe.trained_heads:
        words += ["--train-heads", ",".join(map(str, config.trained_heads))]
    return " ".join(words)


def _refuse_filled(out: Path) -> None:
    with files.refusing(out):
        if out.exists() and not out.is_dir():
            raise OutputRefused(f"{out} is a file.", "Give a folder for the run.")
        if out.is_dir() and any(out.iterdir()):
            raise OutputRefused(
                f"Folder {out} is not empty.", "Give --resume to continue a run there, or a new folder."
            )


def _restored_seconds(trainer: Trainer, path: Path) -> float:
    """Puts the saved state, if there is one yet, into *trainer*; the seconds spent until then."""
    if not path.is_file():
        return 0.0
    try:
        state: dict[str, Any] = torch.load(path, map_location=trainer.device, weights_only=True)
        trainer.restore(state)
        return float(state["seconds"])
    except (pickle.UnpicklingError, RuntimeError, ValueError, KeyError, TypeError, EOFError) as error:
        raise BadInput(f"The state {path} cannot be continued: {error}.", "Start the run again.") from error


def _drop_metrics_after(step: int, path: Path) -> None:
    """Metrics of steps that are repeated would otherwise be there twice; the last line may be half a one."""
    if not path.is_file():
        return
    kept = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if _step_of(line) <= step]
    with files.replaced_file(path) as partial:
        partial.write_text("".join(kept), encoding="utf-8")


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _append(metrics: Any, row: dict[str, Any]) -> None:
    metrics.write(json.dumps(row) + "\n")
    metrics.flush()


def _device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
