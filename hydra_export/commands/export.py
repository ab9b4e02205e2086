"""``hydra-export [export]``: a checkpoint becomes a verified bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra_export.commands import Flag, Result, allowed, experimental, percent, size, table, titled
from hydra_export.commands.choices import Choices, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from hydra_export.bundle import DeviceEntry, Manifest
    from hydra_export.cache import Cache


def export(
    checkpoint: Path | None = None,
    *,
    choices: Choices | None = None,
    out: Path = Path("hydra-bundle"),
    zip: Flag = False,  # noqa: A002 (the option's name)
    cache: Path | None = None,
    no_cache: Flag = False,
) -> Result:
    """Export a universal model, verify every artifact against PyTorch, and write a bundle.

    Args:
        checkpoint: The model: a file from hydra-export, timm, transformers or the authors of HydraViT; a folder in the
            Hub's layout; a Hub id (org/name); or timm:NAME. By default the packaged model.
        out: The bundle's folder. An existing bundle is replaced as a whole; anything else is refused.
        zip: Also write one archive next to the folder, OUT.zip. The same checkpoint, options and tool versions produce
            the same bytes on any machine. Artifacts that were written before come from the cache.
        cache: A folder that keeps artifacts for the next export; with --zip, by default one in your cache folder.
        no_cache: With --zip: write everything anew and cache nothing.
    """
    from rich.console import Group

    from hydra_export import archive, files

    kept = _cache(cache) if cache is not None or (zip and not no_cache) else None
    zipped = archive.beside(out) if zip else None
    file = zipped.absolute() if zipped else Path()  # the current folder may be what is replaced
    manifest = run(checkpoint, choices or Choices(), out, kept, zip).manifest
    lines, reused = [], None
    if kept:
        reused = len(kept.reused)
        lines += [f"{reused} of {len(manifest.artifacts)} artifacts came from the cache; all were verified."]
    found: dict[str, Any] = {"out": str(out), "archive": None, "reused": reused, "manifest": document(manifest)}
    if zipped:
        sha256, num_bytes = files.sha256(file), file.stat().st_size
        found["archive"] = {"path": str(zipped), "bytes": num_bytes, "sha256": sha256}
        lines += [f"{zipped}: {size(num_bytes)}, SHA-256 {sha256}"]
    return Result(found, Group(shown(manifest, out), *lines))


def _cache(folder: Path | None) -> Cache:
    from hydra_export.cache import Cache, default_folder

    cache = Cache(folder or default_folder())
    cache.check()
    return cache


def document(manifest: Manifest) -> Any:
    import msgspec

    return msgspec.to_builtins(manifest)


def shown(manifest: Manifest, out: Path) -> RenderableType:
    from hydra_export.target import GATED

    trained = {s.heads: s.trained for s in manifest.model.subnetworks}
    top1 = manifest.model.accuracy
    shown = table("artifact", "k", "top-1 %", "to fetch", "max |error|", "allowed")
    for artifact in manifest.artifacts:
        fetched = size(manifest.fetch_bytes(artifact))
        for k, record in artifact.parity.items():
            errors = (f"{record.max_abs_error:.1e}", allowed(record))
            count = f"{k}{' (not trained)' if trained[k] is False else ''}"
            shown.add_row(artifact.kind, count, percent(top1.get(k)), fetched, *errors)
    rounded = " (fp16: with rounded weights)" if any(a.precision == "fp16" for a in manifest.artifacts) else ""
    output = manifest.artifacts[0].outputs[0].name
    notes = [f"Errors: largest difference of {output} from PyTorch's in float64{rounded}, on {manifest.images}."]
    counted = dict.fromkeys(a.precision for a in manifest.artifacts if a.precision in GATED)
    if counted:
        compared = "compared with float32; allowed shows the change of top-1, or the agreement"
        notes += [f"{', '.join(counted)}: {compared}; judged {'; '.join(_judgements(manifest))}."]
    quantized = {a.precision: a.quantization for a in manifest.artifacts if a.quantization is not None}
    notes += [f"{precision}: {quantization.text}" for precision, quantization in quantized.items()]
    runtimes = {name for a in manifest.artifacts for record in a.parity.values() for name in record.runtimes}
    notes += [f"Verified in {', '.join(sorted(runtimes))}.", *experimental(manifest.artifacts)]
    return titled(f"{manifest.model.name} exported to {out}", shown, *notes, *map(_choice, manifest.devices))


def _judgements(manifest: Manifest) -> Iterator[str]:
    """What decided on int8 and its kind, once each with the head counts that it is true of."""
    by: dict[str, set[int]] = {}
    for artifact in manifest.artifacts:
        for k, record in artifact.parity.items():
            if record.judgement:
                by.setdefault(record.judgement, set()).add(k)
    for judgement, heads in by.items():
        yield judgement if len(by) == 1 else f"k = {', '.join(map(str, sorted(heads)))}: {judgement}"


def _choice(device: DeviceEntry) -> str:
    from hydra_export.latency import describe_fit, words

    if device.heads is None or device.ms is None or device.low is None or device.high is None:
        return f"{device.id}: {device.runtime}, every k: no latency is known or can be estimated."
    time = words.time(device.ms, device.low, device.high, device.provenance)
    fits = f"within {words.milliseconds(device.budget_ms)}: {describe_fit(device.sure, device.chance or 0)}"
    return f"{device.id}: {device.runtime}, k = {device.heads}: {time}; {fits}."
