"""Milliseconds at every head count: as timed, else what all records together say of a network of its size.

Half-widths are of logarithms and meant for 80 % intervals; ``docs/latency-model.md`` holds how they fare when each
record is left out and predicted from the rest.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

import numpy as np

from hydra_export.device import LatencyRecord, Provenance
from hydra_export.latency.evidence import Evidence, ExecutionPath, UsableRecord, Workload, in_browser, tokens_of
from hydra_export.latency.kriging import Coordinates
from hydra_export.latency.spread import Spread, Z, rounded

_OWN = 0.05  # half-width of a user's measurement repeated
_RECORD = 0.25  # of somebody else's, of their file: vit_base and deit_base, one shape, are 1.3-fold apart on a Hailo-8
_UNSTATED = 0.2  # the precision is not stated
_CALIBRATION = 0.75  # of the model's deviations: chips left out are within 80 % intervals more often than that
_SIZES = np.exp(np.linspace(math.log(1e-6), math.log(2000), 100))  # GMACs at which times are estimated
_LEAST_WEIGHT, _MOST_ANCHORS = 0.02, 12
_WORKING_THREADS = 4  # a time on fewer is no bound of what a CPU takes
_DEPTH = 12  # of DeiT-tiny, -small and -base, whose shape records with a head count have
_DETAILS = r"@|[,;:] | \("  # what follows the name of a source


@dataclass(frozen=True)
class Anchor:
    """A record that an estimate rests on, and the device that it was taken on.

    Attributes:
        device: the device's id; *name*: what it is called.
        source: where the record is from, by the profile's list of sources; empty where that does not have it.
        weight: how much of the record's own departure the estimate takes over; others may count against it, so that
            these need not sum up to 1.
    """

    device: str
    name: str
    record: LatencyRecord
    source: str
    weight: float = 1.0

    def __str__(self) -> str:
        record = self.record
        size = f" k={record.k}" if record.k else ""
        when = "" if record.date == "unknown" else f" ({record.date})"
        how = f"{record.runtime} {record.precision} {record.unit.upper()}"
        on_cpu = record.ops.cpu if record.ops and record.unit == "npu" else 0
        fallback = f", {on_cpu} operation{'s' * (on_cpu > 1)} on the CPU" if on_cpu else ""
        fallback += ", 1000 / images a second" if record.statistic == "from_throughput" else ""
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


def estimates(evidence: Evidence, device: str, path: ExecutionPath, model: Workload) -> dict[int, Estimate]:
    """The time of every head count of *model* on *device* run along one *path*; empty where nothing speaks for it.

    In a browser, of those head counts alone that were timed there.
    """
    records = evidence.records(device, path)
    timed = {k: _as_timed(evidence, records, k, model) for k in sorted(model.gmacs)}
    if in_browser(path):
        return {k: estimate for k, estimate in timed.items() if estimate}
    start = evidence.point(device, path)
    if start is None or not evidence.speaks_for(device, path):
        return {}
    start = replace(start, tokens=model.tokens)
    curve = _Curve(evidence, start, records, model)
    anchors = _anchors(evidence, start, model)
    distance = 0 if records else 1 if any(p.unit == path.unit for p in evidence.paths(device)) else 2
    found = {}
    for k, gmacs in sorted(model.gmacs.items()):
        if as_timed := timed[k]:
            found[k] = as_timed
        else:
            formula = f"all {len(evidence.all)} records, weighted by similarity of device, path and size"
            formula += curve.bounds(gmacs)
            found[k] = Estimate(k, curve.at(gmacs), "estimated", distance, anchors[k], formula)
    return found


def _as_timed(evidence: Evidence, records: list[UsableRecord], k: int, model: Workload) -> Estimate | None:
    """The time of one head count where it is among *records*."""
    same = _fastest([usable for usable in records if _is_of(usable.record, model.gmacs[k], model)])
    if not same:
        return None
    anchors = tuple(_anchor(evidence, usable, 1 / len(same)) for usable in same)
    return Estimate(k, _spread(same), same[0].record.provenance, 0, anchors, "as it was timed")


def _is_of(record: LatencyRecord, gmacs: float, model: Workload) -> bool:
    """Is the record of a network of this shape? Which model that was cut from does not matter."""
    alike = math.isclose(record.gmacs, gmacs, rel_tol=0.02) and tokens_of(record, model) == model.tokens
    return record.k is not None and alike


def _anchors(evidence: Evidence, start: Coordinates, model: Workload) -> dict[int, tuple[Anchor, ...]]:
    """The records that weigh most in the estimate of each head count, the weightiest first."""
    heads = sorted(model.gmacs)
    weights = evidence.field(model).weights([replace(start, gmacs=model.gmacs[k]) for k in heads])
    return {
        k: tuple(
            _anchor(evidence, evidence.all[index], float(row[index]))
            for index in np.argsort(-row)[:_MOST_ANCHORS]
            if row[index] >= _LEAST_WEIGHT
        )
        for k, row in zip(heads, weights, strict=True)
    }


def _anchor(evidence: Evidence, usable: UsableRecord, weight: float) -> Anchor:
    profile, record = evidence.profiles[usable.device], usable.record
    return Anchor(usable.device, profile.name, record, profile.sources.get(record.source, ""), weight)


class _Curve:
    """The time on one path of a device over the size of a network, which never falls.

    It is estimated at fixed sizes and held between the times of smaller and of larger networks here, so that it is the
    same for every model with a subnetwork of some size.
    """

    def __init__(self, evidence: Evidence, start: Coordinates, records: list[UsableRecord], model: Workload) -> None:
        self._smaller = [usable for usable in records if _is_bound(usable.record, model, 1)]
        self._larger = [usable for usable in records if _is_bound(usable.record, model, -1)]
        bounds = sorted([*self._smaller, *self._larger], key=lambda usable: usable.record.gmacs)
        sizes = np.array(sorted({*_SIZES.tolist(), *(usable.record.gmacs for usable in bounds)}))
        means, deviations = evidence.field(model).at([replace(start, gmacs=float(size)) for size in sizes])
        file = min((_spread([usable]).up for usable in records), default=_RECORD)
        half = np.hypot(_CALIBRATION * Z * deviations, file)
        curves = means, means - half, means + half
        for usable in bounds:
            spread, gmacs = _spread([usable]), usable.record.gmacs
            for curve, bound in zip(curves, np.log([spread.ms, spread.low, spread.high]), strict=True):
                if usable in self._smaller:
                    curve[sizes >= gmacs] = np.maximum(curve[sizes >= gmacs], bound)
                if usable in self._larger:
                    curve[sizes <= gmacs] = np.minimum(curve[sizes <= gmacs], bound)
        self._sizes = np.log(sizes)
        self._curves = [np.maximum.accumulate(curve) for curve in curves]

    def at(self, gmacs: float) -> Spread:
        ms, low, high = (float(np.interp(math.log(gmacs), self._sizes, curve)) for curve in self._curves)
        return Spread(math.exp(ms), max(ms - low, 0.0), max(high - ms, 0.0))

    def bounds(self, gmacs: float) -> str:
        """What the time is held between, in words."""
        smaller = [usable.record for usable in self._smaller if usable.record.gmacs <= gmacs]
        larger = [usable.record for usable in self._larger if usable.record.gmacs >= gmacs]
        ends = [("at least", "smaller", max(smaller, key=lambda r: (r.gmacs, r.ms)))] if smaller else []
        ends += [("at most", "larger", min(larger, key=lambda r: (r.gmacs, r.ms)))] if larger else []
        return "".join(f"; {how} the {rounded(r.ms)} ms of the {size} {r.model} here" for how, size, r in ends)


def _is_bound(record: LatencyRecord, model: Workload, sign: int) -> bool:
    """Is a subnetwork of *model* with more GMACs (*sign* 1; -1: with fewer) surely the larger (smaller) network?"""
    if record.k is None or (record.unit == "cpu" and (record.threads or _WORKING_THREADS) < _WORKING_THREADS):
        return False
    depth = model.depth if record.model == model.name else _DEPTH
    return sign * model.tokens >= sign * tokens_of(record, model) and sign * model.depth >= sign * depth


def _fastest(records: list[UsableRecord]) -> list[UsableRecord]:
    """Of times on a CPU, those with the fastest number of threads; of the user's own, in the fastest arithmetic too."""
    if not records or records[0].record.unit != "cpu":
        return records
    best = min(records, key=lambda usable: usable.record.ms)
    return [
        usable
        for usable in records
        if usable.record.threads == best.record.threads
        and (not best.own or usable.record.precision == best.record.precision)
    ]


def _spread(records: list[UsableRecord]) -> Spread:
    """The mean of records of one network, and how far down and up it may be off on the user's device."""
    ms = math.prod(usable.record.ms ** (1 / len(records)) for usable in records)
    if any(usable.own for usable in records):
        down = max((math.log(u.record.ms / u.record.low) for u in records if u.record.low), default=0)
        up = max((math.log(u.record.high / u.record.ms) for u in records if u.record.high), default=0)
        return Spread(ms, max(_OWN, down), max(_OWN, up))
    half = math.hypot(_RECORD, _UNSTATED if any(u.record.precision == "unknown" for u in records) else 0)
    return Spread(ms, half, half)
