"""Which target and which subnetwork each of several devices needs, by the latency model or by what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra_export import profiles
from hydra_export.bundle import DeviceEntry
from hydra_export.checkpoint_file import CheckpointInfo
from hydra_export.errors import BadInput
from hydra_export.latency import Advice, Constraints, Evidence, Workload, advise
from hydra_export.latency.spread import rounded


def fit(
    names: Sequence[str], model: Workload, budget_ms: float | None = None, folder: Path | None = None
) -> list[DeviceEntry]:
    """The choice for every device.

    Args:
        names: of devices, each with ``:RUNTIME`` behind it where another than the best known is meant.
        model: whose head counts are to choose from.
        budget_ms: by default each device's own.
        folder: of the user's own profiles.

    Raises:
        UnknownName, BadInput: no such device or runtime; one is listed twice.
    """
    evidence = Evidence(profiles.resolve(folder))
    chosen: dict[tuple[str, str], DeviceEntry] = {}
    for name in names:
        device, _, runtime = (part.strip() for part in name.partition(":"))
        constraints = Constraints(budget_ms=budget_ms, runtime=runtime)
        entry = _entry(advise(evidence, profiles.get(device, folder), model, constraints))
        if (entry.id, entry.runtime) in chosen:
            raise BadInput(f"`device` lists {entry.id} twice.", "List each once.")
        chosen[entry.id, entry.runtime] = entry
    return [*chosen.values()]


def workload(info: CheckpointInfo, heads: Sequence[int]) -> Workload:
    """The subnetworks *heads* of a checkpoint."""
    return Workload.of(info.name, info.config, heads, {k: info.accuracy[k] for k in heads if k in info.accuracy})


def _entry(advice: Advice) -> DeviceEntry:
    """The advice as the manifest keeps it; where nothing fits, with the smallest head count whose time is known."""
    choice, path = advice.choice, advice.path
    heads = (choice.heads or min(advice.estimates)) if choice else None
    estimate = advice.estimates[heads] if heads is not None else None
    unknown = "it gets every head count"
    counted = "" if "fp32" in advice.precisions else f"; these times are of {path.arithmetic} files"
    if advice.constraints.budget_ms is not None:
        unknown = f"whether it meets {rounded(advice.budget.ms)} ms is unknown"
    return DeviceEntry(
        id=advice.profile.id,
        name=advice.profile.name,
        runtime=path.runtime,
        unit=path.unit,
        target=advice.target,
        heads=heads,
        fits=advice.heads is not None,
        sure=choice is not None and choice.sure,
        chance=choice.chance if choice else None,
        why=f"{choice.why}{counted}" if choice else f"no estimate: {advice.why_unknown}; {unknown}",
        budget_ms=advice.budget.ms,
        ms=estimate.ms if estimate else None,
        low=estimate.low if estimate else None,
        high=estimate.high if estimate else None,
        provenance=estimate.provenance if estimate else None,
    )
