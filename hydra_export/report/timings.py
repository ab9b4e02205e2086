"""Measured times of a bundle's model: from bench files, and from what the user saved among their profiles."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from hydra_export.bench import Report, Timing
from hydra_export.bundle import Manifest
from hydra_export.device import LatencyRecord
from hydra_export.latency.ways import FORMATS
from hydra_export.profiles import Known
from hydra_export.report.facts import Product

_SAME_GMACS = 0.02
_KINDS = ("separate", "shared", "universal")


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


class Timed(msgspec.Struct, frozen=True, kw_only=True):
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


def of_report(report: Report, origin: Path, listed: Iterable[Product]) -> Iterator[Timed]:
    """What a bench file holds, but what computed something else than the model does."""
    by_path = {product.path: product for product in listed}
    grouped: dict[tuple[object, ...], list[Timing]] = {}
    for timing in report.timings:
        product = by_path.get(timing.path)
        fixed = bool(product and product.fixed)
        how = (timing.runtime, timing.unit, timing.threads, timing.batch)
        what = (timing.target, timing.graph, timing.precision, timing.input, fixed)
        if not timing.wrong:
            grouped.setdefault((how, what), []).append(timing)
    for timings in grouped.values():
        first, product = timings[0], by_path.get(timings[0].path)
        yield Timed(
            where=machine(report),
            origin=str(origin),
            date=report.date,
            runtime=first.runtime,
            unit=first.unit,
            threads=first.threads,
            batch=first.batch,
            target=first.target,
            graph=first.graph,
            precision=first.precision,
            fixed=bool(product and product.fixed),
            moments=tuple(_moment(timing) for timing in sorted(timings, key=lambda t: t.heads)),
        )


def machine(report: Report) -> str:
    """What the machine of a bench file is called."""
    said = next((values[0] for values in report.machine.says.values() if values), "")
    return said or f"{report.machine.system} {report.machine.architecture}"


def _moment(timing: Timing) -> Moment:
    images = timing.batch
    return Moment(
        heads=timing.heads,
        ms=timing.median_ms / images,
        low=timing.p10_ms / images,
        high=timing.p90_ms / images,
        noisy=", ".join(timing.noise),
    )


def saved(manifest: Manifest, known: Mapping[str, Known]) -> Iterator[Timed]:
    """What the user measured of a model of this name and size, on any device."""
    gmacs = manifest.model.gmacs
    for entry in known.values():
        grouped: dict[tuple[object, ...], list[LatencyRecord]] = {}
        for record in entry.own:
            if is_of(record, manifest.model.name, gmacs):
                how = (record.runtime, record.unit, record.threads, record.batch, record.precision, record.note)
                grouped.setdefault(how, []).append(record)
        for records in grouped.values():
            first = records[0]
            yield Timed(
                where=entry.profile.name,
                origin="saved among the profiles",
                date=max(record.date for record in records),
                runtime=first.runtime,
                unit=first.unit,
                threads=first.threads,
                batch=first.batch,
                target=FORMATS.get(first.runtime, ""),
                graph=next((kind for kind in _KINDS if first.note.startswith(f"{kind} graph")), "separate"),
                precision=first.precision,
                fixed=False,
                moments=tuple(
                    Moment(heads=r.k or 0, ms=r.ms, low=r.low, high=r.high) for r in sorted(records, key=_heads)
                ),
            )


def is_of(record: LatencyRecord, name: str, gmacs: Mapping[int, float]) -> bool:
    """The user timed the model *name* of this size, and nothing speaks against it."""
    if record.k is None or record.model != name or record.k not in gmacs:
        return False
    if record.provenance != "measured" or record.suspect:
        return False
    return math.isclose(record.gmacs, gmacs[record.k], rel_tol=_SAME_GMACS)


def without_repeats(listed: Iterable[Timed]) -> tuple[Timed, ...]:
    """A time that was saved and is in a bench file as well counts once, as the file has it."""
    seen: set[tuple[object, ...]] = set()
    kept = []
    for timed in listed:
        keys = {m.heads: (timed.runtime, timed.threads, m.heads, float(f"{m.ms:.5g}")) for m in timed.moments}
        moments = tuple(m for m in timed.moments if keys[m.heads] not in seen)
        seen |= set(keys.values())
        if moments:
            kept.append(msgspec.structs.replace(timed, moments=moments))
    return tuple(kept)


def _heads(record: LatencyRecord) -> int:
    return record.k or 0
