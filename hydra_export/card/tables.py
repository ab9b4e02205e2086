"""The tables of a bundle's README: sizes, devices, parity, and what quantization costs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hydra_export.bundle import ArtifactEntry, DeviceEntry, Manifest
from hydra_export.calibration import COLUMNS
from hydra_export.latency import describe_fit
from hydra_export.parity import ParityRecord
from hydra_export.target import GATED
from hydra_export.text import in_markdown

_UNKNOWN, _UNMEASURED = "unknown", "–"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown; the cells are Markdown themselves."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _known_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Without the columns of which no row knows anything."""
    known = [at for at in range(len(columns)) if any(row[at] not in (_UNKNOWN, _UNMEASURED) for row in rows)]
    return table([columns[at] for at in known], ([row[at] for at in known] for row in rows))


def subnetworks(manifest: Manifest) -> str:
    """What is known of each head count."""
    rows = [
        [
            str(s.heads),
            f"{s.params:,}",
            f"{s.gmacs:.4g}",
            _percent(s.accuracy, 2),
            _percent(s.agreement, 2),
            _trained(s.trained),
        ]
        for s in manifest.model.subnetworks
    ]
    return _known_table(("k", "parameters", "GMACs", "top-1", "agreement", "trained"), rows)


def calibration(manifest: Manifest) -> str:
    """How sure the model is, and its cascades, as a section; nothing where nobody calibrated the bundle."""
    found = manifest.calibration
    if found is None:
        return ""
    correct = "their labels" if found.labels else f"the answers of k = {max(manifest.model.heads)}"
    intro = (
        f"Fitted on {found.num_fitted:,} of {in_markdown(found.data)} and evaluated on the other "
        f"{found.num_reported:,}, where {correct} count as correct. Probabilities are the softmax of "
        "logits / temperature. The calibration error is the expected one, in points, without and with the "
        "temperature. `snippets/hydra_runtime.py` reads all of this from the manifest."
    )
    heads = table(
        ("k", "correct, %", "95 % interval", "temperature", "calibration error"),
        [
            (
                str(each.heads),
                _percent(each.accuracy, 2),
                f"{each.low:.1f} to {each.high:.1f}",
                f"{each.temperature:.2f}",
                f"{each.ece_before:.1f} → {each.ece_after:.1f}",
            )
            for each in found.subnetworks
        ],
    )
    cascades = table(COLUMNS, (each.cells(manifest.model.gmacs) for each in found.cascades))
    parts = ["## Confidence and cascades", intro, heads, *([cascades] if found.cascades else [])]
    return "\n\n".join([*parts, ""]) + "\n"


def devices(manifest: Manifest) -> str:
    """What was chosen for whom, as a section; nothing where the export was not asked for devices."""
    if not manifest.devices:
        return ""
    rows = [
        (
            in_markdown(device.name),
            f"{in_markdown(device.runtime)}, {in_markdown(device.unit)}",
            "any" if device.heads is None else str(device.heads),
            _time(device),
            f"{device.budget_ms:g}",
            _fits(device),
            "<br>".join(f"`{path}`" for path in device.artifacts) or "none",
        )
        for device in manifest.devices
    ]
    columns = ("device", "runs in", "k", "ms (80 % interval)", "budget ms", "fits", "may run")
    reasons = "\n".join(f"- {in_markdown(device.name)}: {in_markdown(device.why)}." for device in manifest.devices)
    return f"## Devices\n\n{table(columns, rows)}\n\n{reasons}\n\n"


def files(manifest: Manifest) -> str:
    """What a device fetches to run each artifact."""
    rows = []
    for entry in manifest.artifacts:
        is_folder, others = entry.path not in entry.files, [path for path in entry.files if path != entry.path]
        what = "the folder" if is_folder else " + ".join(["this file", *(f"`{path}`" for path in others)])
        heads = ", ".join(map(str, entry.heads))
        rows.append((f"`{entry.path}`", heads, entry.precision, what, f"{manifest.fetch_bytes(entry):,}"))
    return table(("file", "k", "precision", "to fetch", "bytes"), rows)


