"""Milliseconds at every head count from the nearest evidence: affine in GMACs, wider the farther it is fetched.

Half-widths are of logarithms and meant for 80 % intervals; ``docs/latency-model.md`` holds how they fare when each
record is left out and predicted from the rest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hydra_export.device import LatencyRecord, Provenance
from hydra_export.latency.evidence import Evidence, ExecutionPath, UsableRecord, Workload
from hydra_export.latency.spread import Spread, predicted, rounded

# Overhead share F of a whole ViT-B's time, t_k = t_B (F + (1 - F) M_k / M_B): likely, least, most. NPUs and GPUs showed
# 0.03 (Axera) to 0.41 (Hailo), Orin 0.25; CPUs are 4 to 13 % slower at small k than in proportion to GMACs.
_OVERHEAD = {"cpu": (0.01, 0.0, 0.05), "gpu": (0.25, 0.03, 0.45), "npu": (0.25, 0.03, 0.45)}
# Between two anchors that are 3.7-fold apart in GMACs, as DeiT-tiny, -small and -base are, or as far beyond them.
_BETWEEN = {"cpu": 0.04, "gpu": 0.37, "npu": 0.37}
_STEP = math.log(4.60 / 1.25)
_OWN = 0.05  # a user's measurement repeated
_RECORD = 0.25  # somebody else's, of their file: vit_base and deit_base, one shape, are 1.3-fold apart on a Hailo-8
_UNSTATED = 0.2  # the precision is not stated
_OTHER_MODEL = 0.25  # of another architecture
_OTHER_RUNTIME = 0.5  # CPUs only, where runtimes do the same arithmetic: Raspberry Pi 4, ncnn against LiteRT
_LEAST_RATIO, _LONE_RATIO = 0.15, 0.7  # between two paths, as seen on relatives
_SAME_CORES = 0.7  # CPU relatives: A53 boards, by their clocks, are up to 2.1-fold off
_LEAST_FAMILY, _LONE_RELATIVE = 0.4, 1.0
_DETAILS = r"@|[,;:] | \("  # what follows the name of a source


@dataclass(frozen=True)
class Anchor:
    """A record that an estimate rests on, and the device that it was taken on.

    Attributes:
        device: the device's id; *name*: what it is called.
        source: where the record is from, by the profile's list of sources; empty where that does not have it.
    """

    device: str
    name: str
    record: LatencyRecord
    source: str

    def __str__(self) -> str:
        record = self.record
        size = f" k={record.k}" if record.k else ""
        when = "" if record.date == "unknown" else f" ({record.date})"
        how = f"{record.runtime} {record.precision} {record.unit.upper()}"
        on_cpu = record.ops.cpu if record.ops and record.unit == "npu" else 0
        fallback = f", {on_cpu} operation{'s' * (on_cpu > 1)} on the CPU" if on_cpu else ""
        source = re.split(_DETAILS, self.source or record.source)[0]
        return f"{record.model}{size} {rounded(record.ms)} ms, {how}{when}{fallback}, {source}"


@dataclass(frozen=True)
class Estimate:
    """The time of one head count.

    Attributes:
        distance: 0 from this device on this execution path, 1 from another path of it, 2 from other devices.
        anchors: what it was computed from; *formula*: how.
    """

    k: int
    spread: Spread
    provenance: Provenance
    distance: int
    anchors: tuple[Anchor, ...]
    formula: str

    @property
    def ms(self) -> float:
        return self.spread.ms

    @property
    def low(self) -> float:
        return self.spread.low

    @property
    def high(self) -> float:
        return self.spread.high

    @property
    def times(self) -> dict[str, float | str]:
        """As documents have it."""
        return {"ms": self.ms, "low": self.low, "high": self.high, "provenance": self.provenance}

    @property
    def origins(self) -> tuple[str, ...]:
        """The anchors in words, with the device of each unless this is its own time."""
        is_own = self.provenance != "estimated"
        return tuple(str(anchor) if is_own else f"{anchor.name}: {anchor}" for anchor in self.anchors)


@dataclass(frozen=True)
class _Route:
    """One way of getting from evidence to an estimate, for any GMACs."""

    distance: int
    at: Callable[[float], Spread]
    anchors: tuple[Anchor, ...]
    formula: str

    @property
    def own(self) -> tuple[Anchor, ...]:
        """The times of subnetworks on this very device and path."""
        return tuple(a for a in self.anchors if a.record.k is not None) if self.distance == 0 else ()


def estimates(evidence: Evidence, device: str, path: ExecutionPath, model: Workload) -> dict[int, Estimate]:
    """The time of every head count of *model* on *device* run along one *path*; empty where nothing speaks for it."""
    routes = _routes(evidence, device, path, model)
    if not routes:
        return {}
    # Where this very path was timed, by the user or at a head count of the model, no ratio displaces that.
    timed = any(anchor.record.k in model.gmacs for anchor in routes[0].own)
    outranks = timed or _is_own(evidence, device, path, model)
    route = routes[0] if outranks else min(routes, key=lambda route: _log_width(route, model))
    whole = route.at(model.full)
    return {k: _estimate(route, k, gmacs, whole) for k, gmacs in sorted(model.gmacs.items())}


def _estimate(route: _Route, k: int, gmacs: float, whole: Spread) -> Estimate:
    same = [a for a in route.own if a.record.k == k and math.isclose(a.record.gmacs, gmacs, rel_tol=0.02)]
    if same:
        record = same[0].record
        return Estimate(k, route.at(record.gmacs), record.provenance, 0, tuple(same), "as it was timed")
    return Estimate(k, route.at(gmacs).at_most(whole), "estimated", route.distance, route.anchors, route.formula)


def _is_own(evidence: Evidence, device: str, path: ExecutionPath, model: Workload) -> bool:
    return any(usable.own for usable in evidence.records(device, path, model))


def _log_width(route: _Route, model: Workload) -> float:
    return sum(math.log(route.at(gmacs).width) for gmacs in model.gmacs.values())


def _routes(evidence: Evidence, device: str, path: ExecutionPath, model: Workload) -> list[_Route]:
    own = _direct(evidence, device, path, model)
    others = [other for other in evidence.paths(device) if other.unit == path.unit and other != path]
    routes = [own, *(_by_ratio(evidence, device, path, other, model) for other in others)]
    if path.unit == "cpu":
        routes += [_other_runtime(_direct(evidence, device, other, model), path, other) for other in others]
    if not any(routes):  # analogue devices last
        routes = [_by_relatives(evidence, device, path, model)]
        if path.unit == "cpu":
            near = {other for name, _ in evidence.relatives(device, path) for other in evidence.paths(name)}
            routes += [_other_runtime(_by_relatives(evidence, device, o, model), path, o) for o in sorted(near)]
        if not any(routes) and path.unit == "cpu":
            routes = [_by_phones(evidence, device, path, model)]
    return [route for route in routes if route]


def _direct(evidence: Evidence, device: str, path: ExecutionPath, model: Workload) -> _Route | None:
    """From records of this device on this very path."""
    sizes = by_size(evidence.records(device, path, model))
    if not sizes:
        return None
    records = [record for group in sizes.values() for record in group]
    profile = evidence.profiles[device]
    likely, least, most = _OVERHEAD[path.unit]
    alone = f"with an overhead share of {likely:.2f} ({least:.2f} to {most:.2f})"
    own = _is_own(evidence, device, path, model)
    return _Route(
        distance=0,
        at=lambda gmacs: _along(sizes, gmacs, model, path.unit, own),
        anchors=tuple(Anchor(device, profile.name, r, profile.sources.get(r.source, "")) for r in records),
        formula=f"affine in GMACs {alone if len(sizes) == 1 else f'through {len(sizes)} sizes'}",
    )


def _by_ratio(
    evidence: Evidence, device: str, path: ExecutionPath, other: ExecutionPath, model: Workload
) -> _Route | None:
    """From another path of this device, by how the two compare on its relatives."""
    route = _direct(evidence, device, other, model)
    family = evidence.profiles[device].family
    soc = soc_name(evidence, device)
    ratios = []
    for name, profile in evidence.profiles.items():
        if family and profile.family == family and not profile.stand_in and soc_name(evidence, name) != soc:
            pair = [by_size(evidence.records(name, each, model)) for each in (path, other)]
            ratios += [mean_ms(pair[0][m]) / mean_ms(pair[1][m]) for m in pair[0].keys() & pair[1].keys()]
    if route is None or len(ratios) < 2:
        return None
    ratio = predicted(ratios, _LEAST_RATIO, _LONE_RATIO)
    return replace(
        route,
        distance=1,
        at=lambda gmacs: route.at(gmacs).times(ratio.ms).blurred(ratio.down, ratio.up),
        formula=f"{route.formula}, x {ratio.ms:.2g} as {path} takes of {other} on {len(ratios)} other {family} devices",
    )


def _other_runtime(route: _Route | None, path: ExecutionPath, other: ExecutionPath) -> _Route | None:
    """From another runtime, taken for as fast, which does the same arithmetic on the same CPU."""
    if route is None or other.arithmetic != path.arithmetic or other.runtime == path.runtime:
        return None
    return replace(
        route,
        distance=max(1, route.distance),
        at=lambda gmacs: route.at(gmacs).blurred(_OTHER_RUNTIME, _OTHER_RUNTIME),
        formula=f"{route.formula}, {path.runtime} taken for as fast as {other.runtime}",
    )


def _by_relatives(evidence: Evidence, device: str, path: ExecutionPath, model: Workload) -> _Route | None:
    """From other devices on the same path: on a CPU of the same cores, else of the same family."""
    related = [
        (route, factor)
        for name, factor in evidence.relatives(device, path)
        if (route := _direct(evidence, name, path, model))
    ]
    if path.unit == "cpu":
        how = "by the clocks of the four fastest cores, from a CPU of the same cores"
        return _common(related, _SAME_CORES, _SAME_CORES, how)
    family = evidence.profiles[device].family
    how = f"the mean of {len(related)} {family} devices" if len(related) > 1 else f"from one other {family} device"
    return _common(related, _LEAST_FAMILY, _LONE_RELATIVE, how)


def _by_phones(evidence: Evidence, device: str, path: ExecutionPath, model: Workload) -> _Route | None:
    """From all phones on whose CPU anything did the same arithmetic."""
    related = [
        (route, 1.0)
        for name in evidence.phones(device)
        for other in evidence.paths(name)
        if (other.unit, other.arithmetic) == (path.unit, path.arithmetic)
        and (route := _direct(evidence, name, other, model))
    ]
    if len(related) < 3:
        return None
    return _common(related, _SAME_CORES, _LONE_RELATIVE, f"the mean of {len(related)} other phones")


def _common(related: list[tuple[_Route, float]], least: float, alone: float, how: str) -> _Route | None:
    if not related:
        return None

    def at(gmacs: float) -> Spread:
        each = [route.at(gmacs).times(factor) for route, factor in related]
        together = predicted([spread.ms for spread in each], least, alone)
        # Each was carried along GMACs by the same formula: their errors of shape are one error.
        return together.blurred(min(spread.down for spread in each), min(spread.up for spread in each))

    anchors = tuple(anchor for route, _ in related for anchor in route.anchors)
    return _Route(distance=2, at=at, anchors=anchors, formula=f"{related[0][0].formula}, {how}")


def _along(sizes: dict[float, list[LatencyRecord]], gmacs: float, model: Workload, unit: str, own: bool) -> Spread:
    """The time at *gmacs* on the line through the nearest two anchors, or of the likely slope through the only one."""
    points = sorted((mass, mean_ms(records)) for mass, records in sizes.items())
    nearest = min(points, key=lambda point: abs(math.log(point[0] / gmacs)))
    if len(points) == 1:
        mass, ms = nearest
        likely, least, most = (_slope(share, gmacs, mass, model.full) for share in _OVERHEAD[unit])
        first, last = sorted((least, most))
        shaped = Spread(ms * likely, math.log(likely / first), math.log(last / likely))
    else:
        distance = abs(math.log(nearest[0] / gmacs)) / _STEP
        half = _BETWEEN[unit] * min(distance, 2)
        shaped = Spread(_on_line(points, gmacs), half, half)
    return shaped.blurred(*_noise(sizes[nearest[0]], own))


def _slope(share: float, gmacs: float, anchor: float, full: float) -> float:
    """Time at *gmacs* over time at *anchor* with an overhead *share* of the whole model's time."""
    return (share + (1 - share) * gmacs / full) / (share + (1 - share) * anchor / full)


