"""Measurements as latency records among the user's profiles, where they outrank everything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from hydra_export import profiles
from hydra_export.bench import runtimes
from hydra_export.bench.report import Report, Timing
from hydra_export.device import DeviceClass, DeviceProfile, LatencyRecord, Match, NumberFormat
from hydra_export.errors import BadInput
from hydra_export.latency.evidence import arithmetic
from hydra_export.profiles import ResolvedProfile
from hydra_export.target import GATED

SOURCE = "own-bench"
_SOURCES = {SOURCE: "hydra-export bench, or the folder that bench standalone writes"}
# Of several artifacts for one head count, the plainest: what else there is takes about as long.
_GRAPHS = ("separate", "shared", "universal")
_PRECISIONS: tuple[NumberFormat, ...] = ("fp32", "bf16", "fp16", *GATED)
_MIB_IN_MB = 2**20 / 1e6


def records(report: Report) -> list[LatencyRecord]:
    """One record per runtime, arithmetic, head count and number of threads."""
    known = runtimes.known()
    found: dict[tuple[object, ...], LatencyRecord] = {}
    for timing in sorted((timing for timing in report.timings if not timing.wrong), key=_plainness):
        runtime = str(known[timing.runtime]["times"]) if timing.runtime in known else timing.runtime
        how = (runtime, timing.unit, arithmetic(timing.precision), timing.heads, timing.threads)
        found.setdefault(how, _record(report, timing, runtime))
    return [*found.values()]


def save(report: Report, folder: Path | None = None, device: str = "") -> tuple[ResolvedProfile, Path, int]:
    """Adds a report's records to the user's profiles.

    Args:
        folder: of the user's profiles. *device*: whose they are; by default the one that the report says it ran on, a
            new one where that is none of the known.

    Returns:
        the device, the file, and how many records.
    """
    added = records(report)
    if not added:
        raise BadInput("Nothing was saved: no artifact's outputs match the model's.")

    def whose() -> DeviceProfile:
        return profiles.get(device, folder).profile if device else _device(report, folder)

    name, path = profiles.add_measured(whose, added, _SOURCES, folder)
    return profiles.resolve(folder)[name], path, len(added)


def _device(report: Report, folder: Path | None) -> DeviceProfile:
    """Which one the report says it ran on."""
    says = msgspec.convert(report.machine.says, Match)
    found = profiles.match(says, folder)
    if found is not None:
        return found[0].profile
    own = (*says.android_model, *says.ios_machine, *says.devicetree_model, *says.cpu_name)
    name = next((text for text in own if text.strip()), "")
    if not name:
        raise BadInput("This machine reports nothing to identify it by.", "Pass `device=NAME`.")
    kind: DeviceClass = "board" if says.devicetree_model else "phone" if says.android_model else "desktop"
    return DeviceProfile(
        id=profiles.new_id(name, profiles.resolve(folder)),
        name=name,
        device_class=kind,
        match=msgspec.structs.replace(says, source=SOURCE),
        sources=_SOURCES,
    )


def _plainness(timing: Timing) -> tuple[int, ...]:
    return _GRAPHS.index(timing.graph), _PRECISIONS.index(_precision(timing)), timing.input == "image"


def _precision(timing: Timing) -> NumberFormat:
    return timing.compute if timing.compute == "bf16" else timing.precision


def _record(report: Report, timing: Timing, runtime: str) -> LatencyRecord:
    """*runtime*: of devices, which the time is of."""
    images, model = timing.batch, report.model
    return LatencyRecord(
        model=model.name,
        k=timing.heads,
        gmacs=model.gmacs_at(timing.heads),
        model_gmacs=model.gmacs,
        resolution=model.resolution,
        tokens=model.tokens,
        runtime=runtime,
        runtime_version=timing.runtime_version,
        precision=_precision(timing),
        unit=timing.unit,
        threads=timing.threads,
        batch=images,
        **time_fields(timing.median_ms / images, timing.p10_ms / images, timing.p90_ms / images),
        statistic="median",
        peak_memory_mb=round(timing.peak_mib * _MIB_IN_MB, 1) if timing.peak_mib else None,
        date=report.date,
        provenance="measured",
        source=SOURCE,
        note=_note(timing),
    )


def _note(timing: Timing) -> str:
    said = [f"{timing.graph} graph"] if timing.graph != "separate" else []
    said += ["uint8 image"] if timing.input == "image" else []
    said += [f"noisy: {', '.join(timing.noise)}"] if timing.noise else []
    return ", ".join(said)


def time_fields(ms: float, low: float | None, high: float | None) -> dict[str, Any]:
    """The fields of a record that are times, to five digits."""
    times = {"ms": ms, "low": None if low is None else min(low, ms), "high": None if high is None else max(high, ms)}
    return {name: None if time is None else float(f"{time:.5g}") for name, time in times.items()}
