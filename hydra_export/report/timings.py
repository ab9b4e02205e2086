"""Measured times of a bundle's model: from bench files, and from what the user saved among their profiles."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from hydra_export import targets
from hydra_export.bench import Report, Timing, runtimes
from hydra_export.bundle import Manifest
from hydra_export.device import LatencyRecord
from hydra_export.profiles import ResolvedProfile
from hydra_export.report.facts import Product, derived, grouped

_SAME_GMACS = 0.02
_GRAPHS = ("separate", "shared", "universal")


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds of one image at one head count; *low* and *high* hold 80 % of the calls.

    Attributes:
        accuracy: top-1 of what was timed, in percent; None where unknown.
        noisy: why it may say little.
    """

    heads: int
    ms: float
    low: float | None
    high: float | None
    accuracy: float | None = None
    noisy: str = ""


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of artifact in one runtime on one device.

    Attributes:
        where: what the device is called.
        origin: the bench file, or the user's profiles.
        graph, target: empty where a saved record does not say.
    """

    where: str
    origin: str
    date: str
    runtime: str
    unit: str
    threads: int | None
    batch: int
    target: str
    graph: str
    precision: str
    fixed: bool
    moments: tuple[Moment, ...]

    @property
    def how(self) -> str:
        """What one panel of a chart has in common."""
        threads = f", {self.threads} thread{'s' * (self.threads != 1)}" if self.threads else ""
        batch = f", {self.batch} images a call" if self.batch > 1 else ""
        return f"{self.runtime} on {self.unit.upper()}{threads}{batch}"

    @property
    def kind(self) -> str:
        fixed = ", k fixed" if self.fixed else ""
        return f"{self.target} {self.graph}{fixed}, {self.precision}".strip()


def of_report(report: Report, origin: Path, products: Iterable[Product]) -> Iterator[Measurement]:
    """The times of a bench file, except of what computed something else than the model does."""
    fixed = {product.path for product in products if product.fixed}

    def kind(timing: Timing) -> tuple[object, ...]:
        how = (timing.runtime, timing.unit, timing.threads, timing.batch)
        return how, timing.target, timing.graph, timing.precision, timing.input, timing.path in fixed

    for timings in grouped((timing for timing in report.timings if not timing.wrong), kind).values():
        first = timings[0]
        yield derived(
            Measurement,
            first,
            where=report.machine.name,
            origin=str(origin),
            date=report.date,
            fixed=first.path in fixed,
            moments=tuple(_moment(timing) for timing in sorted(timings, key=lambda t: t.heads)),
        )


def _moment(timing: Timing) -> Moment:
    images, noise = timing.batch, ", ".join(timing.noise)
    ms, low, high = (each / images for each in (timing.median_ms, timing.p10_ms, timing.p90_ms))
    return Moment(heads=timing.heads, ms=ms, low=low, high=high, noisy=noise)


def saved(manifest: Manifest, resolved: Iterable[ResolvedProfile]) -> Iterator[Measurement]:
    """What the user measured of a model of this name and size, on any device."""
    gmacs = manifest.model.gmacs

    def kind(record: LatencyRecord) -> tuple[object, ...]:
        return record.runtime, record.unit, record.threads, record.batch, record.precision, record.note

    for entry in resolved:
        own = (record for record in entry.own if is_of(record, manifest.model.name, gmacs))
        for records in grouped(own, kind).values():
            first = records[0]
            times = [Moment(heads=r.k or 0, ms=r.ms, low=r.low, high=r.high) for r in records]
            yield derived(
                Measurement,
                first,
                where=entry.profile.name,
                origin="saved among the profiles",
                date=max(record.date for record in records),
                target=targets.formats().get(first.runtime, ""),
                graph=next((graph for graph in _GRAPHS if first.note.startswith(f"{graph} graph")), "separate"),
                fixed=False,
                moments=tuple(sorted(times, key=lambda moment: moment.heads)),
            )


def is_of(record: LatencyRecord, name: str, gmacs: Mapping[int, float]) -> bool:
    """The user timed the model *name* of this size, and nothing speaks against it."""
    if record.k is None or record.model != name or record.k not in gmacs:
        return False
    if record.provenance != "measured" or record.suspect:
        return False
    return math.isclose(record.gmacs, gmacs[record.k], rel_tol=_SAME_GMACS)


def without_repeats(measurements: Iterable[Measurement]) -> tuple[Measurement, ...]:
    """A time that was saved and is in a bench file as well counts once, as the file has it."""
    seen: set[tuple[object, ...]] = set()
    kept = []
    for one in measurements:
        known = runtimes.known().get(one.runtime)
        runtime = one.runtime if known is None else known["times"]  # whose times they are saved as
        keys = {m.heads: (runtime, one.threads, m.heads, float(f"{m.ms:.5g}")) for m in one.moments}
        moments = tuple(m for m in one.moments if keys[m.heads] not in seen)
        seen |= set(keys.values())
        if moments:
            kept.append(msgspec.structs.replace(one, moments=moments))
    return tuple(kept)
