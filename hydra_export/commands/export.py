"""``hydra-export [export]``: a checkpoint becomes a verified bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from hydra_export.commands import Result, allowed, kind, percent, size, table, talk, tell, titled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from hydra_export.bundle import DeviceEntry, Manifest
    from hydra_export.checkpoint import CheckpointInfo
    from hydra_export.conversion import Job


def export(
    *,
    checkpoint: Path | None = None,
    target: str = "onnx",
    device: str | None = None,
    budget_ms: float | None = None,
    heads: str | None = None,
    graph: str = "separate",
    precision: str | None = None,
    input: Literal["tensor", "image"] = "tensor",  # noqa: A002 (the option's name)
    batch: str = "1",
    opset: int | None = None,
    weight_files: Literal["each", "one"] = "each",
    ios: Literal[15, 16, 17, 18] = 18,
    coreml_classifier: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    no_overlap: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    images: Path | None = None,
    labels: Path | None = None,
    head_dim: int = 64,
    preprocessing: str | None = None,
    allow_untrained: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    max_drop: float = 1.0,
    accept_unchecked: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    jobs: int = 0,
    memory: int = 0,
    out: Path = Path("hydra-bundle"),
) -> Result:
    """Export a universal model, prove every artifact equal to PyTorch, and write a bundle.

    Args:
        checkpoint: Ours, a plain timm ViT state dict, or an official HydraViT one; by default the packaged model.
        target: Formats, separated by commas: onnx, tflite, coreml.
        device: Instead of --target: devices, separated by commas, such as pixel7,rpi5; profile --list shows them. Each
            gets the target of its best known runtime (rpi5:litert: of this one) and the head count that fits.
        budget_ms: With --device: milliseconds that one image may take; by default each device's own. If nothing fits
            it, the exit status is 1.
        heads: Head counts, such as 3,6,12, or all; by default the checkpoint's own export list.
        graph: Graph kinds, separated by commas: separate (one file each), shared (ONNX: graphs over common weight
            files), universal (ONNX, TFLite: one artifact for all, which takes the head count when it runs).
        precision: Precisions, separated by commas: fp32, fp16 (Core ML); by default fp32, for Core ML fp16.
        input: What the graph takes: a normalised float tensor, or an image as uint8 RGB in 0-255 (Core ML: an image).
        batch: Images at a time: a number, or dynamic.
        opset: ONNX opset, 17 to 23; by default 17, which the oldest runtimes take. 23 uses its Attention operator.
        weight_files: For --graph shared: each listed head count adds a file of its own (fewest bytes for a device to
            fetch), or one file for all (loads faster at the larger head counts).
        ios: Core ML: the oldest iOS that the packages must run on, 15 to 18, and macOS 12 to 15 with it.
        no_overlap: For --graph universal of TFLite: every subnetwork has bytes of its own, for runtimes that take no
            shared ones; the file is larger.
        coreml_classifier: Core ML: the packages give the label and every class's probability as well.
        images: Your own images for the parity check: class folders, or a flat folder.
        labels: A text file with one class name per line, in the order of the logits.
        head_dim: Channels per head, for checkpoints that do not say.
        preprocessing: Supplies or overrides what the checkpoint says: imagenet, inception, or a JSON file.
        allow_untrained: Export head counts that were not trained.
        max_drop: int8: points of top-1 that it may lose at any head count, on labelled images.
        accept_unchecked: int8: export it without images that it could be judged by.
        jobs: Converters that may run side by side; by default as many as there are cores and memory for.
        memory: MiB that one converter may take; by default all that is there.
        out: The bundle's folder. One of our bundles there is replaced as a whole; anything else is refused.
    """
    from hydra_export import checkpoint as checkpoints
    from hydra_export.architecture import parse_heads
    from hydra_export.bundle import check_replaceable
    from hydra_export.commands.progress import shown_progress
    from hydra_export.export import export as export_bundle
    from hydra_export.export import jobs as listed_jobs
    from hydra_export.export import num_images
    from hydra_export.parity import Gate

    console = talk()
    _check_not_negative("--jobs", jobs)
    _check_not_negative("--memory", memory)
    if not 0 <= max_drop <= 100:
        from hydra_export.errors import BadInput

        raise BadInput(f"--max-drop is {max_drop}.", "Give percentage points from 0 to 100.")

    def listed_for(targets: Sequence[str]) -> list[Job]:
        return listed_jobs(
            targets,
            _names("--graph", graph),
            _names("--precision", precision) if precision is not None else (),
            form=input,
            batch=_batch(batch),
            opset=opset,
            weight_files=weight_files,
            ios=ios,
            classifier=coreml_classifier,
            overlap=not no_overlap,
        )

    _check_devices(device, budget_ms, target)
    listed = listed_for(_names("--target", target)) if device is None else []
    check_replaceable(out)
    loaded = checkpoints.load(checkpoint, head_dim=head_dim, preprocessing=preprocessing)
    info = loaded.info
    wanted = checkpoints.default_heads(info) if heads is None else parse_heads(heads, info.config.heads)
    tell(console, loaded.notes, checkpoints.check_trained(info, wanted, allow_untrained))
    devices = _devices(device, info, wanted, budget_ms) if device is not None else []
    if devices:
        listed = listed_for(list(dict.fromkeys(entry.target for entry in devices)))
    if labels is not None:
        loaded = checkpoints.with_labels(loaded, _labels(labels))
    chosen = None
    if images is not None:
        from hydra_export.data import folder_images

        limit = max(num_images(info.config, wanted[-1], listed).values())
        chosen = folder_images(images, info.preprocessing, loaded.info.labels, limit)
    with shown_progress(console) as progress:
        manifest = export_bundle(
            loaded,
            out,
            listed,
            heads=wanted,
            images=chosen,
            gate=Gate(max_drop=max_drop, open=accept_unchecked),
            progress=progress,
            side_by_side=jobs,
            memory_mib=memory,
            devices=devices,
        )
    return Result({"out": str(out), "manifest": _document(manifest)}, _shown(manifest, out))


def _names(option: str, text: str) -> list[str]:
    from hydra_export.errors import BadInput

    names = [name.strip() for name in text.split(",")]
    if "" in names:
        raise BadInput(f"{option} {text!r} has an empty name.", f"Separate names by single commas: {option} a,b.")
    if len(set(names)) < len(names):
        raise BadInput(f"{option} {text!r} lists a name twice.", "List each once.")
    return names


def _check_devices(device: str | None, budget_ms: float | None, target: str) -> None:
    from hydra_export.errors import BadInput

    if device is not None and target != "onnx":
        raise BadInput("--device says what each device needs.", "Leave out --target, or --device.")
    if budget_ms is not None and (device is None or not 0 < budget_ms < 1e9):
        raise BadInput(f"--budget-ms {budget_ms:g} is for --device, and above 0.", "Add --device NAME.")


def _devices(names: str, info: CheckpointInfo, heads: Sequence[int], budget_ms: float | None) -> list[DeviceEntry]:
    """What is chosen for each; CheckFailed where a budget was given and nothing is known to fit it."""
    from hydra_export.errors import CheckFailed
    from hydra_export.fitting import fit

    devices = fit(_names("--device", names), info, heads, budget_ms)
    missed = [entry for entry in devices if not entry.fits]
    if missed and budget_ms is not None:
        told = "; ".join(f"{entry.id}: {entry.why}" for entry in missed)
        raise CheckFailed(
            f"Nothing is known to fit {budget_ms:g} ms on {told}.",
            "hydra-export profile --device NAME says what would settle it.",
        )
    for entry in missed:
        tell(talk(), (), f"{entry.id}: {entry.why}.")
    return devices


def _check_not_negative(option: str, value: int) -> None:
    from hydra_export.errors import BadInput

    if value < 0:
        raise BadInput(f"{option} is {value}.", "Give 1 or more, or leave it out.")


def _batch(text: str) -> int | Literal["dynamic"]:
    from hydra_export.errors import BadInput

    if text == "dynamic":
        return "dynamic"
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65536):
        raise BadInput(f"--batch {text!r} is not a batch size.", "Give a number of images, or 'dynamic'.")
    return int(text)


def _labels(path: Path) -> tuple[str, ...]:
    from hydra_export.errors import BadData

    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadData(
            f"--labels {path} cannot be read: {error}.", "Give a text file, a class name per line."
        ) from error
    return tuple(line.strip() for line in lines if line.strip())


def _document(manifest: Manifest) -> Any:
    import msgspec

    return msgspec.to_builtins(manifest)


def _shown(manifest: Manifest, out: Path) -> RenderableType:
    top1 = {s.heads: s.accuracy for s in manifest.model.subnetworks}
    sizes = {file.path: file.bytes for file in manifest.files}
    shown = table("artifact", "k", "top-1 %", "to fetch", "max |error|", "allowed")
    for artifact in manifest.artifacts:
        fetched = size(sum(sizes[path] for path in artifact.files))
        for k, record in artifact.parity.items():
            errors = (f"{record.max_abs_error:.1e}", allowed(record))
            shown.add_row(kind(artifact), str(k), percent(top1[k]), fetched, *errors)
    rounded = " (fp16: of rounded weights)" if any(a.precision == "fp16" for a in manifest.artifacts) else ""
    note = f"Errors are of logits, against the float64 subnetwork{rounded}, on {manifest.images}."
    choices = [_choice(entry) for entry in manifest.devices]
    runtimes = {name for a in manifest.artifacts for record in a.parity.values() for name in record.runtimes}
    return titled(f"{manifest.model.name} in {out}", shown, note, f"Run in {', '.join(sorted(runtimes))}.", *choices)


def _choice(device: DeviceEntry) -> str:
    from hydra_export.latency.spread import rounded

    if device.heads is None or device.ms is None or device.low is None or device.high is None:
        return f"{device.id}: {device.runtime}, every k: it is not known how long they take."
    time = f"{rounded(device.ms)} ms ({rounded(device.low)} to {rounded(device.high)}, {device.provenance})"
    sure = "surely" if device.sure else f"{100 * (device.chance or 0):.0f} % sure to be"
    return f"{device.id}: {device.runtime}, k = {device.heads}: {time}, {sure} within {rounded(device.budget_ms)} ms."
