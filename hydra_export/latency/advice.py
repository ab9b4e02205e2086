"""What to run on one device: its way of running a model, the times, which head counts fit, and the choice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hydra_export.device import Budget, DeviceProfile, ends
from hydra_export.latency.choice import Choice, Verdict, choose, verdict
from hydra_export.latency.estimate import Estimate
from hydra_export.latency.evidence import INT8, Evidence, Model, Way
from hydra_export.latency.ways import Option, default_way, known_ways
from hydra_export.profiles import Known

Precision = Literal["fp32", "fp16", "int8"]
_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}  # of a weight
_MIB = 2**20
_NO_BUDGET = Budget(ms=100.0, reason="an answer within 0.1 s feels immediate")


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the user asked for; what is not given is the device's own, or the best known."""

    budget_ms: float | None = None
    max_ram_mib: float | None = None
    runtime: str = ""
    precision: Precision | None = None


@dataclass(frozen=True)
class Advice:
    """What is known of a model on a device, and what to run there.

    Attributes:
        estimates: per head count; empty where nothing is known.
        needs_mib: memory per head count, at least.
        choice: None where nothing is known.
        others: other ways of running it here: of those asked for, or, where none of them is known, of all.
        sizes: GMACs and resolution of what was timed anywhere, where none of it is as large as this model.
    """

    known: Known
    model: Model
    wish: Wish
    way: Way
    budget: Budget
    estimates: Mapping[int, Estimate]
    needs_mib: Mapping[int, float]
    verdicts: Mapping[int, Verdict]
    choice: Choice | None
    others: tuple[Option, ...]
    sizes: tuple[tuple[float, int], ...]

    @property
    def profile(self) -> DeviceProfile:
        return self.known.profile

    @property
    def fits(self) -> bool:
        """Something is known to fit, by its central estimate at least."""
        return self.choice is not None and self.choice.heads is not None

    @property
    def why_unknown(self) -> str:
        """Why there is no number, where there is none."""
        if not self.sizes:
            like = f"{self.profile.name} or on a device like it"
            return f"no vision transformer is known to have been timed in this way on {like}"
        timed = ", ".join(f"{gmacs:.3g} GMACs at {resolution} px" for gmacs, resolution in self.sizes)
        own = f"{self.model.name} has {self.model.full:.2g} at {self.model.resolution} px"
        return f"the times that are known anywhere are of models of {timed}, and {own}"

    @property
    def distance(self) -> int:
        """Of the farthest evidence: 0 this device run in this way, 1 in another, 2 other devices."""
        return max((estimate.distance for estimate in self.estimates.values()), default=2)


def advise(evidence: Evidence, known: Known, model: Model, wish: Wish) -> Advice:
    """What to run on a device, whose profile is among those of *evidence*.

    Raises:
        UnknownName, BadInput: no such runtime, or none that this device could have.
    """
    device, asked = known.profile.id, {"runtime": wish.runtime, "precision": wish.precision or ""}
    options = known_ways(evidence, device, model, **asked)
    way = default_way(evidence, device, model, **asked)
    budget = known.profile.budget or _NO_BUDGET
    if wish.budget_ms is not None:
        budget = Budget(ms=wish.budget_ms, reason="as asked")
    needs = memory(known, model, way, wish.precision)
    estimates = options[0].estimates if options else {}
    verdicts = {k: verdict(e, budget.ms, needs[k], wish.max_ram_mib) for k, e in estimates.items()}
    return Advice(
        known=known,
        model=model,
        wish=wish,
        way=way,
        budget=budget,
        estimates=estimates,
        needs_mib=needs,
        verdicts=verdicts,
        choice=choose(model, estimates, verdicts, budget.ms) if estimates else None,
        others=tuple(options[1:] or [o for o in known_ways(evidence, device, model) if o not in options]),
        sizes=tuple(evidence.sizes(model)),
    )


def nearest(evidence: Evidence, advice: Advice) -> list[tuple[Way, Estimate]]:
    """Per way that has one, the largest head count that fits by its central estimate, the best known way first."""
    model, limit = advice.model, advice.wish.max_ram_mib or math.inf
    found = []
    for option in known_ways(evidence, advice.profile.id, model):
        needs = memory(advice.known, model, option.way, advice.wish.precision)
        within = [k for k, e in option.estimates.items() if e.ms <= advice.budget.ms and needs[k] <= limit]
        found += [(option.way, option.estimates[max(within)])] if within else []
    return found


def fastest(evidence: Evidence, advice: Advice) -> list[tuple[Way, Estimate]]:
    """Per other way, the smallest head count, the fastest first: where nothing fits, what comes nearest."""
    limit = advice.wish.max_ram_mib or math.inf
    found = []
    for option in known_ways(evidence, advice.profile.id, advice.model):
        smallest = option.estimates[min(option.estimates)]
        needs = memory(advice.known, advice.model, option.way, advice.wish.precision)
        if option.way != advice.way and needs[smallest.k] <= limit:
            found.append((option.way, smallest))
    return sorted(found, key=lambda pair: pair[1].ms)


def weight_bytes(way: Way, precision: Precision | None) -> int:
    """Of one weight in memory. Core ML's files are of fp16 unless asked otherwise."""
    if way.arithmetic == INT8:
        return _BYTES["int8"]
    usual: Precision = "fp16" if way.runtime == "coreml" else "fp32"
    return _BYTES[precision if precision in ("fp32", "fp16") else usual]


def memory(known: Known, model: Model, way: Way, precision: Precision | None) -> dict[int, float]:
    """MiB at least, per head count: what the user measured of this model in this runtime, else its weights alone."""
    needs = {k: count * weight_bytes(way, precision) / _MIB for k, count in model.params.items()}
    for record in known.own:
        if (record.model, record.runtime) == (model.name, way.runtime) and record.k in needs and record.peak_memory_mb:
            needs[record.k] = ends(record.peak_memory_mb)[1] * 1e6 / _MIB
    return needs
