"""Everything that a report says, gathered once: each form of it shows the same numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from hydra_export import archive, bench, bundle, profiles
from hydra_export.bench import Report
from hydra_export.bundle import DeviceEntry, Manifest, ModelEntry, SubnetworkEntry
from hydra_export.latency import Evidence, Wish
from hydra_export.report.changes import Changes, changes
from hydra_export.report.devices import DeviceTimes, on_devices, wished
from hydra_export.report.facts import Product, accuracy_of, products
from hydra_export.report.timings import Timed, is_of, of_report, saved, without_repeats


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What a report says.

    Attributes:
        bundle: the folder or archive, as it was given.
        artifacts: in the manifest's order.
        chosen: what the export chose for its devices.
        measured: times of this model; *devices*: times known or estimated on devices that were asked for.
        changes: since another bundle, None where none was given.
    """

    bundle: str
    model: ModelEntry
    tool: dict[str, str]
    images: str
    artifacts: tuple[Product, ...]
    chosen: tuple[DeviceEntry, ...]
    measured: tuple[Timed, ...]
    devices: tuple[DeviceTimes, ...]
    changes: Changes | None

    @property
    def subnetworks(self) -> tuple[SubnetworkEntry, ...]:
        return self.model.subnetworks


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
    listed = products(manifest)
    now, then = _sorted(bench_files, manifest, folder, old)
    known = profiles.known(profile_folder)
    gmacs = manifest.model.gmacs
    name = manifest.model.name
    chosen = [(profiles.get(each, profile_folder), Wish()) for each in devices]
    if not devices:
        chosen = [(known[entry.id], wished(entry)) for entry in manifest.devices if entry.id in known]
        there = {entry.profile.id for entry, _ in chosen}
        measured_here = [e for e in known.values() if any(is_of(record, name, gmacs) for record in e.own)]
        chosen += [(entry, Wish()) for entry in measured_here if entry.profile.id not in there]
    chosen = list({(entry.profile.id, wish): (entry, wish) for entry, wish in chosen}.values())
    evidence = Evidence(known)
    times = on_devices(manifest, chosen, evidence)
    measured = [timed for path, report in now for timed in of_report(report, path, listed)]
    differences = None
    if old is not None and against is not None:
        pairs = list(zip(on_devices(old, chosen, evidence), times, strict=True))
        reports = (then[0][1], now[0][1]) if then and now else None
        differences = changes(str(against), old, manifest, pairs, reports)
    return Findings(
        bundle=str(folder),
        model=manifest.model,
        tool=manifest.tool,
        images=manifest.images,
        artifacts=listed,
        chosen=manifest.devices,
        measured=_with_accuracy(without_repeats([*measured, *saved(manifest, known)]), listed, manifest),
        devices=times,
        changes=differences,
    )


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
            bench.check_model(report, manifest, path, folder)
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


def _with_accuracy(measured: Iterable[Timed], listed: Sequence[Product], manifest: Manifest) -> tuple[Timed, ...]:
    """Each time with the top-1 of what was timed."""
    unrounded = manifest.model.accuracy

    def accuracy(timed: Timed, heads: int) -> float | None:
        if timed.precision != "int8":
            return unrounded.get(heads)
        same = [p for p in listed if (p.target, p.graph, p.precision) == (timed.target, timed.graph, "int8")]
        return next((found for p in same if (found := accuracy_of(p, heads, unrounded)) is not None), None)

    return tuple(
        msgspec.structs.replace(
            timed,
            moments=tuple(msgspec.structs.replace(m, accuracy=accuracy(timed, m.heads)) for m in timed.moments),
        )
        for timed in measured
    )
