"""The choice of k: the most accurate head count whose HIGH bound fits the budget, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from hydra_export.latency.estimate import Estimate
from hydra_export.latency.evidence import Workload
from hydra_export.latency.spread import rounded

Verdict = Literal["yes", "likely", "about even", "unlikely", "no", "too much RAM"]
# From which chance on a word is used: the scale of the IPCC (Mastrandrea et al. 2010, "Guidance Note for Lead Authors
# of the IPCC Fifth Assessment Report on Consistent Treatment of Uncertainties", table 1), whose "very likely" and "very
# unlikely" begin where the 80 % interval ends, and are the plain words here.
_WORDS: tuple[tuple[float, Verdict], ...] = ((0.66, "likely"), (0.33, "about even"), (0.0, "unlikely"))
_NEGLIGIBLE = 0.1  # below the 80 % interval


@dataclass(frozen=True)
class HeadChoice:
    """What to run within a budget.

    Attributes:
        heads: None where nothing fits, even by the central estimates.
        sure: its high bound fits; otherwise it is the best guess by its central estimate.
        chance: that it fits, by the model's own interval; where nothing does, that the smallest k may, which is 0
            where none fits into memory.
        why: in words.
        larger: a more accurate head count that may fit as well, and its chance.
        nearest: where nothing fits, the fastest that memory allows: the best guess there is.
    """

    heads: int | None
    sure: bool
    chance: float
    why: str
    larger: tuple[int, float] | None = None
    nearest: int | None = None


def verdict(estimate: Estimate, budget_ms: float, needs_mib: float = 0, max_ram_mib: float | None = None) -> Verdict:
    """Does it fit? ``yes`` with its high bound, ``no`` not even with its low one, and what its chance says between."""
    if max_ram_mib is not None and needs_mib > max_ram_mib:
        return "too much RAM"
    if estimate.high <= budget_ms:
        return "yes"
    if estimate.low > budget_ms:
        return "no"
    return likelihood(estimate.spread.chance_within(budget_ms))


def likelihood(chance: float) -> Verdict:
    """The word for a chance that lies within the 80 % interval: between 10 and 90 %."""
    return next(word for least, word in _WORDS if chance >= least)


def percent(chance: float) -> str:
    """A chance as a person reads it: never 0 or 100 %."""
    if 0.01 <= chance <= 0.99:
        return f"{100 * chance:.0f} %"
    return "more than 99 %" if chance > 0.5 else "less than 1 %"


def describe_fit(sure: bool, chance: float) -> str:
    """Whether a choice fits, in a word and with its chance; *sure*: with its high bound."""
    word = "yes" if sure else "no" if chance < _NEGLIGIBLE else likelihood(chance)
    return f"{word} ({percent(chance)})"


def choose(
    model: Workload, estimates: Mapping[int, Estimate], verdicts: Mapping[int, Verdict], budget_ms: float
) -> HeadChoice:
    """The most accurate head count that fits *budget_ms* for sure, else the best guess, else none."""
    by_accuracy = ranked(model, estimates)
    surely = [k for k in by_accuracy if verdicts[k] == "yes"]
    open_to = {k for k in estimates if verdicts[k] not in ("yes", "too much RAM")}
    perhaps = [k for k in by_accuracy if k in open_to and estimates[k].ms <= budget_ms]
    if not surely and not perhaps:
        fast = [k for k in estimates if verdicts[k] != "too much RAM"]
        chance = estimates[min(fast)].spread.chance_within(budget_ms) if fast else 0.0
        why = _none(estimates, verdicts, budget_ms)
        return HeadChoice(None, sure=False, chance=chance, why=why, nearest=min(fast, default=None))
    best = (surely or perhaps)[0]
    chosen = estimates[best]
    before = by_accuracy[: by_accuracy.index(best)]
    larger = next(((k, estimates[k].spread.chance_within(budget_ms)) for k in before if k in perhaps), None)
    known = all(k in model.accuracy for k in estimates)
    reason = "most accurate k" if known else "largest k (assumed to be the most accurate)"
    why = f"the {reason} whose high bound, {rounded(chosen.high)} ms, is within {rounded(budget_ms)} ms"
    if not surely:
        why = (
            f"a guess: no high bound is within {rounded(budget_ms)} ms, and this is the {reason} whose central "
            f"estimate, {rounded(chosen.ms)} ms, is"
        )
    return HeadChoice(best, bool(surely), chosen.spread.chance_within(budget_ms), why, larger)


def ranked(model: Workload, heads: Iterable[int]) -> list[int]:
    """Head counts from the most accurate; of equal ones the smallest first. Where any accuracy is unknown, by size."""
    ascending = sorted(heads)
    if all(k in model.accuracy for k in ascending):
        return sorted(ascending, key=lambda k: (-model.accuracy[k], k))
    return ascending[::-1]


def _none(estimates: Mapping[int, Estimate], verdicts: Mapping[int, Verdict], budget_ms: float) -> str:
    if all(word == "too much RAM" for word in verdicts.values()):
        return "the weights of every k exceed the allowed memory"
    smallest = estimates[min(estimates)]
    return (
        f"even k = {smallest.k} takes {rounded(smallest.ms)} ms ({rounded(smallest.low)} to {rounded(smallest.high)}), "
        f"more than {rounded(budget_ms)} ms"
    )
