"""A training run from its configuration to its checkpoint, in one process or in several under torchrun."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor

from hydra_export import checkpoint_file
from hydra_export.checkpoint_file import CheckpointInfo
from hydra_export.data.datasets import Dataset, Images
from hydra_export.errors import CheckFailed, MissingExtra
from hydra_export.evaluation.accuracy import accuracy
from hydra_export.evaluation.agreement import agreement
from hydra_export.model import HydraViT
from hydra_export.train import batches, boards, distributed, fast_arithmetic, initial, plot, rebase, record
from hydra_export.train.command import command
from hydra_export.train.config import TrainConfig
from hydra_export.train.dataset import check_shares, load, notes_on_classes, resolved
from hydra_export.train.loop import Trainer
from hydra_export.train.speed import Speed, Window
from hydra_export.version import VERSION


@dataclass(frozen=True)
class Progress:
    """The state of a run after a step.

    Attributes:
        accuracy: in percent per head count, if it was just measured.
        speed: over the last ``log_every`` steps; None before.
        measure: what *accuracy* is: top-1, or agreement with the dense model.
    """

    step: int
    steps: int
    heads: tuple[int, ...]
    loss: float
    accuracy: dict[int, float] | None = None
    unreadable: int = 0
    measure: str = "top-1"
    speed: Speed | None = None


@dataclass(frozen=True)
class Outcome:
    """A finished run: top-1 in percent per head count, as stored in the checkpoint.

    Attributes:
        accuracy: without labels, the agreement with the dense model.
        unreadable: the training images that could not be read.
        unread_tests: how many test images could not be read.
    """

    checkpoint: Path
    config: TrainConfig
    accuracy: dict[int, float]
    accuracy_data: str
    seconds: float
    unreadable: tuple[str, ...] = ()
    unread_tests: int = 0
    plot: Path | None = None


def run(
    config: TrainConfig,
    out: Path,
    *,
    data_folder: Path | None = None,
    resume: bool = False,
    tensorboard: bool = False,
    wandb: bool = False,
    report: Callable[[Progress], None] = lambda progress: None,
    tell: Callable[[tuple[str, ...]], None] = lambda notes: None,
    start_is_default: bool = False,
    device: torch.device | None = None,
) -> Outcome:
    """Trains into the folder *out*; *report* hears of every step, *tell* of what was assumed of the checkpoint.

    With *start_is_default*, nobody asked for the checkpoint that it starts from: images that it was not made for are
    refused.

    With *resume*, the run in *out* goes on from its last saved state as if it had never stopped. Under torchrun every
    process calls this; the first one writes.

    Raises:
        OutputRefused: *out* holds something and *resume* is not given, or cannot be written.
        BadData: the dataset is not there, or cannot be used.
        BadInput: the saved state cannot be read, or data, checkpoint and configuration contradict each other.
        CheckFailed: the loss is not finite.
    """
    command(config)  # refuses an unknown recipe before hours are spent
    shown_on = [name for name, wanted in {"tensorboard": tensorboard, "wandb": wandb}.items() if wanted]
    boards.require(shown_on)
    with distributed.joined(device) as world:
        if world.is_first and not resume:
            record.refuse_nonempty(out)
        start = initial.source(config)
        found = load(config, data_folder)
        if start is not None and start_is_default:
            initial.check_suits(start.info, found)
        config, dataset, same_classes = resolved(config, found, start)
        if start is not None and world.is_first:
            tell((*start.notes, *notes_on_classes(config, start, dataset, same_classes)))
        check_shares(config, world)
        loaded = batches.batches(config, dataset.train, world.rank, world.size, pinned=world.device.type == "cuda")
        began = time.monotonic()
        first = None
        if start is not None and not (resume and (out / record.STATE).is_file()):  # else it has weights already
            first = rebase.of(config, start, dataset.train, world, same_classes)
            if world.is_first:
                tell(first.notes[len(start.notes) :])
        model = initial.model(config, first, same_classes)
        trainer = Trainer(config, model, loaded, world, dataset.label_names, start)
        with record.alone(out) if world.is_first else contextlib.nullcontext():
            if world.is_first and not resume:
                record.refuse_nonempty(out)  # by now another run may be there
                record.write_config(out, config, distributed.launch_id())
            seconds = _restore(trainer, out) if resume else time.monotonic() - began
            world.barrier()
            with fast_arithmetic.allowed(config, world.device):  # not before: a change of basis is exact, and verified
                return _Run(trainer, dataset, loaded, out, report).go(seconds, shown_on)


def _restore(trainer: Trainer, out: Path) -> float:
    """Puts the saved state, if there is one yet, into *trainer*; the seconds spent until then."""
    state = record.read_state(out, trainer.world.device)
    if state is None:
        return 0.0
    try:
        trainer.restore(state)
        return float(state["seconds"])
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise record.unusable_state(out, error) from error


class _Run:
    """The steps of a run, and what is measured and saved between them."""

    def __init__(
        self,
        trainer: Trainer,
        dataset: Dataset[Images],
        loaded: batches.Batches,
        out: Path,
        report: Callable[[Progress], None],
    ) -> None:
        self._trainer, self._dataset, self._batches = trainer, dataset, loaded
        self._out, self._report, self._config, self._world = out, report, trainer.config, trainer.world
        self._saved_step = trainer.step

    def go(self, seconds: float, shown_on: Sequence[str]) -> Outcome:
        started = time.monotonic() - seconds
        if self._world.is_first:
            with record.metrics(self._out, self._trainer.step, shown_on) as metrics:
                self._train(started, metrics)
                return self._finish(time.monotonic() - started, metrics)
        self._train(started, None)
        return self._finish(time.monotonic() - started, None)

    def _train(self, started: float, metrics: record.Metrics | None) -> None:
        config, trainer, window = self._config, self._trainer, Window(self._config.batch_size, self._world.device)
        speed = None
        while trainer.step < config.steps:
            with window.timed():
                result = self._step()
            window.add(result)
            step, measured = trainer.step, None
            last = step == config.steps
            if step % config.log_every == 0 or last:
                losses, speed = window.taken()
                if metrics is not None:
                    spent = time.monotonic() - started
                    metrics.add(step, **losses, lr=trainer.lr, seconds=spent, **speed.row())
            if step % config.monitor_every == 0 and not last:
                measured = self._monitor()
                if metrics is not None:
                    metrics.add(step, accuracy=measured)
            if config.keep and (step % config.monitor_every == 0 or last):
                self._keep_best(measured or self._monitor(), time.monotonic() - started)
            if step % config.save_every == 0 or last:
                self._save(time.monotonic() - started)
            if self._world.is_first:
                unreadable = len(self._batches.unreadable)
                now = Progress(step, config.steps, result.heads, result.loss, measured, unreadable, config.measure)
                self._report(replace(now, speed=speed))

    def _step(self) -> Any:
        try:
            return self._trainer.train_step()
        except CheckFailed as error:
            kept = f"The state of step {self._saved_step} is kept in {self._out}." if self._saved_step else ""
            raise CheckFailed(f"{error.message} {kept}".strip(), error.remedy) from error

    def _monitor(self) -> dict[int, float]:
        config, trainer = self._config, self._trainer
        heads = sorted({config.trained_heads[0], *config.export_heads} & {*self._measurable()})
        measured, _ = self._measured(trainer.result(), heads, config.monitor_images)
        trainer.model.train()
        return measured

    def _measured(
        self, model: HydraViT, heads: Sequence[int], limit: int | None = None
    ) -> tuple[dict[int, float], int]:
        """Top-1, or without labels the agreement with the dense model, in percent, and of how many test images."""
        config, world = self._config, self._world
        how: dict[str, Any] = {"rank": world.rank, "num_processes": world.size, "total": world.sum}
        how |= {"limit": limit, "workers": config.workers}
        images = self._dataset.test
        if config.labels == "ignore":
            return agreement(model, self._trainer.teacher, config.preprocessing, images, heads, **how)
        rows = accuracy(model, config.preprocessing, images, heads, **how)
        return {k: row.top1 for k, row in rows.items()}, rows[heads[0]].num_images

    def _save(self, seconds: float) -> None:
        if not self._world.is_first:
            return
        stored = self._stored_state()
        if self._config.keep:  # before the state, which a resumed run does not go back behind
            name = record.step_checkpoint(self._trainer.step)
            self._write_checkpoint(stored, {}, "", seconds, name)
        record.write_state(self._out, {**self._trainer.state(), "seconds": seconds})
        self._saved_step = self._trainer.step
        if self._trainer.step < self._config.steps:
            self._write_checkpoint(stored, {}, "", seconds)
        if self._config.keep:
            record.drop_old_checkpoints(self._out, self._config.keep)

    def _keep_best(self, percent: dict[int, float], seconds: float) -> None:
        """Keeps these weights if no earlier ones were better on average over the monitored head counts.

        How good the best are is read from their own file, so the two cannot contradict each other. A resumed run
        repeats the same measurements, and so the same choice.
        """
        path = self._out / record.BEST
        if not self._world.is_first:
            return
        if path.is_file():
            info = checkpoint_file.read(path).info
            before = info.agreement if self._config.labels == "ignore" else info.accuracy
            if fmean(percent.values()) <= fmean(before.values()):
                return
        measured_on = f"at most {self._config.monitor_images:,} test images of {self._dataset.title}, the best of a run"
        self._write_checkpoint(self._stored_state(), percent, measured_on, seconds, record.BEST)

    def _stored_state(self) -> dict[str, Tensor]:
        dtype = getattr(torch, self._config.stored)
        return {name: tensor.to(dtype).float() for name, tensor in self._trainer.result().state_dict().items()}

    def _measurable(self) -> tuple[int, ...]:
        return self._config.model.separate_classifiers or tuple(range(1, self._config.model.heads + 1))

    def _finish(self, seconds: float, metrics: record.Metrics | None) -> Outcome:
        config, test = self._config, self._dataset.test
        state = self._stored_state()
        model = HydraViT(config.model, weight_init="skip", device="meta")
        model.load_state_dict(state, assign=True)
        heads = sorted({*config.trained_heads, *config.export_heads} & {*self._measurable()})
        top1, num_images = self._measured(model.to(self._world.device).eval(), heads)
        self._batches.unreadable = self._world.union(self._batches.unreadable)
        measured_on = f"{num_images:,} test images of {self._dataset.title}"
        path = self._out / record.CHECKPOINT
        outcome = Outcome(
            path,
            config,
            top1,
            measured_on,
            seconds,
            tuple(sorted(self._batches.unreadable)),
            len(test) - num_images,
        )
        if metrics is not None:
            if not record.is_measured(self._out, config.steps):  # a finished run may be continued, to no effect
                metrics.add(config.steps, accuracy=top1)
            self._write_checkpoint(state, top1, measured_on, seconds)
            outcome = replace(outcome, plot=_plot(self._out))
        self._world.barrier()
        return outcome

    def _write_checkpoint(
        self,
        state: dict[str, Tensor],
        percent: dict[int, float],
        measured_on: str,
        seconds: float,
        name: str = record.CHECKPOINT,
    ) -> None:
        config = self._config
        trained = config.trained_heads if config.steps else (config.model.heads,)
        what = "agreement" if config.labels == "ignore" else "accuracy"
        measured: dict[str, Any] = {what: percent, f"{what}_data": measured_on}
        info = CheckpointInfo(
            name=config.name,
            config=config.model,
            preprocessing=config.preprocessing,
            trained_heads=trained,
            export_heads=tuple(k for k in config.export_heads if k in trained) or trained,
            labels=self._dataset.label_names,
            **measured,
            license=config.license,
            training=self._how(seconds),
        )
        checkpoint_file.write(self._out / name, state, info, getattr(torch, config.stored))

    def _how(self, seconds: float) -> dict[str, Any]:
        config, unreadable = self._config, len(self._batches.unreadable)
        rebased = {} if config.rebase == "none" else {"elastic": config.rebase, "images": config.rebase_images}
        return {
            **rebased,
            "recipe": config.recipe,
            "command": command(config),
            "seed": config.seed,
            "step": self._trainer.step,
            "steps": config.steps,
            "batch_size": config.batch_size,
            "train_images": len(self._dataset.train) - unreadable,
            "unreadable_images": unreadable,
            "weights": f"{config.kept_weights}, {config.stored}",
            "seconds": round(seconds),
            "device": self._world.device.type,
            "processes": self._world.size,
            "threads": torch.get_num_threads(),
            "versions": {
                "hydra-export": VERSION,
                "python": platform.python_version(),
                "torch": str(torch.__version__),
                "timm": timm.__version__,
                "numpy": np.__version__,
            },
        }


def _plot(out: Path) -> Path | None:
    try:
        return plot.run(record.rows(out), out / record.PLOT)
    except MissingExtra:  # nobody asked for it
        return None
