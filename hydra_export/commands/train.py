"""``hydra-export train``: a recipe into a run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from hydra_export.commands import Result, talk
from hydra_export.errors import BadInput

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hydra_export.train.config import TrainConfig
    from hydra_export.train.run import Outcome, Progress


def train(
    *,
    out: Path,
    recipe: str | None = None,
    data: Path | None = None,
    seed: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    train_heads: str | None = None,
    threads: int | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
) -> Result:
    """Train a universal model, one drawn head count per step.

    Writes OUT/checkpoint.safetensors, ready for export, and beside it config.json, metrics.jsonl and state.pt.

    Args:
        out: Folder of the run, new or empty, or with --resume the one to continue.
        recipe: fashion-mnist (the default; made the packaged model) or digits (downloads nothing, takes a minute).
        data: Folder with the four idx files of Fashion-MNIST; by default those of the Debian package
            dataset-fashion-mnist where it is installed, else they are downloaded.
        seed: Of the first weights, the order and variation of the images, and the drawn head counts.
        steps: Updates in all; warm-up and cosine stretch with them.
        batch_size: Images per step.
        lr: Peak learning rate.
        train_heads: Head counts to draw from, such as 3,6,12, or all; the others become useless.
        threads: CPU threads; by default all cores.
        resume: Continue the interrupted run in OUT from its last saved state, as if it had never stopped.
    """
    import torch

    from hydra_export.train import run

    if threads is not None:
        if threads < 1:
            raise BadInput(f"--threads {threads} is no number of threads.", "Give 1 or more.")
        torch.set_num_threads(threads)
    given = {"seed": seed, "steps": steps, "batch_size": batch_size, "lr": lr}
    stored = run.stored_config(out) if resume else None
    base = stored.recipe if stored is not None and recipe is None else recipe
    config = _config(base, {name: value for name, value in given.items() if value is not None}, train_heads)
    if stored is not None:
        config = _continued(stored, config, recipe, train_heads, given)
    with _shown(config) as report:
        outcome = run.run(config, out, data_folder=data, resume=resume, report=report)
    return Result(_document(outcome), _shown_result(outcome))


def _config(recipe: str | None, given: dict[str, Any], train_heads: str | None) -> TrainConfig:
    import msgspec

    from hydra_export.architecture import parse_heads
    from hydra_export.train import recipes

    config = recipes.get("fashion-mnist" if recipe is None else recipe)
    if train_heads is not None:
        given = {**given, "trained_heads": parse_heads(train_heads, config.model.heads)}
    if "lr" in given:
        given["lr_min"] = min(config.lr_min, given["lr"])
    return msgspec.structs.replace(config, **given)


def _continued(
    stored: TrainConfig, wanted: TrainConfig, recipe: str | None, train_heads: str | None, given: dict[str, Any]
) -> TrainConfig:
    """The stored configuration; options that say otherwise are refused, as they would change the run midway."""
    named = [name for name, value in given.items() if value is not None]
    named += ["recipe"] * (recipe is not None) + ["trained_heads"] * (train_heads is not None)
    for name in named:
        if getattr(stored, name) != getattr(wanted, name):
            option = "--train-heads" if name == "trained_heads" else f"--{name.replace('_', '-')}"
            raise BadInput(
                f"The run to continue has {option} {getattr(stored, name)}, not {getattr(wanted, name)}.",
                f"Leave {option} out, or start a new run.",
            )
    return stored


@contextmanager
def _shown(config: TrainConfig) -> Iterator[Callable[[Progress], None]]:
    """A progress bar on standard error, and what hears of each step."""
    from rich import progress

    bar = progress.Progress(
        progress.TextColumn(f"{config.recipe}"),
        progress.BarColumn(bar_width=24),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[loss]}  {task.fields[accuracy]}"),
        console=talk(),
    )
    smoothed = 0.0

    def report(now: Progress) -> None:
        nonlocal smoothed
        smoothed = 0.98 * smoothed + 0.02 * now.loss if smoothed else now.loss
        fields: dict[str, Any] = {"loss": f"loss {smoothed:.3f}"}
        if now.accuracy:
            fields["accuracy"] = "top-1 " + "  ".join(f"k={k} {value:.1f}" for k, value in now.accuracy.items())
            if not bar.console.is_terminal:  # a log file shows no bar until its end
                bar.console.print(f"step {now.step}  {fields['loss']}  {fields['accuracy']}", soft_wrap=True)
        bar.update(task, completed=now.step, **fields)

    with bar:
        task = bar.add_task("", total=config.steps, loss="", accuracy="")
        try:
            yield report
        except KeyboardInterrupt:
            bar.console.print("Interrupted. The same command with --resume continues from the last saved state.")
            raise


def _document(outcome: Outcome) -> dict[str, Any]:
    config = outcome.config
    return {
        "checkpoint": outcome.checkpoint.as_posix(),
        "recipe": config.recipe,
        "seed": config.seed,
        "steps": config.steps,
        "seconds": round(outcome.seconds, 1),
        "accuracy_data": outcome.accuracy_data,
        "trained_heads": list(config.trained_heads),
        "subnetworks": [
            {
                "heads": k,
                "trained": k in config.trained_heads,
                "top1": top1,
                "params": config.model.num_params(k),
                "macs": config.model.macs(k),
            }
            for k, top1 in outcome.accuracy.items()
        ],
    }


def _shown_result(outcome: Outcome) -> RenderableType:
    from rich.console import Group

    from hydra_export.commands.evaluate import shown_subnetworks

    done = f"{outcome.checkpoint}: {outcome.config.steps:,} steps in {outcome.seconds:,.0f} s"
    return Group(shown_subnetworks(_document(outcome)["subnetworks"], outcome.accuracy_data), done)
