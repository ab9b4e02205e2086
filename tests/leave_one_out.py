"""How good are the estimates? Each published time is left out, predicted from the rest and compared.

python -m tests.leave_one_out       renews the tables of docs/latency-model.md
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from hydra_export import profiles
from hydra_export.device import DeviceProfile, LatencyRecord
from hydra_export.latency.estimate import estimates
from hydra_export.latency.evidence import (
    ARITHMETIC_KINDS,
    OTHER_MODEL,
    REFERENCE,
    Evidence,
    ExecutionPath,
    Workload,
    path_of,
    soc_name,
    tokens_of,
)
from hydra_export.latency.spread import Spread, Z
from hydra_export.profiles import ResolvedProfile

FAMILIES = ("phone CPU", "phone GPU", "phone NPU", "Apple", "board CPU", "Jetson", "accelerator", "laptop")
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
    gmacs: float
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
    """Cases summed up, one vote per SoC.

    *error* and *width* are medians of ratios, *far* the 90th percentile of the error, *coverage* a share.
    """

    family: str
    num_socs: int
    num_cases: int
    num_silent: int
    error: float
    far: float
    coverage: float
    width: float


def cases(known: Mapping[str, ResolvedProfile], *, whole_device: bool, only: Sequence[str] = ()) -> list[Case]:
    """Every time in an arithmetic of our files, predicted without it.

    Args:
        whole_device: without anything of that device and of others with the same SoC; else without the times of
            networks as large on that path.
        only: of these devices, by default of all.
    """
    evidence, left_out = Evidence(known), []
    for device, profile in evidence.profiles.items():
        if profile.stand_in or (only and device not in only):
            continue
        soc = soc_name(evidence, device)
        for path in evidence.paths(device):
            if path.arithmetic not in ARITHMETIC_KINDS:
                continue
            for model, ms, blur in _networks(evidence, device, path):
                same_soc = {name for name in known if soc_name(evidence, name) == soc}
                rest = without(known, same_soc) if whole_device else without(known, {device}, path, model.full)
                estimate = estimates(Evidence(rest), device, path, model).get(1)
                spread = estimate.spread.blurred(blur, blur) if estimate else None
                left_out.append(Case(kind(profile, path), soc, device, path, model.full, ms, spread))
    return left_out


def _networks(evidence: Evidence, device: str, path: ExecutionPath) -> list[tuple[Workload, float, float]]:
    """What was timed on a path, one image at a time, and on a CPU on enough threads; copies of one shape once.

    With the time, and with the half-width that is added where all of it is of another architecture than ours.
    """
    grouped: dict[tuple[float, int], list[LatencyRecord]] = {}
    for usable in evidence.records(device, path):
        record = usable.record
        if record.unit != "cpu" or (record.threads or 4) >= 4:
            grouped.setdefault((round(record.gmacs, 1), tokens_of(record, REFERENCE)), []).append(record)
    networks = []
    for (_, tokens), records in grouped.items():
        ms = math.exp(sum(math.log(record.ms) for record in records) / len(records))
        gmacs = records[0].gmacs
        blur = 0.0 if any(record.k for record in records) else Z * OTHER_MODEL
        networks.append((Workload("", records[0].resolution, tokens, gmacs, {1: gmacs}, {}, {}), ms, blur))
    return networks


def kind(profile: DeviceProfile, path: ExecutionPath) -> str:
    """The row of the tables."""
    if profile.family in ("Apple", "Jetson"):
        return profile.family
    if profile.device_class in ("phone", "tablet"):
        return f"phone {path.unit.upper()}"
    if profile.device_class in ("laptop", "desktop"):
        return "laptop"
    if profile.device_class in ("devkit", "vehicle"):
        return f"Qualcomm kit {path.unit.upper()}"
    return "board CPU" if path.unit == "cpu" else "accelerator"


def without(
    known: Mapping[str, ResolvedProfile], devices: set[str], path: ExecutionPath | None = None, gmacs: float = 0
) -> dict[str, ResolvedProfile]:
    """All records but those of *devices*, or of one path there, or of networks of one size on that path."""
    rest = dict(known)
    for name in devices:
        profile = known[name].profile
        kept = tuple(
            r
            for r in profile.latency
            if path and (path_of(r) != path or (gmacs and not math.isclose(r.gmacs, gmacs, rel_tol=0.05)))
        )
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
        error=math.exp(_quantile([case.error for case in predicted], votes, 0.5)),
        far=math.exp(_quantile([case.error for case in predicted], votes, 0.9)),
        coverage=sum(vote for case, vote in zip(predicted, votes, strict=True) if case.covered) / sum(votes, 1e-9),
        width=math.exp(_quantile([math.log(case.predicted.width) for case in predicted if case.predicted], votes, 0.5)),
    )


def _quantile(values: list[float], votes: list[float], share: float) -> float:
    """The value that this share of the votes does not exceed."""
    reached = 0.0
    for value, vote in sorted(zip(values, votes, strict=True)):
        reached += vote
        if reached >= sum(votes) * share - 1e-9:
            return value
    return math.nan


def table(rows: Iterable[Row]) -> str:
    """Markdown."""
    lines = [
        "| family | SoCs | times | no number | median error | 90 % below | within the interval | median high / low |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.family} | {row.num_socs} | {row.num_cases} | {row.num_silent or '-'} | "
        + (
            f"x/÷ {row.error:.2f} | x/÷ {row.far:.2f} | {row.coverage:.0%} | {row.width:.1f} |"
            if row.num_cases
            else "- | - | - | - |"
        )
        for row in rows
    ]
    return "\n".join(lines)


@functools.cache
def packaged(whole_device: bool) -> list[Case]:
    """The cases of the registry, which take a minute."""
    return cases(profiles.packaged(), whole_device=whole_device)


def document(text: str) -> str:
    """docs/latency-model.md, of which this is the *text*, with the tables below ``_HEADINGS`` as they are today."""
    for heading, whole_device in _HEADINGS.items():
        before, mark, after = text.partition(f"\n## {heading}\n")
        old = _TABLE.search(after)
        assert old, f"no table below {heading!r}"
        today = table(rows(packaged(whole_device)))
        text = f"{before}{mark}{after[: old.start()]}{today}{after[old.end() :]}"
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(document(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
