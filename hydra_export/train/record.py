"""The folder of a run: config.json, metrics.jsonl, state.pt, its checkpoints and, at the end, run.png."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec
import torch

from hydra_export import documents, files
from hydra_export.errors import BadInput, OutputRefused
from hydra_export.train import boards
from hydra_export.train.boards import Board
from hydra_export.train.config import TrainConfig

CONFIG, METRICS, STATE, CHECKPOINT, BEST, PLOT, LAUNCH = (
    "config.json",
    "metrics.jsonl",
    "state.pt",
    "checkpoint.safetensors",
    "best.safetensors",
    "run.png",
    "launch-id",
)
_LAUNCH_BYTES = 4096
_STEP = re.compile(r"checkpoint-step-(\d+)\.safetensors")
_METRICS_BYTES = 256 * files.MIB


# What a run that was killed started lives on for so long: PyTorch's loaders look for their parent every 5 s.
_PATIENCE_SECONDS = 15.0


def stored_config(out: Path) -> TrainConfig:
    """The configuration of the run in *out*.

    Raises:
        BadInput: there is none, or it cannot be read.
    """
    path = out / CONFIG
    if not path.is_file():
        raise BadInput(f"There is no run to continue in {out}.", "Start one there without `resume`.")
    try:
        return documents.decode_json(files.read(path, documents.JSON_BYTES), TrainConfig)
    except msgspec.DecodeError as error:
        raise BadInput(f"The configuration {path} is not valid: {error}.", "Start the run again.") from error


def belongs_to(out: Path, launch: str) -> bool:
    """Whether the run in *out* was begun by the torchrun of that name."""
    path = out / LAUNCH
    return bool(launch) and path.is_file() and files.read(path, _LAUNCH_BYTES).strip() == launch.encode()


def write_config(out: Path, config: TrainConfig, launch: str = "") -> None:
    """Writes the resolved configuration, and the name of the torchrun that began the run."""
    if launch:
        with files.replaced_file(out / LAUNCH) as partial:
            partial.write_text(f"{launch}\n", encoding="utf-8")
    with files.replaced_file(out / CONFIG) as partial:
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(config)) + b"\n")


def alone(out: Path) -> contextlib.AbstractContextManager[None]:
    """Holds the folder of a run, so that no other run writes into it; OutputRefused where another one does."""
    return files.alone_in(out, _PATIENCE_SECONDS)


def refuse_nonempty(out: Path) -> None:
    """Refuses a folder for a new run that holds something."""
    with files.refusing(out):
        if out.exists() and not out.is_dir():
            raise OutputRefused(f"{out} is a file.", "Pass a folder for the run.")
        if out.is_dir() and any(out.iterdir()):
            raise OutputRefused(
                f"Folder {out} is not empty.", "Pass `resume` to continue a run there, or choose a new folder."
            )


def write_state(out: Path, state: dict[str, Any]) -> None:
    """Replaces the saved state by *state*: a kill or a full disk leaves the one before."""
    with files.replaced_file(out / STATE) as partial, partial.open("wb") as file:
        output = _ErrorKeepingFile(file)
        try:
            torch.save(state, output)  # type: ignore[arg-type]
        except RuntimeError as error:
            raise output.error or error from None


class _ErrorKeepingFile:
    """A file for torch.save that keeps the system's own error: torch reports a full disk as a bug of its own."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def read_state(out: Path, device: torch.device) -> dict[str, Any] | None:
    """The saved state of the run in *out*, if there is one yet.

    Raises:
        BadInput: it is damaged.
    """
    if not (out / STATE).is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(out / STATE, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        raise unusable_state(out, error) from error
    return state


def step_checkpoint(step: int) -> str:
    """The name of the checkpoint that is kept of *step*."""
    return f"checkpoint-step-{step}.safetensors"


def drop_old_checkpoints(out: Path, num_kept: int) -> None:
    """Removes all but the last *num_kept* of the checkpoints by step."""
    kept = {int(m[1]): path for path in out.iterdir() if (m := _STEP.fullmatch(path.name))}
    for step in sorted(kept)[:-num_kept]:
        kept[step].unlink(missing_ok=True)


def unusable_state(out: Path, error: Exception) -> BadInput:
    """The error for a saved state that cannot continue the run."""
    return BadInput(f"The state {out / STATE} cannot be continued: {error}.", "Start the run again.")


class Metrics:
    """Rows by step: lines of metrics.jsonl, and scalars for the boards that show them elsewhere."""

    def __init__(self, lines: IO[str], shown_on: Sequence[Board]) -> None:
        self._lines, self._boards = lines, shown_on

    def add(self, step: int, **row: Any) -> None:
        """One row; values are numbers, or numbers per head count."""
        self._lines.write(json.dumps({"step": step, **row}) + "\n")
        self._lines.flush()
        for board in self._boards:
            board.add(step, dict(_scalars(row)))


def _scalars(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a row by name, such as ``loss/k3``."""
    for name, value in row.items():
        if isinstance(value, dict):
            yield from ((f"{name.removesuffix('_per_k')}/k{k}", number) for k, number in value.items())
        else:
            yield name, value


@contextmanager
def metrics(out: Path, step: int, names: Collection[str] = ()) -> Iterator[Metrics]:
    """The metrics of the run in *out*, which goes on after *step*: later rows would otherwise be there twice.

    *names* are those of the boards that show them too.
    """
    _drop_after(step, out / METRICS)
    with boards.opened(names, out, stored_config(out), step) as shown_on, _appended(out / METRICS) as lines:
        yield Metrics(lines, shown_on)


@contextmanager
def _appended(path: Path) -> Iterator[IO[str]]:
    with files.refusing(path), path.open("a", encoding="utf-8") as lines:
        yield lines


def rows(out: Path) -> list[dict[str, Any]]:
    """All rows of the metrics in *out*."""
    return [json.loads(line) for line in files.read(out / METRICS, _METRICS_BYTES).splitlines()]


def is_measured(out: Path, step: int) -> bool:
    """Whether the metrics in *out* have accuracies of *step*."""
    return any(row["step"] == step and "accuracy" in row for row in rows(out))


def _drop_after(step: int, path: Path) -> None:
    if not path.is_file():
        return
    lines = files.read(path, _METRICS_BYTES).splitlines(keepends=True)
    with files.replaced_file(path) as partial:
        partial.write_bytes(b"".join(line for line in lines if _step_of(line) <= step))


def _step_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):  # half a line, of a run that was killed
        return float("inf")
