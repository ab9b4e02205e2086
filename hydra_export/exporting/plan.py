"""What an export will do, decided before an image is read or a file written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hydra_export import conversion, files, network, parity, targets
from hydra_export.architecture import HydraConfig, check_heads
from hydra_export.bundle import DeviceEntry
from hydra_export.checkpoint import Checkpoint, default_heads
from hydra_export.conversion import Job, Write
from hydra_export.errors import BadInput
from hydra_export.parity import check_further
from hydra_export.target import GATED, Artifact, Precision

# All runs of all artifacts together may take so much: seconds, whatever is exported. A wrong graph is wrong on any
# image; the accuracy of int8, which takes so much at the largest head count, needs more of them.
_PROOF_MACS, _GATE_MACS = 2e11, 4e12
_PROOF_IMAGES, _GATE_IMAGES = range(4, 13), range(64, 1001)
_OWN_IMAGES = 10  # times as much for images of the user's own, who wants to see what becomes of them
_REFERENCES = 3  # what float32 and float64 of PyTorch take, in runs of an artifact
_FILE_STEM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")  # every file's name starts with the model's


@dataclass(frozen=True)
class Plan:
    """An export.

    Attributes:
        heads: every head count that any target is written for, ascending.
        num_runs: of an artifact at a head count, to verify it.
        num_images: how many images each precision takes, the same ones first.
        verify_with: runtimes that verify beside each target's own.
        devices: whom the head counts were chosen for; empty where all targets have all.
    """

    checkpoint: Checkpoint
    heads: tuple[int, ...]
    writes: tuple[Write, ...]
    num_runs: int
    num_images: dict[Precision, int]
    verify_with: tuple[str, ...]
    devices: tuple[DeviceEntry, ...]

    @property
    def most_images(self) -> int:
        """How many have to be read."""
        return max(self.num_images.values())

    @property
    def num_steps(self) -> int:
        """For progress: writes, and then runs."""
        return len(self.writes) + self.num_runs


def planned(
    checkpoint: Checkpoint,
    listed: Sequence[Job],
    heads: Sequence[int],
    devices: Sequence[DeviceEntry],
    verify_with: Sequence[str] = (),
    own_images: bool = False,
) -> Plan:
    """The plan for what ``export`` is asked for, whose arguments these are.

    Raises:
        BadInput: what is asked for contradicts itself or the model.
    """
    config = checkpoint.info.config
    _check_exportable(checkpoint, listed)
    check_further(verify_with, [job.target for job in listed])
    heads = check_heads(heads or default_heads(checkpoint.info), config.heads)
    run_by = _run_by(devices, heads)
    heads = tuple(k for k in heads if any(k in run for run in run_by.values())) if devices else heads
    for k in heads:
        config.classifiers(k)
    writes = [w for job in listed for w in conversion.writes([job], run_by.get(job.target.name, heads))]
    artifacts = [each for w in writes for each in w.job.target.planned(checkpoint, w.heads, w.job.spec)]
    num_runs = sum(len(artifact.heads) for artifact in artifacts)
    num_images = _num_images(config, artifacts, verify_with, _OWN_IMAGES if own_images else 1)
    return Plan(checkpoint, heads, tuple(writes), num_runs, num_images, tuple(verify_with), tuple(devices))


def _run_by(devices: Sequence[DeviceEntry], heads: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The head counts that each target's devices run; all of *heads* where one of them may run any."""
    run: dict[str, set[int]] = {}
    for device in devices:
        run.setdefault(device.target, set()).update(heads if device.heads is None else [device.heads])
    return {target: tuple(sorted(chosen)) for target, chosen in run.items()}


def _num_images(
    config: HydraConfig, artifacts: Sequence[Artifact], further: Sequence[str], times: int
) -> dict[Precision, int]:
    """As many as the whole proof can afford; int8's share of right answers needs more of them."""
    largest = network.macs(config, max(k for artifact in artifacts for k in artifact.heads))
    of_an_image = sum(
        network.macs(config, k)
        * (_REFERENCES + len(parity.verifying(targets.get(each.target), each.spec.precision, further)))
        for each in artifacts
        for k in each.heads
    )
    least, most = _PROOF_IMAGES[0], _PROOF_IMAGES[-1]
    few = _affordable(times * _PROOF_MACS, of_an_image, range(least, times * most + 1))
    by_precision: dict[Precision, int] = {"fp32": few, **{each.spec.precision: few for each in artifacts}}
    judged = _affordable(_GATE_MACS, largest, _GATE_IMAGES)
    return {name: judged if name in GATED else count for name, count in by_precision.items()}


def _affordable(macs: float, each: int, counts: range) -> int:
    return max(counts[0], min(counts[-1], int(macs / each)))


def _check_exportable(checkpoint: Checkpoint, listed: Sequence[Job]) -> None:
    name = checkpoint.info.name
    if not _FILE_STEM.fullmatch(name) or files.unportable(name):
        raise BadInput(
            f"Checkpoint {checkpoint.path}: the model's name, {name[:80]!r}, cannot be used in file names.",
            "Use letters, digits, '.', '_' and '-', at most 100 characters, and no name "
            "of a Windows device (CON, NUL, ...).",
        )
    for job in listed:
        job.target.check(job.spec, checkpoint.info)