def _on_line(points: list[tuple[float, float]], gmacs: float) -> float:
    """On the line through the two neighbours; beyond the last, never steeper than in proportion and never falling."""
    above = next((index for index, point in enumerate(points) if point[0] >= gmacs), len(points) - 1)
    (mass, ms), (mass2, ms2) = points[max(1, above) - 1], points[max(1, above)]
    line = ms + (ms2 - ms) * (gmacs - mass) / (mass2 - mass)
    end_mass, end = points[0] if gmacs < points[0][0] else points[-1]
    if points[0][0] <= gmacs <= points[-1][0]:
        return line
    bounds = sorted((end, end * gmacs / end_mass))
    return min(max(line, bounds[0]), bounds[1])


def by_size(records: Sequence[UsableRecord]) -> dict[float, list[LatencyRecord]]:
    """The records to go by, per GMACs: the newest of those with a date, and on a CPU the fastest number of threads."""
    grouped: dict[float, list[LatencyRecord]] = {}
    for record in (usable.record for usable in records):
        key = next((mass for mass in grouped if math.isclose(mass, record.gmacs, rel_tol=0.02)), None)
        grouped.setdefault(key or record.gmacs, []).append(record)
    return {mass: _fastest(_newest(group)) for mass, group in grouped.items()}


def _newest(records: list[LatencyRecord]) -> list[LatencyRecord]:
    newest = max((record.date for record in records if record.date != "unknown"), default="unknown")
    return [record for record in records if record.date == newest]


