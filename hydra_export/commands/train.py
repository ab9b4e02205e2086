"""``hydra-export train``: a recipe into a run folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from hydra_export import network
from hydra_export.commands import Flag, Result, candidates, table, talk, tell
from hydra_export.commands.candidates import one_of
from hydra_export.errors import BadInput
from hydra_export.interruption import Held
from hydra_export.text import shown

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hydra_export.commands.console import Console
    from hydra_export.train.config import TrainConfig
    from hydra_export.train.request import TrainingPlan
    from hydra_export.train.run import Outcome, Progress


def train(
    *,
    out: Path,
    recipe: Annotated[str | None, one_of(candidates.recipes)] = None,
    start: str | None = None,
    data: str | None = None,
    seed: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    train_heads: str | None = None,
    head_weights: str | None = None,
    override: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    threads: int | None = None,
    no_training: Flag = False,
    keep: int | None = None,
    tensorboard: Flag = False,
    wandb: Flag = False,
    resume: Flag = False,
) -> Result:
    """Train a universal model. Each step draws one head count and updates that subnetwork.

    Writes OUT/checkpoint.safetensors, ready for export, and beside it config.json, metrics.jsonl, state.pt and, if
    matplotlib is installed, run.png. On several GPUs: torchrun ... -m -- hydra_export.train with these options.

    Args:
        out: Folder of the run: new or empty, or with --resume the one to continue.
        recipe: fashion-mnist (the default; trained the packaged model), digits (downloads nothing, takes a minute),
            elastic (makes any dense ViT universal, on any images), finetune (any image folder, from any checkpoint),
            imagenet-base (the paper's) or imagenet-small.
        start: Checkpoint for the first weights, also of a smaller model: a file, a folder, a Hub id, or timm:NAME.
            By default, recipe finetune starts from the packaged model if the images are small and grey like its own.
        data: digits, fashion-mnist, a folder with one folder of images per class, a .tar file of such a folder, a
            folder of WebDataset shards, or hfds/PATH for a Hugging Face dataset; with recipe elastic also a folder of
            images without classes. For fashion-mnist also the folder with its four idx files; by default that of the
            Debian package dataset-fashion-mnist, or a download.
        seed: Seed of the first weights, the order and augmentation of the images, and the drawn head counts.
        steps: Total updates; warm-up and cosine scale with them.
        batch_size: Images per step, over all processes.
        lr: Peak learning rate.
        train_heads: Head counts to draw from, such as 3,6,12, or all; the others become useless.
        head_weights: How often to draw each head count, such as 1,1,2; by default all equally.
        override: Any other field of the run as NAME=VALUE, such as augmentation.mixup=0.8; OUT/config.json lists all.
        threads: CPU threads; by default all cores.
        no_training: With recipe elastic, only change the basis: the full width stays the same, smaller ones improve.
        keep: Keep this many of the latest checkpoints as OUT/checkpoint-step-STEP.safetensors, and the best one on the
            monitored test images as OUT/best.safetensors.
        tensorboard: Also write metrics for TensorBoard, into OUT/tensorboard.
        wandb: Also send metrics to Weights & Biases, configured by its own variables (WANDB_PROJECT,
            WANDB_MODE=offline, ...).
        resume: Continue the interrupted run in OUT from its last saved state, as if it had never stopped.
    """
    import torch

    from hydra_export.train.request import TrainingRequest, resolve

    if threads is not None:
        if threads < 1:
            raise BadInput(f"`threads` is {threads}.", "Pass 1 or more.")
        torch.set_num_threads(threads)
    options = {"data": data, "seed": seed, "steps": steps, "batch_size": batch_size, "lr": lr, "keep": keep}
    fields = {name: value for name, value in options.items() if value is not None} | _assignments(override)
    if no_training:
        if steps:
            raise BadInput(f"`no_training` and `steps` {steps} exclude each other.", "Pass only one of them.")
        fields |= {"steps": 0, "epochs": 0}
    request = TrainingRequest(
        recipe=recipe, start=start, train_heads=train_heads, head_weights=head_weights, fields=fields
    )
    plan = resolve(request, out, resume=resume)
    quiet = int(os.environ.get("RANK", "0")) > 0
    console = talk()
    with _silent() if quiet else _render(console, plan.config) as report:
        outcome = _run(plan, out, report, console, tensorboard=tensorboard, wandb=wandb)
    return Result(_document(outcome), _shown_result(outcome))


def _run(
    plan: TrainingPlan,
    out: Path,
    report: Callable[[Progress], None],
    console: Console,
    *,
    tensorboard: bool,
    wandb: bool,
) -> Outcome:
    from hydra_export.train import record, run

    try:
        return run.run(
            plan.config,
            out,
            resume=plan.resume,
            tensorboard=tensorboard,
            wandb=wandb,
            report=report,
            tell=lambda notes: tell(console, notes, ""),  # the one that draws the bar, which they would cut in two
            start_is_default=plan.start_is_default,
        )
    except KeyboardInterrupt as error:
        if (out / record.STATE).is_file():
            error.add_note("The same command with --resume continues from the last saved state.")
        elif (out / record.CONFIG).is_file():
            error.add_note("No state was saved yet: the same command with --resume begins again.")
        raise


def _assignments(pairs: tuple[str, ...]) -> dict[str, str]:
    """``NAME=VALUE`` by name."""
    for pair in pairs:
        if "=" not in pair:
            raise BadInput(f"`override` {pair} sets nothing.", "Pass NAME=VALUE, such as `override=drop_path=0.1`.")
    return dict(pair.split("=", 1) for pair in pairs)


@contextmanager
def _silent() -> Iterator[Callable[[Progress], None]]:
    yield lambda progress: None


@contextmanager
def _render(console: Console, config: TrainConfig) -> Iterator[Callable[[Progress], None]]:
    """A progress bar and the accuracy per head count on standard error, and what hears of each step."""
    from rich import progress
    from rich.console import Group
    from rich.live import Live

    bar = progress.Progress(
        progress.TextColumn(shown(config.recipe), markup=False),
        progress.BarColumn(bar_width=24),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[loss]}"),
        console=console,
    )
    task = bar.add_task("", total=config.steps or None, loss="")
    live = Live(bar, console=console, refresh_per_second=4, transient=True)
    smoothed, rows = 0.0, []

    def report(now: Progress) -> None:
        nonlocal smoothed
        smoothed = 0.98 * smoothed + 0.02 * now.loss if smoothed else now.loss
        if now.accuracy:
            rows.append((now.step, smoothed, now.accuracy))
            live.update(Group(_accuracies(rows[-8:]), bar))
            if not console.is_terminal:  # a log file shows no table until its end
                measured = "  ".join(f"k={k} {value:.1f}" for k, value in now.accuracy.items())
                unreadable = f"  {now.unreadable} images unreadable" if now.unreadable else ""
                console.print(
                    f"step {now.step}  loss {smoothed:.3f}  {now.measure} {measured}{_pace(now)}{unreadable}",
                    soft_wrap=True,
                )
        bar.update(task, completed=now.step, total=now.steps, loss=f"loss {smoothed:.3f}{_pace(now)}")

    with Held(), live:
        yield report


def _pace(now: Progress) -> str:
    """The speed of the last steps, once it is known."""
    if now.speed is None:
        return ""
    memory = "" if now.speed.memory_mib is None else f"  {now.speed.memory_mib:,.0f} MiB"
    return f"  {now.speed.images_per_s:,.0f} images/s  {now.speed.waiting:.0%} waiting for data{memory}"


def _accuracies(rows: Sequence[tuple[int, float, dict[int, float]]]) -> RenderableType:
    shown = table("step", "loss", *(f"k={k}" for k in rows[-1][2]))
    for step, loss, top1 in rows:
        shown.add_row(f"{step:,}", f"{loss:.3f}", *(f"{value:.1f}" for value in top1.values()))
    return shown


def _document(outcome: Outcome) -> dict[str, Any]:
    config = outcome.config
    return {
        "checkpoint": outcome.checkpoint.as_posix(),
        "recipe": config.recipe,
        "seed": config.seed,
        "steps": config.steps,
        "seconds": round(outcome.seconds, 1),
        "measure": config.measure,
        "accuracy_data": outcome.accuracy_data,
        "trained_heads": list(config.trained_heads),
        "plot": None if outcome.plot is None else outcome.plot.as_posix(),
        "unreadable_images": list(outcome.unreadable),
        "unreadable_test_images": outcome.unread_tests,
        "subnetworks": [
            {
                "heads": k,
                "trained": k in config.trained_heads and (config.steps > 0 or k == config.model.heads),
                config.measure.replace("-", ""): percent,
                "params": network.num_params(config.model, k),
                "macs": network.macs(config.model, k),
            }
            for k, percent in outcome.accuracy.items()
        ],
    }


def _shown_result(outcome: Outcome) -> RenderableType:
    from rich.console import Group

    from hydra_export.commands.evaluate import subnetwork_table

    done = f"{outcome.config.steps:,} steps" if outcome.config.steps else "new basis without training"
    lines = [f"{outcome.checkpoint}: {done} in {outcome.seconds:,.0f} s"]
    if outcome.unreadable or outcome.unread_tests:
        some = ", ".join(outcome.unreadable[:3]) + (", ..." if len(outcome.unreadable) > 3 else "")
        lines.append(
            f"Skipped as unreadable: {len(outcome.unreadable)} training images{f' ({some})' if some else ''}, "
            f"{outcome.unread_tests} test images"
        )
    return Group(subnetwork_table(_document(outcome)["subnetworks"], outcome.accuracy_data), *lines)
