"""Checkpoints into artifacts: which writes there are, and what was written before."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np

from hydra_export import network
from hydra_export.cache import Cache
from hydra_export.checkpoint import Checkpoint
from hydra_export.errors import CheckFailed
from hydra_export.normalised import array
from hydra_export.target import METADATA_PREFIX, Artifact, ExportSpec, Precision, Target, described

# More than any file of an artifact has: float32 weights of every head count, and a graph around them.
_MOST_BYTES_PER_PARAM, _MOST_GRAPH_BYTES = 8, 2**26


@dataclass(frozen=True)
class Job:
    """One target with one choice of everything else."""

    target: Target
    spec: ExportSpec


@dataclass(frozen=True)
class Write:
    """One call of a target's ``write``."""

    job: Job
    heads: tuple[int, ...]

    @property
    def what(self) -> str:
        """What it does, for progress."""
        spec, counts = self.job.spec, ", ".join(map(str, self.heads))
        return f"writing {self.job.target.name} {spec.graph} {spec.precision}, k = {counts}"


def writes(listed: Sequence[Job], heads: tuple[int, ...]) -> list[Write]:
    """What has to be written; what is self-contained is written for itself, so that it can be kept for itself."""
    return [
        Write(job, chosen)
        for job in listed
        for chosen in ([(k,) for k in heads] if job.spec.graph == "separate" else [heads])
    ]


def written(
    listed: Sequence[Write],
    checkpoint_of: Callable[[Precision], Checkpoint],
    folder: Path,
    progress: Callable[[str, int], None],
    cache: Cache | None = None,
) -> list[Artifact]:
    """Writes everything into *folder*, or copies it out of *cache*, and lints it; paths come back relative to it.

    Args:
        checkpoint_of: the model as a precision takes it.
    """
    keys = _keys(listed, checkpoint_of) if cache else {}
    found: dict[Write, list[Artifact]] = {}
    for write in listed:
        place = folder / write.job.target.name
        place.mkdir(exist_ok=True)
        checkpoint = checkpoint_of(write.job.spec.precision)
        if cache and (artifacts := _reused(write, checkpoint, cache, keys[write], place)):
            found[write] = artifacts
    done = len(found)
    for write in listed:
        if write in found:
            continue
        progress(write.what, done)
        target, place = write.job.target, folder / write.job.target.name
        checkpoint = checkpoint_of(write.job.spec.precision)
        found[write] = target.write(checkpoint, write.heads, write.job.spec, place)
        for artifact in found[write]:
            target.lint(place / artifact.path)
        if cache:
            cache.keep(keys[write], found[write], place)
        done += 1
    return [_below(write.job.target.name, artifact) for write in listed for artifact in found[write]]


def _reused(write: Write, checkpoint: Checkpoint, cache: Cache, key: str, place: Path) -> list[Artifact]:
    """What *write* would make, out of *cache* into the folder *place* and linted; nothing where it is not there."""
    target, spec = write.job.target, write.job.spec
    planned = target.planned(checkpoint, write.heads, spec)
    config = checkpoint.info.config
    most_bytes = _MOST_GRAPH_BYTES + _MOST_BYTES_PER_PARAM * sum(network.num_params(config, k) for k in write.heads)
    if not cache.fetch(key, planned, place, most_bytes):
        return []
    try:
        return [_as_planned(target, artifact, checkpoint, place) for artifact in planned]
    except CheckFailed:
        cache.discard(key, planned, place)
        return []


def _as_planned(target: Target, planned: Artifact, checkpoint: Checkpoint, place: Path) -> Artifact:
    """The artifact that lies at its place, with what it needs.

    Raises:
        CheckFailed: it does not pass lint, or says something else of itself than the planned one would.
    """
    path = place / planned.path
    target.lint(path)
    needs = target.needs(path)
    metadata = {name: text for name, text in target.metadata(path).items() if name.startswith(METADATA_PREFIX)}
    expected = described(checkpoint.info, checkpoint.sha256, planned.heads, planned.spec)
    as_planned = target.signature(path) == (planned.inputs, planned.outputs) and planned.needs in ({}, needs)
    if metadata != expected or not as_planned:
        raise CheckFailed(f"{path} is another artifact.")
    return msgspec.structs.replace(planned, needs=needs)


def _below(name: str, artifact: Artifact) -> Artifact:
    files = tuple(f"{name}/{file}" for file in artifact.files)
    return msgspec.structs.replace(artifact, path=f"{name}/{artifact.path}", files=files)


def _digest(checkpoint: Checkpoint) -> str:
    model = hashlib.sha256(msgspec.json.encode([checkpoint.info, checkpoint.sha256, checkpoint.activations]))
    for name, tensor in sorted(checkpoint.state.items()):
        model.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        model.update(array(tensor).reshape(-1).view(np.uint8).data)
    return model.hexdigest()


def _keys(listed: Sequence[Write], checkpoint_of: Callable[[Precision], Checkpoint]) -> dict[Write, str]:
    """What each write is made from: the model, the choices, and every program that has a part in it."""
    checkpoints = {precision: checkpoint_of(precision) for precision in {w.job.spec.precision for w in listed}}
    digests = {id(each): _digest(each) for each in {id(each): each for each in checkpoints.values()}.values()}
    ours = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        ours.update(path.read_bytes())
    common = [ours.hexdigest(), platform.machine(), platform.python_version()]
    packages = {"numpy", "torch"}.union(*(write.job.target.packages for write in listed))
    versions = {name: version(name) for name in packages}

    def key(write: Write) -> str:
        own = [[name, versions[name]] for name in sorted({"numpy", "torch", *write.job.target.packages})]
        model = digests[id(checkpoints[write.job.spec.precision])]
        what = [model, *common, own, write.job.target.name, write.heads, write.job.spec]
        return hashlib.sha256(msgspec.json.encode(what)).hexdigest()

    return {write: key(write) for write in listed}