def _fastest(records: list[LatencyRecord]) -> list[LatencyRecord]:
    if records[0].unit != "cpu" or len({record.threads for record in records}) == 1:
        return records
    best = min(records, key=lambda record: record.ms)
    return [record for record in records if record.threads == best.threads]


def mean_ms(records: list[LatencyRecord]) -> float:
    return math.prod(record.ms for record in records) ** (1 / len(records))


def _noise(records: list[LatencyRecord], own: bool) -> tuple[float, float]:
    """How far down and up the record itself may be off on the user's device."""
    if own:
        down = max((math.log(record.ms / record.low) for record in records if record.low), default=0)
        up = max((math.log(record.high / record.ms) for record in records if record.high), default=0)
        return max(_OWN, down), max(_OWN, up)
    doubts = [_RECORD]
    doubts += [_UNSTATED] if any(record.precision == "unknown" for record in records) else []
    doubts += [_OTHER_MODEL] if any(record.k is None for record in records) else []
    return math.hypot(*doubts), math.hypot(*doubts)


def soc_name(evidence: Evidence, device: str) -> str:
    """The chip that a device's records speak of: one vote each. Made faster for one phone, it is still that chip."""
    fact = evidence.profiles[device].facts.soc
    return fact.value.removesuffix(" for Galaxy") if fact else device
