"""``hydra-export profile import``: results that were measured elsewhere become times of a device."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import msgspec

from hydra_export import bench as measuring
from hydra_export import profiles as registry
from hydra_export.bench import Asked, BrowserRecord, Report
from hydra_export.commands import Result, table, titled
from hydra_export.errors import BadInput
from hydra_export.latency import Workload
from hydra_export.latency.spread import rounded

if TYPE_CHECKING:
    from hydra_export.bundle import Manifest


def import_results(
    path: Path,
    device: str,
    folder: Path | None,
    model: Workload,
    bundle: Path | None,
    manifest: Manifest | None,
    **details: Any,
) -> Result:
    """Imports the results in *path*.

    Args:
        device: "auto" for the one that the file names.
        details: what the user states about the results, under the field names of ``Asked``.
    """
    graphs = {
        PurePosixPath(artifact.path).name: (artifact.heads[0], artifact.precision)
        for artifact in (manifest.artifacts if manifest else ())
        if len(artifact.heads) == 1
    }
    named = f"{model.name} in {bundle}" if bundle else f"{model.name}, the reference model"
    results = measuring.read_results(path, Asked(model=model, named=named, graphs=graphs, **details))
    notes = []
    if not isinstance(results, list):
        for name, value in details.items():
            if value:
                raise BadInput(f"{path} already states the {name}.", f"Leave out `{name}`.")
    if isinstance(results, Report):
        if manifest is not None and bundle is not None:
            measuring.check_model(results, manifest.model, path, bundle)
        records = measuring.records(results)
        known, file, _count = measuring.save(results, folder, "" if device == "auto" else device)
        wrong = sorted({timing.path for timing in results.timings if timing.wrong})
        notes += [f"Left out, because their outputs are not the model's: {', '.join(wrong)}."] if wrong else []
        notes += [f"{one.runtime} did not run {one.path} there: {one.why}" for one in results.failed]
    elif isinstance(results, BrowserRecord):
        records = measuring.browser.records(results, model, str(path), manifest)
        known, file = measuring.browser.save(results, records, folder, "" if device == "auto" else device)
    else:
        if device == "auto":
            raise BadInput(f"{path} does not state its device.", "Pass `device=NAME`.")
        records = results
        profile = registry.get(device, folder).profile
        name, file = registry.add_measured(profile, records, measuring.foreign_sources(), folder)
        known = registry.resolve(folder)[name]
    shown = table("k", "runtime", "precision", "unit", "threads", "ms", "p10 to p90", "date")
    for record in records:
        spread = f"{rounded(record.low)} to {rounded(record.high)}" if record.low and record.high else "-"
        ran = (record.runtime, record.precision, record.unit.upper(), str(record.threads or "-"))
        shown.add_row(str(record.k), *ran, rounded(record.ms), spread, record.date)
    noisy = sum("noisy" in record.note for record in records)
    notes += [f"{noisy} of {len(records)} are noisy. Repeat them on a quiet, cool device."] if noisy else []
    where = f" --bundle {bundle}" if bundle else ""
    profile = known.profile
    how = f" --runtime {results.backend}" if isinstance(results, BrowserRecord) else ""
    notes += [f"Saved in {file}.", f"Now: hydra-export profile --device {profile.id}{how}{where}"]
    document = {"device": profile.id, "file": str(file), "records": msgspec.to_builtins(records)}
    return Result(document, titled(f"{records[0].model} on {profile.name} ({profile.id})", shown, *notes))
