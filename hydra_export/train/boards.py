"""Where the metrics of a run are shown beside its folder: TensorBoard, and Weights & Biases. Each is an extra."""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import msgspec

from hydra_export import files
from hydra_export.errors import BadInput, MissingExtra
from hydra_export.train.config import TrainConfig

_EXTRAS = {"tensorboard": "train", "wandb": "wandb"}
_RUN_ID, _ID_BYTES = "wandb-run-id", 256
# What wandb is told, unless the user tells it by a variable of its own.
_VARIABLES = {"dir": "WANDB_DIR", "id": "WANDB_RUN_ID", "resume": "WANDB_RESUME"}


class Board(Protocol):
    """What takes the numbers of a run."""

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """The numbers of *step* by name, such as ``loss/k3``."""


def require(names: Collection[str]) -> None:
    """Refuses before hours are spent.

    Raises:
        MissingExtra: what one of *names* (``tensorboard``, ``wandb``) needs is not installed.
    """
    for name in names:
        found = find_spec(name)
        if (
            found is None or found.origin is None
        ):  # a folder of that name, which wandb leaves where it ran, is no package
            raise MissingExtra(f"`{name}`", name, _EXTRAS[name])


@contextmanager
def opened(names: Collection[str], out: Path, config: TrainConfig, step: int) -> Iterator[list[Board]]:
    """The boards *names* of the run in *out*, which goes on after *step*."""
    require(names)
    makers = {"tensorboard": _tensorboard, "wandb": _wandb}
    with ExitStack() as stack:
        yield [stack.enter_context(makers[name](out, config, step)) for name in sorted(names)]


@contextmanager
def _tensorboard(out: Path, config: TrainConfig, step: int) -> Iterator[Board]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)
    try:
        yield _TensorBoard(writer)
    finally:
        writer.close()


class _TensorBoard:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, number in scalars.items():
            self._writer.add_scalar(name, number, step)


@contextmanager
def _wandb(out: Path, config: TrainConfig, step: int) -> Iterator[Board]:
    """A run of wandb's, the same one when our run goes on; one that fails is marked as such there."""
    import wandb  # type: ignore[import-not-found, unused-ignore]

    told = {"dir": str(out), "id": "" if os.environ.get("WANDB_RUN_ID") else _run_id(out), "resume": "allow"}
    told = {name: value for name, value in told.items() if not os.environ.get(_VARIABLES[name])}
    try:
        run = wandb.init(config=msgspec.to_builtins(config, str_keys=True), **told)
    except wandb.Error as error:
        reason = str(error).rstrip(".")
        raise BadInput(f"`wandb` cannot start: {reason}.", "Run wandb login, or set WANDB_MODE to offline.") from error
    # A run that goes on repeats the steps since its last saved state; wandb refuses to count its own steps backwards.
    run.define_metric("*", step_metric="step")
    try:
        yield _Wandb(run)
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()


class _Wandb:
    def __init__(self, run: Any) -> None:
        self._run = run

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log({"step": step, **scalars})


def _run_id(out: Path) -> str:
    """What wandb calls the run in *out*."""
    path = out / _RUN_ID
    if not path.is_file():
        with files.replaced_file(path) as partial:
            partial.write_text(f"{secrets.token_hex(4)}\n", encoding="utf-8")
    return files.read(path, _ID_BYTES).decode(errors="replace").strip()
