"""Times, chances and advice in words, the same on the terminal, in a report and in a bundle."""

from __future__ import annotations

from collections.abc import Collection

from hydra_export.latency.advice import INT8_ON_NPUS, Advice
from hydra_export.latency.choice import describe_fit, percent
from hydra_export.latency.spread import rounded

_MUCH = 0.15  # of an estimate
_NEVER_TIMED = "no known Vision Transformer was timed on such a unit in a runtime that runs these files"
_PHONE_GPUS = f"{_NEVER_TIMED}; in another runtime, phones' took longer than the CPU"


def milliseconds(ms: float) -> str:
    return f"{rounded(ms)} ms"


def interval(low: float, high: float) -> str:
    return f"{rounded(low)} to {rounded(high)} ms"


def evidence(provenance: str) -> str:
    """``published, secondhand``."""
    return provenance.replace("_", ", ")


def time(ms: float, low: float, high: float, provenance: str | None) -> str:
    """A time with its 80 % interval: ``4.5 ms (3 to 6 ms, published)``."""
    return f"{milliseconds(ms)} ({interval(low, high)}{f', {evidence(provenance)}' if provenance else ''})"


def fit(advice: Advice, heads: int) -> str:
    """Whether a head count keeps the budget, with its chance."""
    verdict = advice.verdicts[heads]
    return verdict if verdict == "too much RAM" else describe_fit(verdict == "yes", advice.chance(heads))


def choice(advice: Advice) -> list[str]:
    """What to run, or why that is not known; a sentence each."""
    choice = advice.choice
    if choice is None:
        return [f"No estimate: {advice.why_unknown}."]
    owner = f"{advice.profile.id}'s own: " if advice.profile.budget else "the usual: "
    owner = owner if advice.constraints.budget_ms is None else ""
    budget = f"{milliseconds(advice.budget.ms)} ({owner}{advice.budget.reason})"
    chance = percent(choice.chance)
    if choice.heads is None:
        nearest = [f"Best guess: k = {choice.nearest}, the fastest: {chance} that it fits."] if choice.nearest else []
        return [f"Nothing is known to fit {budget}: {choice.why}.", *nearest]
    if choice.sure:
        lines = [f"Choice for {budget}: k = {choice.heads}, {chance} sure: {choice.why}."]
    else:
        lines = [f"Best guess for {budget}: k = {choice.heads}, {chance}; {choice.why}."]
    if choice.larger:
        lines += [f"k = {choice.larger[0]} may fit as well ({percent(choice.larger[1])})."]
    return lines


def caveats(advice: Advice, targets: Collection[str] | None = None) -> list[str]:
    """What to know before the times are relied on, a sentence each; *targets*: those that a bundle has files for."""
    lines = []
    if advice.inferred:
        lines += ["All of this is inferred from other devices. Time this one before you rely on it."]
    anchors = [anchor for estimate in advice.estimates.values() for anchor in estimate.anchors]
    records = [anchor.record for anchor in anchors if anchor.weight >= _MUCH]
    if unlike := dict.fromkeys(f"{r.model} at {r.resolution} px" for r in records if r.k is None):
        timed = f"The timed models have another architecture: {', '.join(unlike)}"
        lines += [f"{timed}; this one takes {advice.model.resolution} px."]
    if advice.choice and advice.quantized_there:
        lines += [f"The compiler for {advice.path.runtime} quantizes the fp32 file, calibrated with your images."]
    if advice.choice and advice.constraints.max_ram_mib is not None:
        lines += ["Memory: the weights only, or what you measured here; the peak is above the weights."]
    if targets is not None and advice.target not in targets:
        runtime, target = advice.path.runtime, advice.target
        lines += [f"The bundle contains nothing for {runtime}, which takes {target}. Export that as well."]
    return lines


def other_paths(advice: Advice) -> list[str]:
    """The best of the other execution paths, with the time of the largest head count."""
    wholes = [(option.path, option.whole) for option in advice.others[:4]]
    lines = [f"{path}: {time(whole.ms, whole.low, whole.high, whole.provenance)}" for path, whole in wholes]
    return [*lines, *(f"{path}: no known time here" for path in advice.untold), *_silent(advice)]


def _silent(advice: Advice) -> list[str]:
    """The accelerators of the device of whose time nothing is known in any runtime, and why."""
    facts = advice.profile.facts
    told = {path.unit for path in (advice.path, *advice.untold, *(option.path for option in advice.others))}
    lines = []
    if facts.npu and not facts.npu.value.startswith("none") and "npu" not in told:
        why = INT8_ON_NPUS if advice.constraints.precision == "int8" else facts.npu.note or _NEVER_TIMED
        lines += [f"{facts.npu.value}, NPU: no estimate: {why}"]
    if facts.gpu and "gpu" not in told:
        why = _PHONE_GPUS if advice.profile.device_class in ("phone", "tablet") else _NEVER_TIMED
        lines += [f"{facts.gpu.value}, GPU: no estimate: {why}"]
    return lines