def parity(manifest: Manifest) -> str:
    """Every artifact at every head count against its subnetwork."""
    rows = [
        (f"`{entry.path}`", str(k), f"{record.max_abs_error:.2g}", _allowed(record), f"{record.num_images:,}")
        for entry in manifest.artifacts
        for k, record in sorted(entry.parity.items())
    ]
    return table(("file", "k", "largest error", "allowed", "images"), rows)


def quantization(manifest: Manifest) -> str:
    """What int8 and its kind cost and save, as a section; nothing where all files are of floats."""
    fp32 = {_kind(entry): entry for entry in manifest.artifacts if entry.precision == "fp32"}
    rows = []
    for entry in manifest.artifacts:
        if entry.precision not in GATED:
            continue
        whole = fp32.get(_kind(entry))
        smaller = f"{manifest.fetch_bytes(entry) / manifest.fetch_bytes(whole):.2f}" if whole else _UNMEASURED
        for k, record in sorted(entry.parity.items()):
            accuracies = [_percent(each, 1, _UNMEASURED) for each in (record.accuracy, record.accuracy_fp32)]
            judged = record.judgement or _UNMEASURED
            worst, agreement = _worst_class(manifest, record), f"{record.top1_agreement:.1%}"
            rows.append((f"`{entry.path}`", str(k), *accuracies, worst, agreement, judged, smaller))
    if not rows:
        return ""
    columns = ("file", "k", "top-1", "top-1 of fp32", "worst class", "agreement", "judged", "size / fp32")
    quantized = {entry.precision: entry.quantization for entry in manifest.artifacts if entry.quantization is not None}
    calibrated = "".join(f"{name}: {in_markdown(each.text)}\n\n" for name, each in quantized.items())
    return (
        f"### Quantization\n\n{_known_table(columns, rows)}\n\n"
        f"Top-1 in percent, where the images have labels: {in_markdown(manifest.images)}.\n"
        f"Agreement is the share of these images on which {_same(manifest)} the subnetwork's\n"
        "in the worst runtime. Worst class is the class that loses most, with its change in points.\n\n"
        f"{calibrated}"
    )


def _worst_class(manifest: Manifest, record: ParityRecord) -> str:
    number = record.worst_class
    if number is None or record.class_drop is None:
        return _UNMEASURED
    labels = manifest.model.labels
    return f"{in_markdown(labels[number]) if number < len(labels) else number}, {-record.class_drop + 0:+.1f}"


def _same(manifest: Manifest) -> str:
    if manifest.model.config.num_classes:
        return "the largest output is the same as"
    outputs = "all patch tokens side by side" if manifest.model.config.pooling == "none" else "the features"
    return f"{outputs} have a cosine of 0.99 or more with"


def _kind(entry: ArtifactEntry) -> tuple[object, ...]:
    return entry.target, entry.graph, entry.input, entry.heads, len(entry.inputs)


def _allowed(record: ParityRecord) -> str:
    return "see below" if record.bound is None else f"{record.bound:.2g}"


def _percent(value: float | None, digits: int, missing: str = _UNKNOWN) -> str:
    return missing if value is None else f"{value:.{digits}f}"


def _trained(trained: bool | str) -> str:
    return trained if isinstance(trained, str) else "yes" if trained else "no"


def _time(device: DeviceEntry) -> str:
    if device.ms is None:
        return _UNKNOWN
    interval = "" if device.low is None or device.high is None else f" ({device.low:.3g} to {device.high:.3g})"
    return f"{device.ms:.3g}{interval}, {in_markdown(device.provenance or _UNKNOWN)}"


def _fits(device: DeviceEntry) -> str:
    if device.heads is None:
        return _UNKNOWN
    return _UNKNOWN if device.chance is None else describe_fit(device.sure, device.chance)
