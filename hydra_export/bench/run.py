"""Timing a bundle on the machine that this runs on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hydra_export import board, bundle, network, targets
from hydra_export.bench import runtimes as runners
from hydra_export.bench.report import Report
from hydra_export.errors import BadInput, CheckFailed, UnknownName
from hydra_export.guard import Guard, RunLimits


def bench(
    folder: Path,
    *,
    runs: int = 50,
    threads: Sequence[int] = (1,),
    runtimes: Sequence[str] = (),
    progress: bundle.Progress = bundle.silent,
    limits: RunLimits = RunLimits(),  # noqa: B008 (frozen)
) -> Report:
    """Times every artifact of a bundle at every head count, in every runtime that is installed.

    Args:
        runtimes: only these; all that are installed by default.
        limits: of each process that an artifact is loaded by.

    Raises:
        BadInput: *folder* is no bundle, or nothing here runs any of it.
        LimitExceeded: opening an artifact takes more than it may.
        CheckFailed: the usual runtime of an artifact does not run it, or it computes something else than the model.
    """
    manifest = bundle.read(folder)
    bundle.read_golden(folder, manifest)
    known = runners.known()
    chosen = _chosen(runtimes, known)
    timed = [a for a in manifest.artifacts if any(known[name]["target"] == a.target for name in chosen)]
    if not timed:
        needs = {runner["target"]: runner["needs"] for runner in known.values()}
        raise BadInput(
            f"Nothing in {folder} can be timed on this machine: it contains "
            f"{_listed(a.target for a in manifest.artifacts)}; installed: {_listed(chosen) or 'no runtime'}.",
            f"{_listed(f'{a.target} needs {needs[a.target]}' for a in manifest.artifacts if a.target in needs)}.",
        )
    with Guard(folder, manifest, limits) as guard:
        for step, artifact in enumerate(timed):
            progress(f"checking {artifact.path}", step, len(timed))
            guard.check_work(artifact, guard.inspect(artifact))  # no runtime opens a damaged file
    measured = board.measure(
        folder, plan(manifest, timed), runs, threads, chosen, progress, limits.memory_mib, limits.seconds
    )
    first = {target: name for name in reversed(chosen) for target in [known[name]["target"]]}
    usual = {artifact.path: first[artifact.target] for artifact in timed}
    for failure in measured["failed"]:
        if usual[failure["path"]] == failure["runtime"]:
            raise CheckFailed(f"{failure['runtime']} cannot run {folder / failure['path']}: {failure['why']}.")
    report = msgspec.convert(measured, Report)
    for timing in report.timings:
        if timing.wrong and usual[timing.path] == timing.runtime:
            raise CheckFailed(
                f"{folder / timing.path} at heads {timing.heads} is off by {timing.max_abs_error:.1e} in "
                f"{timing.runtime}, more than the allowed {timing.bound or 0:.1e}: its time means nothing.",
                "hydra-export verify reports the details.",
            )
    return report


def not_timed(manifest: bundle.Manifest, report: Report) -> list[bundle.ArtifactEntry]:
    """The artifacts that no runtime here runs."""
    timed = {timing.path for timing in report.timings}
    return [artifact for artifact in manifest.artifacts if artifact.path not in timed]


def plan(manifest: bundle.Manifest, artifacts: Sequence[bundle.ArtifactEntry]) -> dict[str, Any]:
    """What ``board.measure`` is to do, as plain data."""
    model = manifest.model
    return {
        "schema_version": 1,
        "kind": f"{board.KIND} plan",
        "golden": bundle.GOLDEN,
        "runners": runners.sources(dict.fromkeys(artifact.target for artifact in artifacts)),
        "model": {
            "name": model.name,
            "checkpoint_sha256": model.checkpoint_sha256,
            "resolution": model.config.resolution,
            "tokens": model.config.num_tokens,
            "gmacs": network.macs(model.config, model.config.heads) / 1e9,
            "subnetworks": [
                {"heads": s.heads, "gmacs": network.macs(model.config, s.heads) / 1e9} for s in model.subnetworks
            ],
        },
        "artifacts": [
            {
                **{name: getattr(artifact, name) for name in ("path", "target", "graph", "precision", "input")},
                "layout": targets.get(artifact.target).layouts[artifact.input],
                "batch": artifact.batch,
                "takes": msgspec.to_builtins(artifact.inputs[0]),
                "gives": msgspec.to_builtins(artifact.outputs[0]),
                "bytes": manifest.fetch_bytes(artifact),
                "weight_bytes": manifest.weight_bytes(artifact),
                "heads": list(artifact.heads),
                "bounds": {str(k): record.bound for k, record in artifact.parity.items()},
            }
            for artifact in artifacts
        ],
    }


def _chosen(runtimes: Sequence[str], known: dict[str, dict[str, Any]]) -> list[str]:
    here = board.installed(known)
    for name in runtimes:
        if name not in known:
            raise UnknownName("runtime", name, known)
        if name not in here:
            raise BadInput(f"Runtime '{name}' is not installed here.", f"Installed: {_listed(here)}.")
    return [name for name in here if not runtimes or name in runtimes]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))
