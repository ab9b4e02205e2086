"""How good are the estimates? Each published time is left out, predicted from the rest and compared.

python -m tests.leave_one_out       renews the tables of docs/latency-model.md
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from hydra_export import profiles
from hydra_export.latency.estimate import by_size, estimates, mean_ms, soc_name
from hydra_export.latency.evidence import FLOAT, INT8, REFERENCE, Evidence, ExecutionPath, path_of
from hydra_export.latency.spread import Spread
from hydra_export.profiles import ResolvedProfile

FAMILIES = ("Hailo", "Axera", "Qualcomm", "Jetson", "Raspberry Pi")
DOCUMENT = Path(__file__).parents[1] / "docs" / "latency-model.md"
_HEADINGS = {"One time left out": False, "Everything of the device left out": True}
_TABLE = re.compile(r"^\|.*\|$(?:\n\|.*\|$)*", re.MULTILINE)


@dataclass(frozen=True)
class Case:
    """One time, left out and predicted from the rest; *predicted* is None where the rest says nothing."""

    family: str
    soc: str
    device: str
    path: ExecutionPath
    k: int
    ms: float
    predicted: Spread | None

    @property
    def error(self) -> float:
        """|log(predicted / actual)|."""
        assert self.predicted is not None
        return abs(math.log(self.predicted.ms / self.ms))

    @property
    def covered(self) -> bool:
        assert self.predicted is not None
        return self.predicted.low <= self.ms <= self.predicted.high


@dataclass(frozen=True)
class Row:
    """Cases summed up, one vote per SoC. *error* and *width* are medians of ratios, *coverage* a share."""

    family: str
    num_socs: int
    num_cases: int
    num_silent: int
    error: float
    coverage: float
    width: float


def cases(known: Mapping[str, ResolvedProfile], *, whole_device: bool) -> list[Case]:
    """Every time of a subnetwork's shape in float or int8, predicted without it.

    Args:
        whole_device: without anything of that device and of others with the same SoC.
    """
    evidence, left_out = Evidence(known), []
    for device, profile in evidence.profiles.items():
        if profile.stand_in:
            continue
        soc = soc_name(evidence, device)
        for path in evidence.paths(device):
            if path.arithmetic not in (FLOAT, INT8):
                continue
            for gmacs, records in by_size(evidence.records(device, path, REFERENCE)).items():
                k = records[0].k
                if k is None or not math.isclose(gmacs, REFERENCE.gmacs[k], rel_tol=0.02):
                    continue
                same_soc = {name for name in known if soc_name(evidence, name) == soc}
                rest = without(known, same_soc) if whole_device else without(known, {device}, path, k)
                estimate = estimates(Evidence(rest), device, path, REFERENCE).get(k)
                spread = estimate.spread if estimate else None
                left_out.append(Case(profile.family, soc, device, path, k, mean_ms(records), spread))
    return left_out


def without(
    known: Mapping[str, ResolvedProfile], devices: set[str], path: ExecutionPath | None = None, k: int | None = None
) -> dict[str, ResolvedProfile]:
    """All records but those of *devices*, or of one path there, or of one head count on that path."""
    rest = dict(known)
    for name in devices:
        profile = known[name].profile
        kept = tuple(r for r in profile.latency if path and (path_of(r) != path or (k is not None and r.k != k)))
        rest[name] = replace(known[name], profile=msgspec.structs.replace(profile, latency=kept))
    return rest


def rows(cases: Sequence[Case]) -> list[Row]:
    """A row per family, the named ones first, and one over all."""
    families = dict.fromkeys([*FAMILIES, *sorted({case.family for case in cases})])
    grouped = [(family, [case for case in cases if case.family == family]) for family in families]
    return [_row(family, group) for family, group in [*grouped, ("all", list(cases))] if group]


def _row(family: str, group: list[Case]) -> Row:
    predicted = [case for case in group if case.predicted]
    votes = [1 / sum(other.soc == case.soc for other in predicted) for case in predicted]
    return Row(
        family=family,
        num_socs=len({case.soc for case in predicted}),
        num_cases=len(predicted),
        num_silent=len(group) - len(predicted),
        error=math.exp(_median([case.error for case in predicted], votes)),
        coverage=sum(vote for case, vote in zip(predicted, votes, strict=True) if case.covered) / sum(votes, 1e-9),
        width=math.exp(_median([math.log(case.predicted.width) for case in predicted if case.predicted], votes)),
    )


def _median(values: list[float], votes: list[float]) -> float:
    """The value that half of the votes do not exceed."""
    reached = 0.0
    for value, vote in sorted(zip(values, votes, strict=True)):
        reached += vote
        if reached >= sum(votes) / 2 - 1e-9:
            return value
    return math.nan


def table(rows: Iterable[Row]) -> str:
    """Markdown."""
    lines = [
        "| family | SoCs | times | no number | median error | within the interval | median high / low |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.family} | {row.num_socs} | {row.num_cases} | {row.num_silent or '-'} | "
        + (f"x/÷ {row.error:.2f} | {row.coverage:.0%} | {row.width:.1f} |" if row.num_cases else "- | - | - |")
        for row in rows
    ]
    return "\n".join(lines)


def document(text: str) -> str:
    """docs/latency-model.md, of which this is the *text*, with the tables below ``_HEADINGS`` as they are today."""
    for heading, whole_device in _HEADINGS.items():
        before, mark, after = text.partition(f"\n## {heading}\n")
        old = _TABLE.search(after)
        assert old, f"no table below {heading!r}"
        today = table(rows(cases(profiles.packaged(), whole_device=whole_device)))
        text = f"{before}{mark}{after[: old.start()]}{today}{after[old.end() :]}"
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(document(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
