"""Everything that a report says, gathered once: each of its formats shows the same numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hydra_export import archive, bench, bundle, profiles
from hydra_export import targets as registry
from hydra_export.bench import Report
from hydra_export.bundle import DeviceEntry, Manifest, ModelEntry, SubnetworkEntry
from hydra_export.calibration import Calibration
from hydra_export.latency import Advice, Constraints, Evidence, advise
from hydra_export.report.changes import Changes, changes
from hydra_export.report.facts import Product, accuracy_of, products
from hydra_export.report.timings import Measurement, is_of, of_report, saved, without_repeats
from hydra_export.target import GATED, Precision

_MOST_OTHERS = 4
_MOST_MS = 1e9  # a manifest may claim anything


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What a report says.

    Attributes:
        bundle: path of the folder or archive.
        artifacts: in the manifest's order.
        chosen: what the export chose for its devices.
        measured: times of this model; *devices*: the advice for the devices that the report is about.
        changes: since another bundle, None without one.
    """

    bundle: str
    model: ModelEntry
    tool: dict[str, str]
    images: str
    artifacts: tuple[Product, ...]
    chosen: tuple[DeviceEntry, ...]
    measured: tuple[Measurement, ...]
    devices: tuple[Advice, ...]
    changes: Changes | None
    calibration: Calibration | None = None

    @property
    def subnetworks(self) -> tuple[SubnetworkEntry, ...]:
        return self.model.subnetworks

    @property
    def targets(self) -> tuple[str, ...]:
        """Those that the bundle holds files for."""
        return tuple(dict.fromkeys(product.target for product in self.artifacts))

    @property
    def gated(self) -> tuple[Precision, ...]:
        """The precisions of its files that are judged by their accuracy."""
        return tuple(each for each in GATED if any(product.precision == each for product in self.artifacts))


def document(findings: Findings) -> dict[str, Any]:
    """All of it as JSON takes it."""
    rest: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(findings, devices=()))
    return rest | {"devices": [_device_document(advice, findings.targets) for advice in findings.devices]}


def _device_document(advice: Advice, targets: Collection[str]) -> dict[str, Any]:
    """The advice in a report's JSON document; *targets*: those that the bundle holds files for."""
    profile, choice = advice.profile, advice.choice
    heads, chance = (choice.larger if choice else None) or (None, None)
    return {
        "id": profile.id,
        "name": profile.name,
        "soc": profile.facts.soc.value if profile.facts.soc else "",
        "way": str(advice.path),
        "budget_ms": advice.budget.ms,
        "budget_reason": advice.budget.reason,
        "times": [
            {"heads": k, **estimate.times, "fits": advice.verdicts[k], "chance": advice.chance(k)}
            for k, estimate in advice.estimates.items()
        ],
        "unknown": "" if choice else advice.why_unknown,
        "choice": advice.heads,
        "sure": choice is not None and choice.sure,
        "chance": choice.chance if choice else None,
        "why": choice.why if choice else "",
        "larger": heads,
        "larger_chance": chance,
        "formula": advice.formula,
        "anchors": advice.origins,
        "sources": advice.sources,
        "lacks": "" if advice.target in targets else advice.target,
        "inferred": advice.inferred,
        "others": [
            {"way": str(option.path), "heads": option.whole.k, **option.whole.times}
            for option in advice.others[:_MOST_OTHERS]
        ],
    }


