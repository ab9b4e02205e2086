"""Artifacts of an export, run in a process beside this one: without PyTorch, and while this one computes references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np

from hydra_export import files, targets
from hydra_export.arrays import Array
from hydra_export.interruption import uninterrupted
from hydra_export.target import Artifact, InputForm, Runtime, Session
from hydra_export.worker import Worker

Outputs = dict[str, Array]  # logits by the name of the runtime that gave them
_latest: dict[str, Session] = {}  # of each runtime


class Runs:
    """Runs artifacts on *images* one after the other, in a process that starts at once and ends with the context.

    Args:
        images: in each input form that one of the artifacts takes.
    """

    def __init__(self, images: Mapping[InputForm, Array]) -> None:
        self._images, self._paths = images, dict[InputForm, str]()
        self._worker, self._pool, self._ends = Worker(), ThreadPoolExecutor(1), ExitStack()

    def __enter__(self) -> Self:
        self._worker.start()
        folder = self._ends.enter_context(files.temporary_folder())
        for form, images in self._images.items():
            self._paths[form] = str(folder / f"{form}.npy")
            np.save(self._paths[form], images)
        return self

    @uninterrupted
    def __exit__(self, *_error: object) -> None:
        self._worker.kill()
        self._pool.shutdown(cancel_futures=True)
        self._ends.close()

    def of(
        self, artifact: Artifact, heads: int, folder: Path, runtimes: Sequence[Runtime], num_images: int
    ) -> Future[Outputs]:
        """What *artifact*, which lies in *folder*, gives for the first *num_images* images in each of *runtimes*."""
        return self._pool.submit(
            self._worker.call,
            f"{__name__}:run",
            what=f"Running {artifact.path} at k = {heads}",
            target=artifact.target,
            path=str(folder / artifact.path),
            heads=heads,
            runtimes=[runtime.name for runtime in runtimes],
            images=self._paths[artifact.spec.input],
            num_images=num_images,
            batches=2 if artifact.spec.batch == "dynamic" else 1,
        )


def run(
    target: str, path: str, heads: int, runtimes: list[str], images: str, num_images: int, batches: int
) -> dict[str, Any]:
    """What the process does for one head count of an artifact.

    Args:
        images: of the .npy file.
        batches: 2 for the first image alone and then the others: what takes any number is shown two.
    """
    given = np.load(images, mmap_mode="r")[:num_images]
    parts = [given[:1], given[1:]] if batches == 2 and num_images > 1 else [given]

    def outputs(runtime: str) -> Array:
        # The one before is let go afterwards: of the same file, it shares with this one what the runtime made of it.
        session = _latest[runtime] = targets.get(target).load(Path(path), heads, runtime=runtime)
        return np.concatenate([session.run(np.ascontiguousarray(part)) for part in parts])

    return {runtime: outputs(runtime) for runtime in runtimes}
