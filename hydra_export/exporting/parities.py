"""Every artifact of an export against PyTorch, at every head count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hydra_export import parity, quantization, targets
from hydra_export.arrays import Array, Pixels
from hydra_export.bundle import Progress
from hydra_export.checkpoint import Checkpoint
from hydra_export.errors import ParityFailed
from hydra_export.exporting.plan import Plan
from hydra_export.exporting.quantizing import Prepared
from hydra_export.exporting.sample import Sample
from hydra_export.running import Runs
from hydra_export.target import Artifact, Precision, Runtime

_WORST_LAYERS = 4  # that a message names


@dataclass(frozen=True)
class Parities:
    """How all artifacts compared.

    Attributes:
        records: by path and head count.
        references: what they were compared with, by head count.
        agreed: per image, whether every runtime of every artifact gave the model's answer.
    """

    records: dict[str, dict[int, parity.ParityRecord]]
    references: dict[int, dict[Precision, parity.Reference]]
    agreed: NDArray[np.bool_]


def measured(
    plan: Plan,
    artifacts: Sequence[Artifact],
    sample: Sample,
    folder: Path,
    runs: Runs,
    counted: Prepared,
    progress: Progress,
) -> Parities:
    """Has *runs* run the *artifacts*, which lie in *folder*, and computes references meanwhile.

    Raises:
        ParityFailed: one of them does not compute its subnetwork.
    """
    records: dict[str, dict[int, parity.ParityRecord]] = {artifact.path: {} for artifact in artifacts}
    references: dict[int, dict[Precision, parity.Reference]] = {k: {} for k in plan.heads}
    agreed = np.ones(len(sample.pixels["fp32"]), np.bool_)
    listed = [(k, artifact) for artifact in artifacts for k in artifact.heads]
    outputs = [
        runs.of(artifact, k, folder, _runtimes(plan, artifact), len(sample.pixels[artifact.spec.precision]))
        for k, artifact in listed
    ]
    for step, (k, artifact) in enumerate(listed, start=len(plan.writes)):
        progress(f"verifying {artifact.path}, k = {k}", step, plan.num_steps)
        precision: Precision = artifact.spec.precision
        for needed in ("fp32", precision):
            if needed not in references[k]:
                references[k][needed] = _reference(plan.checkpoint, k, sample.pixels[needed], needed)
        by_runtime = outputs[step - len(plan.writes)].result()
        pairs = [(runtime, by_runtime[runtime.name]) for runtime in _runtimes(plan, artifact)]
        record, agreeing = _judged(plan.checkpoint, artifact, k, references[k], pairs, sample, counted)
        records[artifact.path][k] = record
        agreed &= agreeing[: len(agreed)]
    return Parities(records, references, agreed)


def _runtimes(plan: Plan, artifact: Artifact) -> tuple[Runtime, ...]:
    return parity.verifying(targets.get(artifact.target), artifact.spec.precision, plan.verify_with)


def _reference(checkpoint: Checkpoint, heads: int, pixels: Pixels, precision: Precision) -> parity.Reference:
    return parity.reference(checkpoint.model, heads, pixels, checkpoint.info.preprocessing, precision)


def _judged(
    checkpoint: Checkpoint,
    artifact: Artifact,
    heads: int,
    expected: Mapping[Precision, parity.Reference],
    outputs: Sequence[tuple[Runtime, Array]],
    sample: Sample,
    counted: Prepared,
) -> tuple[parity.ParityRecord, NDArray[np.bool_]]:
    precision = artifact.spec.precision
    try:
        return parity.judged(outputs, heads, precision, expected, artifact.path, sample.gate)
    except ParityFailed as failed:
        if precision == "int8":
            raise _with_layers(failed, checkpoint, heads, sample.pixels["fp32"]) from failed
        if worst := counted.worst(heads, precision):
            raise ParityFailed(
                f"{failed.message} Of their blocks' outputs, 8 bits of these tensors change most: {worst}.",
                f"{failed.remedy} `mixed` uses 16 bits for the worst tensors.",
            ) from failed
        raise


def _with_layers(failed: ParityFailed, checkpoint: Checkpoint, heads: int, pixels: Pixels) -> ParityFailed:
    """The same, with the layers that int8 changes most."""
    errors = quantization.layer_errors(checkpoint.model, heads, pixels, checkpoint.info.preprocessing)
    worst = ", ".join(f"{each.name} by {each.both:.1%} ({each.weights:.1%})" for each in errors[:_WORST_LAYERS])
    return ParityFailed(
        f"{failed.message} int8 activations and weights (weights only) change the outputs of these layers most: "
        f"{worst}.",
        failed.remedy,
    )