def gather(
    folder: Path,
    *,
    against: Path | None = None,
    devices: Sequence[str] = (),
    profile_folder: Path | None = None,
    bench_files: Sequence[Path] = (),
) -> Findings:
    """What there is to say of the bundle in *folder*, which may be an archive of one; no artifact is opened.

    Args:
        against: an older bundle to compare it with.
        devices: names of devices; by default those of the bundle, and those on which the user measured this model.
        profile_folder: of the user's own profiles.
        bench_files: measurements of this bundle's model, or of the older one's.

    Raises:
        BadInput: a folder is no bundle, there is no such device, or a file is no measurement of either model.
        VerificationFailed: a manifest is damaged.
    """
    manifest = _read(folder)
    old = _read(against) if against is not None else None
    artifacts = products(manifest)
    now, then = _sorted(bench_files, manifest, folder, old)
    resolved = profiles.resolve(profile_folder)
    name, gmacs = manifest.model.name, manifest.model.gmacs
    chosen = [(profiles.get(each, profile_folder), Constraints()) for each in devices]
    if not devices:
        chosen = [(resolved[entry.id], _constraints_of(entry)) for entry in manifest.devices if entry.id in resolved]
        there = {entry.profile.id for entry, _ in chosen}
        measured_here = [e for e in resolved.values() if any(is_of(record, name, gmacs) for record in e.own)]
        chosen += [(entry, Constraints()) for entry in measured_here if entry.profile.id not in there]
    chosen = list({(entry.profile.id, constraints): (entry, constraints) for entry, constraints in chosen}.values())
    evidence = Evidence(resolved)

    def advice_of(each: Manifest) -> tuple[Advice, ...]:
        return tuple(advise(evidence, entry, each.model.workload, constraints) for entry, constraints in chosen)

    devices_now = advice_of(manifest)
    measured = [one for path, report in now for one in of_report(report, path, artifacts)]
    differences = None
    if old is not None and against is not None:
        pairs = list(zip(advice_of(old), devices_now, strict=True))
        reports = (then[0][1], now[0][1]) if then and now else None
        differences = changes(str(against), old, manifest, pairs, reports)
    return Findings(
        bundle=str(folder),
        model=manifest.model,
        tool=manifest.tool,
        images=manifest.images,
        artifacts=artifacts,
        chosen=manifest.devices,
        measured=_with_accuracy(without_repeats([*measured, *saved(manifest, resolved.values())]), artifacts, manifest),
        devices=devices_now,
        changes=differences,
        calibration=manifest.calibration,
    )


def _constraints_of(entry: DeviceEntry) -> Constraints:
    """Those within which the bundle's own choice was made."""
    budget = entry.budget_ms if 0 < entry.budget_ms < _MOST_MS else None
    return Constraints(runtime=entry.runtime if entry.runtime in registry.formats() else "", budget_ms=budget)


def _read(place: Path) -> Manifest:
    if not place.is_file():
        return bundle.read(place)
    with archive.unpacked(place) as folder:
        return bundle.read(folder)


def _sorted(
    paths: Sequence[Path], manifest: Manifest, folder: Path, old: Manifest | None
) -> tuple[list[tuple[Path, Report]], list[tuple[Path, Report]]]:
    """Measurements of the bundle, and of the older one: by the checkpoint, and where that is one, by the artifacts."""
    now, then = [], []
    for path in dict.fromkeys(paths):
        report = bench.read(path)
        if old is not None and _is_of_old(report, manifest, old):
            then.append((path, report))
        else:
            bench.check_model(report, manifest.model, path, folder)
            now.append((path, report))
    return now, then


def _is_of_old(report: Report, manifest: Manifest, old: Manifest) -> bool:
    checkpoint = report.model.checkpoint_sha256
    if checkpoint != old.model.checkpoint_sha256 or report.model.name != old.model.name:
        return False
    return checkpoint != manifest.model.checkpoint_sha256 or _fits(report, old) > _fits(report, manifest)


def _fits(report: Report, manifest: Manifest) -> int:
    """How many of the timed artifacts are those of *manifest*, by their size."""
    sizes = {(artifact.path, artifact.bytes) for artifact in manifest.artifacts}
    return sum((timing.path, timing.bytes) in sizes for timing in report.timings)


def _with_accuracy(
    measured: Iterable[Measurement], products: Sequence[Product], manifest: Manifest
) -> tuple[Measurement, ...]:
    """Each measurement with the top-1 of what was timed."""
    levels, replace = manifest.model.accuracy, msgspec.structs.replace

    def accuracy(one: Measurement, heads: int) -> float | None:
        if one.precision not in GATED:
            return levels.get(heads)
        same = [p for p in products if (p.target, p.graph, p.precision) == (one.target, one.graph, one.precision)]
        return next((top1 for p in same if (top1 := accuracy_of(p, heads, levels)) is not None), None)

    return tuple(
        replace(one, moments=tuple(replace(m, accuracy=accuracy(one, m.heads)) for m in one.moments))
        for one in measured
    )
