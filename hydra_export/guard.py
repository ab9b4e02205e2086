"""An artifact may come from anybody: it is opened and run in a process of its own, within limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import msgspec

from hydra_export import board, network, targets
from hydra_export.bundle import ArtifactEntry, Manifest, batch
from hydra_export.errors import BadInput, CheckFailed, LimitExceeded, MissingExtra, VerificationFailed
from hydra_export.target import Interface, TensorInfo, Work
from hydra_export.worker import Worker, available_memory_mib

_LEAST_BYTES = 0.5  # of a parameter: int8 has one, and a few parameters are folded into others
_ARGUMENTS = {"memory": "limit_memory_mib", "seconds": "limit_seconds"}
_REMEDY = {name: f"Allow more with `{argument}` if you trust it." for name, argument in _ARGUMENTS.items()}


@dataclass(frozen=True, kw_only=True)
class RunLimits:
    """What an artifact may take, in mebibytes of memory and in seconds of one call; None for what fits its size."""

    memory_mib: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.memory_mib is not None and self.memory_mib < board.LEAST_MIB:
            raise BadInput(f"`limit_memory_mib` is {self.memory_mib}.", f"Use {board.LEAST_MIB} MiB or more.")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise BadInput(f"`limit_seconds` is {self.seconds}.", "Use seconds above 0.")


class Inspected(msgspec.Struct, frozen=True):
    """What a file that passes lint holds: what it says of itself, its inputs and outputs, and what a run takes."""

    metadata: dict[str, str]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    work: Work

    @property
    def interface(self) -> Interface:
        return self.inputs, self.outputs


class Guard:
    """A process for the artifacts of one bundle, which starts with the first call and ends with the context.

    Args:
        worker: one that goes on to other bundles, and has limits of its own; by default there is one for this alone.
    """

    def __init__(self, folder: Path, manifest: Manifest, limits: RunLimits, worker: Worker | None = None) -> None:
        self.folder, self.manifest, self._seconds = folder, manifest, limits.seconds
        self.memory_mib = limits.memory_mib or board.default_memory_mib(
            max(map(manifest.weight_bytes, manifest.artifacts)), available_memory_mib()
        )
        self._worker = worker or new_worker(self.memory_mib)
        self._ends = worker is None

    def inspect(self, artifact: ArtifactEntry) -> Inspected:
        """Opens the file alone.

        Raises:
            VerificationFailed: it is damaged or not portable.
            LimitExceeded: opening it took too much.
        """
        path = str(self.folder / artifact.path)
        asked = {"target": artifact.target, "path": path}
        answer = self.call(artifact, f"Opening {path}", f"{__name__}:inspect", 0, **asked)
        return msgspec.convert(answer, Inspected)

    def call(self, artifact: ArtifactEntry, what: str, function: str, macs: int, **arguments: Any) -> Any:
        """What ``package.module:function`` returns of *artifact*.

        Args:
            what: is being done, as errors name it.
            macs: multiply-accumulates that it is about to take.

        Raises:
            VerificationFailed: the artifact is not what the manifest says, or ended the process.
            LimitExceeded: it took too much memory or time.
        """
        path = self.folder / artifact.path
        seconds = self._seconds or board.default_seconds(self.manifest.fetch_bytes(artifact), macs / 1e9)
        self._worker.start()
        try:
            return self._worker.call(function, what=what, seconds=seconds, **arguments)
        except LimitExceeded as error:
            raise LimitExceeded(error.message, _REMEDY[error.resource], error.resource) from error
        except (MissingExtra, VerificationFailed):
            raise
        except (CheckFailed, BadInput) as error:  # BadInput: the manifest says something else than the file
            named = error.message if str(path) in error.message else f"{path}: {error.message}"
            remedy = "Export it again."
            if type(error) is CheckFailed and macs:  # some runtimes do not say that memory is what they lack
                remedy += f" Or, if it lacks memory, allow more than {self.memory_mib} MiB with `limit_memory_mib`."
            raise VerificationFailed(named, remedy) from error

    def check_work(self, artifact: ArtifactEntry, inspected: Inspected) -> None:
        """Before it is run. The manifest is foreign too: a model that may take long has many parameters in its file.

        Raises:
            VerificationFailed: it computes more than its model does, or lacks parameters.
            LimitExceeded: running it would take too much memory.
        """
        path, model, work = self.folder / artifact.path, self.manifest.model, inspected.work
        mib = work.tensor_bytes // 2**20
        if mib > self.memory_mib:
            what = f"{path} needs {mib:,} MiB for a single tensor; the limit is {self.memory_mib:,} MiB."
            raise LimitExceeded(what, _REMEDY["memory"])
        own = model.macs(artifact.heads, batch(inspected.inputs))
        if work.macs > own:
            raise VerificationFailed(
                f"{path} takes {work.macs / 1e9:.3g} GMACs per run; its model takes {own / 1e9:.3g}.",
                "Export it again.",
            )
        largest, size = max(artifact.heads), self.manifest.fetch_bytes(artifact)
        params = network.num_params(model.config, largest)
        if size < params * _LEAST_BYTES:
            raise VerificationFailed(
                f"{path} has {size:,} bytes, too few for the {params:,} parameters of subnetwork {largest}.",
                "Export it again.",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._ends:
            self._worker.close()


def new_worker(memory_mib: int = 0) -> Worker:
    """For a Guard: an error in it that is none of ours is a bug, not a failed check."""
    return Worker(memory_mib, untyped=RuntimeError)


def inspect(target: str, path: str) -> dict[str, Any]:
    """What the process does to inspect a file."""
    of, place = targets.get(target), Path(path)
    work = of.lint(place)
    inputs, outputs = of.signature(place)
    answer: dict[str, Any] = msgspec.to_builtins(Inspected(of.metadata(place), inputs, outputs, work))
    return answer
