"""The advice for devices: what is known of this model there, against the device's budget, and the choice of k."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from hydra_export import targets
from hydra_export.bundle import DeviceEntry, Manifest
from hydra_export.latency import Advice, Constraints, Evidence, advise
from hydra_export.profiles import ResolvedProfile

_MOST_OTHERS = 4
_MOST_MS = 1e9  # a manifest may claim anything


def on_devices(
    manifest: Manifest, chosen: Iterable[tuple[ResolvedProfile, Constraints]], evidence: Evidence
) -> tuple[Advice, ...]:
    """What is known of the bundle's model on each of the *chosen* devices, within its constraints."""
    model = manifest.model.workload
    return tuple(advise(evidence, resolved, model, constraints) for resolved, constraints in chosen)


def constraints_of(entry: DeviceEntry) -> Constraints:
    """Those within which the bundle's own choice was made."""
    budget = entry.budget_ms if 0 < entry.budget_ms < _MOST_MS else None
    return Constraints(runtime=entry.runtime if entry.runtime in targets.formats() else "", budget_ms=budget)


def document(advice: Advice, targets: Collection[str]) -> dict[str, Any]:
    """The advice in a report's JSON document; *targets*: those that the bundle holds files for."""
    profile, choice = advice.profile, advice.choice
    heads, chance = (choice.larger if choice else None) or (None, None)
    return {
        "id": profile.id,
        "name": profile.name,
        "soc": profile.facts.soc.value if profile.facts.soc else "",
        "way": str(advice.path),
        "budget_ms": advice.budget.ms,
        "budget_reason": advice.budget.reason,
        "times": [
            {"heads": k, **estimate.times, "fits": advice.verdicts[k], "chance": advice.chance(k)}
            for k, estimate in advice.estimates.items()
        ],
        "unknown": "" if choice else advice.why_unknown,
        "choice": advice.heads,
        "sure": choice is not None and choice.sure,
        "chance": choice.chance if choice else None,
        "why": choice.why if choice else "",
        "larger": heads,
        "larger_chance": chance,
        "formula": advice.formula,
        "anchors": advice.origins,
        "sources": advice.sources,
        "lacks": "" if advice.target in targets else advice.target,
        "inferred": advice.inferred,
        "others": [
            {"way": str(option.path), "heads": option.whole.k, **option.whole.times}
            for option in advice.others[:_MOST_OTHERS]
        ],
    }
