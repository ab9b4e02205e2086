"""Latency per device: what is known of this model there, against the device's budget, and the choice of k."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from hydra_export.bundle import DeviceEntry, Manifest
from hydra_export.latency import Advice, Evidence, Wish, advise
from hydra_export.latency.spread import rounded
from hydra_export.latency.ways import FORMATS
from hydra_export.profiles import Known

_OTHER_WAYS = 4
_MOST_MS = 1e9  # what a manifest says may be anything


class TimeHere(msgspec.Struct, frozen=True, kw_only=True):
    """The time of one head count with its 80 % interval, and whether it fits the budget."""

    heads: int
    ms: float
    low: float
    high: float
    provenance: str
    fits: str
    chance: float


class OtherWay(msgspec.Struct, frozen=True, kw_only=True):
    """Another way of running the largest head count here."""

    way: str
    heads: int
    ms: float
    low: float
    high: float
    provenance: str


class DeviceTimes(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one device.

    Attributes:
        times: empty where nothing is known; then *unknown* says why.
        choice: the head count to run, None where none fits; *chance*: that it fits; *why*: in words.
        larger: a more accurate head count that may fit as well, *larger_chance*: that it does.
        formula, anchors, sources: what the times come from, the last by their key in the profile.
        lacks: the target that the bundle would need for this way, empty where it holds it.
    """

    id: str
    name: str
    soc: str
    way: str
    budget_ms: float
    budget_reason: str
    times: tuple[TimeHere, ...]
    unknown: str
    choice: int | None
    sure: bool
    chance: float | None
    why: str
    larger: int | None
    larger_chance: float | None
    formula: str
    anchors: tuple[str, ...]
    sources: dict[str, str]
    lacks: str
    inferred: bool
    others: tuple[OtherWay, ...]


def on_devices(manifest: Manifest, chosen: Iterable[tuple[Known, Wish]], evidence: Evidence) -> tuple[DeviceTimes, ...]:
    """What is known of the bundle's model on each of the *chosen* devices, run as wished, or in the best known way."""
    model = manifest.model.timed
    written = {artifact.target for artifact in manifest.artifacts}
    return tuple(_on_device(advise(evidence, known, model, wish), evidence, written) for known, wish in chosen)


def wished(entry: DeviceEntry) -> Wish:
    """As the bundle's own choice was made."""
    budget = entry.budget_ms if 0 < entry.budget_ms < _MOST_MS else None
    return Wish(runtime=entry.runtime if entry.runtime in FORMATS else "", budget_ms=budget)


def _on_device(advice: Advice, evidence: Evidence, written: set[str]) -> DeviceTimes:
    profile, choice = advice.profile, advice.choice
    target = FORMATS[advice.way.runtime]
    estimated = [e for e in advice.estimates.values() if e.provenance == "estimated"]
    anchors = tuple(dict.fromkeys(anchor for e in advice.estimates.values() for anchor in e.anchors))
    budget = advice.budget
    return DeviceTimes(
        id=profile.id,
        name=profile.name,
        soc=profile.facts.soc.value if profile.facts.soc else "",
        way=str(advice.way),
        budget_ms=budget.ms,
        budget_reason=budget.reason,
        times=tuple(
            TimeHere(
                heads=k,
                ms=estimate.ms,
                low=estimate.low,
                high=estimate.high,
                provenance=estimate.provenance,
                fits=advice.verdicts[k],
                chance=estimate.spread.chance_within(budget.ms),
            )
            for k, estimate in advice.estimates.items()
        ),
        unknown="" if choice else _unknown(advice),
        choice=choice.heads if choice else None,
        sure=bool(choice and choice.sure),
        chance=choice.chance if choice else None,
        why=choice.why if choice else "",
        larger=choice.larger[0] if choice and choice.larger else None,
        larger_chance=choice.larger[1] if choice and choice.larger else None,
        formula=estimated[0].formula if estimated else "",
        anchors=anchors,
        sources=_sources(advice, evidence, anchors),
        lacks="" if target in written else target,
        inferred=bool(choice) and advice.distance == 2,
        others=tuple(
            OtherWay(
                way=str(option.way),
                heads=option.whole.k,
                ms=option.whole.ms,
                low=option.whole.low,
                high=option.whole.high,
                provenance=option.whole.provenance,
            )
            for option in advice.others[:_OTHER_WAYS]
        ),
    )


def _sources(advice: Advice, evidence: Evidence, anchors: tuple[str, ...]) -> dict[str, str]:
    """Where the records that *anchors* name come from: of this device, or of those that an anchor begins with."""
    found: dict[str, str] = {}
    for profile in evidence.profiles.values():
        here = profile.id == advice.profile.id
        told = [anchor for anchor in anchors if anchor.startswith(f"{profile.name}: ") or (here and ": " not in anchor)]
        for record in profile.latency if told else ():
            named = (record.model, f" {rounded(record.ms)} ms, {record.runtime} {record.precision}")
            if record.source in profile.sources and any(all(part in anchor for part in named) for anchor in told):
                found[f"{profile.id}: {record.source}"] = profile.sources[record.source]
    return found


def _unknown(advice: Advice) -> str:
    """Why there is no number."""
    model = advice.model
    if not advice.sizes:
        return f"no vision transformer is known to have been timed on {advice.profile.name} or on a device like it"
    known = ", ".join(f"{gmacs:.3g} GMACs at {resolution} px" for gmacs, resolution in advice.sizes)
    own = f"{model.full:.2g} at {model.resolution} px"
    return f"the times that are known anywhere are of models of {known}, and {model.name} has {own}"
