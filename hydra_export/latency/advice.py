"""What to run on one device: the execution path, the times, which head counts fit, and the choice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from hydra_export import targets
from hydra_export.device import DeviceProfile, LatencyBudget, ends
from hydra_export.latency.choice import HeadChoice, Verdict, choose, verdict
from hydra_export.latency.estimate import Estimate
from hydra_export.latency.evidence import FLOAT, INT8, Evidence, ExecutionPath, Workload, in_browser
from hydra_export.latency.execution_paths import PathEstimates, known_paths, untold, usual_path
from hydra_export.profiles import ResolvedProfile
from hydra_export.target import STATIC, Precision

_BYTES = {"fp32": 4, "fp16": 2}  # of a weight; of integers 1
_MIB = 2**20
INT8_ON_NPUS = f"NPUs do not multiply int8 weights by floats; {' and '.join(STATIC)} have integer activations"
_NO_BUDGET = LatencyBudget(ms=100.0, reason="an answer within 0.1 s feels immediate")


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """What limits the choice; by default the device's own budget and the best known execution path."""

    budget_ms: float | None = None
    max_ram_mib: float | None = None
    runtime: str = ""
    precision: Precision | None = None


@dataclass(frozen=True)
class Advice:
    """What is known of a model on a device, and what to run there: the terminal, the report and the manifest read this.

    Attributes:
        estimates: per head count; empty where nothing is known.
        needs_mib: memory per head count, at least.
        choice: None where nothing is known.
        untold: how the device usually runs our files, too, but nothing is known of the time.
        others: other execution paths here: those within the constraints, or all where none of those is known.
    """

    resolved: ResolvedProfile
    model: Workload
    constraints: Constraints
    path: ExecutionPath
    budget: LatencyBudget
    estimates: Mapping[int, Estimate]
    needs_mib: Mapping[int, float]
    verdicts: Mapping[int, Verdict]
    choice: HeadChoice | None
    others: tuple[PathEstimates, ...]
    untold: tuple[ExecutionPath, ...] = ()

    @property
    def profile(self) -> DeviceProfile:
        return self.resolved.profile

    @property
    def target(self) -> str:
        """The target whose files this execution path takes."""
        return targets.formats()[self.path.runtime]

    @property
    def quantized_there(self) -> bool:
        """It computes in integers, which the runtime's compiler makes of a float file."""
        return self.path.arithmetic != FLOAT and targets.device_runtimes()[self.path.runtime].quantizes

    @property
    def precisions(self) -> tuple[str, ...]:
        """Of the files that this execution path takes."""
        is_float = self.path.arithmetic == FLOAT or self.quantized_there
        return ("fp32", "fp16") if is_float else (self.path.arithmetic,)

    def stem(self, heads: int) -> str:
        """The name of a file of a head count that this path takes, without its ending."""
        precision = "" if "fp32" in self.precisions else f"-{self.path.arithmetic}"
        return f"{self.model.name}-k{heads}{precision}"

    @property
    def heads(self) -> int | None:
        """The head count to run; None where none is known to fit, even by its central estimate."""
        return self.choice.heads if self.choice else None

    @property
    def inferred(self) -> bool:
        """All of it is from other devices."""
        return self.choice is not None and self.distance == 2

    @property
    def formula(self) -> str:
        """How the estimates were computed; empty where every head count was timed."""
        return next((e.formula for e in self.estimates.values() if e.provenance == "estimated"), "")

    @property
    def origins(self) -> tuple[str, ...]:
        """The records behind the times, in words."""
        return tuple(dict.fromkeys(text for estimate in self.estimates.values() for text in estimate.origins))

    @property
    def sources(self) -> dict[str, str]:
        """Where these records are from, by the device and the key in its profile."""
        anchors = [anchor for estimate in self.estimates.values() for anchor in estimate.anchors]
        return {f"{a.device}: {a.record.source}": a.source for a in anchors if a.source}

    def chance(self, heads: int) -> float:
        """The probability that a head count keeps the budget."""
        return self.estimates[heads].spread.chance_within(self.budget.ms)

    @property
    def why_unknown(self) -> str:
        """Why there is no number, where there is none."""
        if in_browser(self.path):
            return f"this model was not timed in a browser on {self.profile.name}"
        if self.path.unit == "npu" and self.path.arithmetic == INT8:
            return INT8_ON_NPUS
        return f"no known Vision Transformer was timed in this way on {self.profile.name} or a similar device"

    @property
    def distance(self) -> int:
        """Of the farthest evidence: 0 this device on this path, 1 on another path, 2 other devices."""
        return max((estimate.distance for estimate in self.estimates.values()), default=2)


def advise(evidence: Evidence, resolved: ResolvedProfile, model: Workload, constraints: Constraints) -> Advice:
    """What to run on a device, whose profile is among those of *evidence*.

    Raises:
        UnknownName, BadInput: no such runtime, or none that this device could have.
    """
    device, within = resolved.profile.id, {"runtime": constraints.runtime, "precision": constraints.precision or ""}
    every = known_paths(evidence, device, model)
    options = known_paths(evidence, device, model, **within) if any(within.values()) else every
    budget = resolved.profile.budget or _NO_BUDGET
    if constraints.budget_ms is not None:
        budget = LatencyBudget(ms=constraints.budget_ms, reason="as asked")
    judged = {option.path: _judged(option, resolved, model, constraints, budget) for option in options}
    options = _leading(options, {path: choice for path, (_, _, choice) in judged.items()})
    path = options[0].path if options else usual_path(evidence, device, **within)
    needs, verdicts, choice = judged.get(path) or (memory(resolved, model, path, constraints.precision), {}, None)
    return Advice(
        resolved=resolved,
        model=model,
        constraints=constraints,
        path=path,
        budget=budget,
        estimates=options[0].estimates if options else {},
        needs_mib=needs,
        verdicts=verdicts,
        choice=choice,
        others=tuple(options[1:] or [o for o in every if o not in options]),
        untold=tuple(untold(evidence, device, every)),
    )


def _judged(
    option: PathEstimates, resolved: ResolvedProfile, model: Workload, constraints: Constraints, budget: LatencyBudget
) -> tuple[dict[int, float], dict[int, Verdict], HeadChoice]:
    """What each head count needs of memory on one path, whether it fits, and which to run."""
    needs = memory(resolved, model, option.path, constraints.precision)
    limit = constraints.max_ram_mib
    verdicts = {k: verdict(e, budget.ms, needs[k], limit) for k, e in option.estimates.items()}
    return needs, verdicts, choose(model, option.estimates, verdicts, budget.ms)


def _leading(options: list[PathEstimates], choices: Mapping[ExecutionPath, HeadChoice]) -> list[PathEstimates]:
    """*options* with a CPU in front of an accelerator on which less fits, or as much and surely slower.

    Its overhead weighs on small networks: an NPU may take as long for a tiny one as a CPU for a small one.
    """
    if not options or options[0].path.unit == "cpu":
        return options
    lead = options[0]
    worth = {path: (choice.sure, choice.heads or 0) for path, choice in choices.items()}
    known = targets.device_runtimes()

    def is_better(option: PathEstimates) -> bool:
        path, heads = option.path, choices[option.path].heads
        if path.unit != "cpu" or path.arithmetic != lead.path.arithmetic or known[path.runtime].converts:
            return False
        surely_faster = heads is not None and option.estimates[heads].high < lead.estimates[heads].low
        return worth[path] > worth[lead.path] or (worth[path] == worth[lead.path] and surely_faster)

    better = [option for option in options if is_better(option)][:1]
    return [*better, *(option for option in options if option not in better)]


def alternatives(evidence: Evidence, advice: Advice) -> list[tuple[ExecutionPath, Estimate]]:
    """The largest head count that fits on each execution path, by its central estimate, the best known path first.

    Where none fits, what comes nearest: the smallest head count on each other path, the fastest first.
    """
    limit, fitting, smallest = advice.constraints.max_ram_mib or math.inf, [], []
    for option in known_paths(evidence, advice.profile.id, advice.model):
        needs = memory(advice.resolved, advice.model, option.path, advice.constraints.precision)
        small = [e for e in option.estimates.values() if needs[e.k] <= limit]
        within = [e for e in small if e.ms <= advice.budget.ms]
        fitting += [(option.path, max(within, key=lambda e: e.k))] if within else []
        least = option.estimates[min(option.estimates)]
        smallest += [(option.path, least)] if least in small and option.path != advice.path else []
    return fitting or sorted(smallest, key=lambda pair: pair[1].ms)


def weight_bytes(path: ExecutionPath, precision: Precision | None) -> int:
    """Of one weight in memory, in the target's own precision unless asked otherwise."""
    if path.arithmetic != FLOAT:
        return 1
    usual = targets.get(targets.formats()[path.runtime]).precisions[0]
    return _BYTES[precision if precision in ("fp32", "fp16") else usual]


def memory(
    resolved: ResolvedProfile, model: Workload, path: ExecutionPath, precision: Precision | None
) -> dict[int, float]:
    """MiB at least, per head count: what the user measured of this model in this runtime, else its weights alone."""
    needs = {k: count * weight_bytes(path, precision) / _MIB for k, count in model.params.items()}
    for record in resolved.own:
        if (record.model, record.runtime) == (model.name, path.runtime) and record.k in needs and record.peak_memory_mb:
            needs[record.k] = ends(record.peak_memory_mb)[1] * 1e6 / _MIB
    return needs
