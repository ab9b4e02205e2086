"""What an export is asked for, on the command line, and the export itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from hydra_export import targets
from hydra_export.commands import Flag, candidates, say, talk
from hydra_export.commands.candidates import one_of, some_of
from hydra_export.commands.target_options import options_of, with_target_options
from hydra_export.text import lines

_LABELS_BYTES, _MOST_LABELS = 8 * 2**20, 100_000

if TYPE_CHECKING:
    from hydra_export.api import Bundle
    from hydra_export.cache import Cache


@Parameter(name="*")
@with_target_options
@dataclass(frozen=True, kw_only=True)
class Choices:
    """What to export, from what, and how to judge it; each target adds its own options.

    Attributes:
        target: Comma-separated names of formats.
        device: Instead of --target: comma-separated devices, such as pixel7,rpi5; "profile list" shows them. Each
            device gets the target of its best known runtime (or of RUNTIME, with NAME:RUNTIME) and the head count that
            fits.
        budget_ms: With --device: time budget for one image in milliseconds; by default each device's own. If nothing
            fits, the exit status is 1.
        heads: Head counts (k), such as 3,6,12, or all; by default those that the checkpoint lists for export.
        graph: Comma-separated graph kinds: separate (one file per head count), shared (graphs over common weight
            files), universal (one artifact for all, with the head count as a run-time input or a function for each).
        precision: Comma-separated precisions: fp32, fp16, int8 (weights only), int8-static (weights and activations,
            for NPUs), w8a16 (8-bit weights, 16-bit activations); by default the target's own.
        input: The graph's input: a normalised float tensor, or a uint8 RGB image in 0-255.
        batch: Batch size: a number, or dynamic.
        output: The artifacts' output: logits, embedding (the classifier's input), or tokens (of all patches, after the
            last norm); by default what the model has.
        check_images: Your own images for the parity check and the accuracy of int8: one folder per class, or a flat
            folder.
        calibrate: Images for calibration: of the activations of int8-static and w8a16, and of the model's confidence
            and cascades, as hydra-export calibrate does. A folder, packaged, fashion-mnist or digits.
        calibration_images: int8-static and w8a16: how many of these images to use for the activations' ranges.
        calibration_method: int8-static: how to choose ranges: min-max, percentile or mse for all; auto tries all three
            for each.
        no_smooth: int8-static and w8a16: do not equalize channels that are much larger than others.
        mixed: int8-static: use 16 bits for the activations that lose most at 8 bits, as few as pass the check.
        io: int8-static and w8a16: type of the graph's input and output: float, or the quantized integers.
        verify_with: Comma-separated runtimes that verify in addition to each target's own; doctor lists them.
        labels: A text file with one class name per line, in the order of the logits; empty lines are ignored, and names
            may repeat.
        architecture: The ViT's name in timm, such as deit_tiny_patch16_224, if the checkpoint does not state it.
        head_dim: Channels per head, if the checkpoint does not state it.
        image_size: Side of the images, or HxW; position embeddings of another size are resampled.
        drop: Comma-separated name prefixes of parameters that inference does not use, such as head_dist.
        reference: A .npz file with image (the model's input) and logits, as hydra_export.save_reference writes it. If
            the full model does not reproduce the logits, the exit status is 1.
        preprocessing: Supplies or overrides the checkpoint's preprocessing: hydravit, imagenet, inception, or a JSON
            file.
        allow_untrained: Export head counts that were not trained.
        max_drop: Quantized artifacts: largest loss of top-1 at any head count, in percentage points, on labelled
            images.
        max_class_drop: Quantized artifacts: largest loss of any one class, in percentage points; by default unlimited.
        accept_unchecked: Quantized artifacts: export them without images to judge them by.
    """

    target: Annotated[
        str,
        some_of(candidates.targets),
        Parameter(help=f"Comma-separated names of formats: {', '.join(targets.names())}."),
    ] = targets.DEFAULT
    device: Annotated[str | None, some_of(candidates.devices)] = None
    budget_ms: float | None = None
    heads: str | None = None
    graph: Annotated[str, some_of(candidates.graphs)] = "separate"
    precision: Annotated[str | None, some_of(candidates.precisions)] = None
    input: Literal["tensor", "image"] = "tensor"
    batch: str = "1"
    output: Literal["logits", "embedding", "tokens"] | None = None
    check_images: Path | None = None
    calibrate: Annotated[str | None, one_of(candidates.test_sets)] = None
    calibration_images: int = 128
    calibration_method: Literal["auto", "min-max", "percentile", "mse"] = "auto"
    no_smooth: Flag = False
    mixed: Flag = False
    io: Literal["float", "integer"] = "float"
    verify_with: str | None = None
    labels: Path | None = None
    architecture: str | None = None
    head_dim: int | None = None
    image_size: str | None = None
    drop: str | None = None
    reference: Path | None = None
    preprocessing: Annotated[str | None, one_of(candidates.preprocessings)] = None
    allow_untrained: Flag = False
    max_drop: float = 1.0
    max_class_drop: float | None = None
    accept_unchecked: Flag = False


def run(checkpoint: Path | None, given: Choices, out: Path, cache: Cache | None, archived: bool) -> Bundle:
    """Exports *checkpoint* as *given* to *out*, and as an archive beside it, with progress on standard error."""
    _check(given)  # before PyTorch is imported, which takes seconds
    from hydra_export import api
    from hydra_export import checkpoint as checkpoints
    from hydra_export.bundle import check_replaceable
    from hydra_export.commands.progress import shown_progress

    console = talk()
    check_replaceable(out)
    loaded = checkpoints.load(
        checkpoint,
        head_dim=given.head_dim,
        preprocessing=given.preprocessing,
        architecture=given.architecture,
        image_size=image_size(given.image_size),
        drop=listed_names("drop", given.drop),
    )
    if given.reference is not None:
        from hydra_export.reference import held_to

        loaded = held_to(loaded, given.reference)
    with shown_progress(console) as progress:
        return api.export(
            loaded,
            out,
            targets=listed_names("target", given.target),
            device=listed_names("device", given.device),
            budget_ms=given.budget_ms,
            heads=given.heads,
            graphs=listed_names("graph", given.graph),
            precisions=listed_names("precision", given.precision),
            input=given.input,
            batch=_batch(given.batch),
            options=options_of(given),
            output=given.output,
            labels=() if given.labels is None else _labels(given.labels),
            check_images=given.check_images,
            calibrate=given.calibrate,
            calibration_images=given.calibration_images,
            calibration_method=given.calibration_method,
            smooth=not given.no_smooth,
            mixed=given.mixed,
            io=given.io,
            max_drop=given.max_drop,
            max_class_drop=given.max_class_drop,
            accept_unchecked=given.accept_unchecked,
            allow_untrained=given.allow_untrained,
            zip=archived,
            cache=cache or False,
            verify_with=listed_names("verify_with", given.verify_with),
            progress=progress,
            tell=partial(say, console),
        )


def _check(given: Choices) -> None:
    from hydra_export.errors import BadInput
    from hydra_export.gate import Gate
    from hydra_export.target import GATED, STATIC

    for name in listed_names("target", given.target):
        targets.get(name)
    _batch(given.batch)
    Gate(max_drop=given.max_drop, max_class_drop=given.max_class_drop)  # refuses what is no number of points
    for precisions, arguments in (
        (GATED, ("max_drop", "max_class_drop", "accept_unchecked")),
        (STATIC, ("calibration_images", "no_smooth", "io")),
        (STATIC[:1], ("calibration_method", "mixed")),
    ):
        if set(precisions) & set((given.precision or "").split(",")):
            continue
        for argument in arguments:
            if getattr(given, argument) != getattr(Choices, argument):
                raise BadInput(
                    f"`{argument}` applies to {precisions[0]}, which is not exported.",
                    f"Add it: `precision={_added(given.precision, precisions[0])}`.",
                )
    if given.device is not None and given.target != targets.DEFAULT:
        raise BadInput("`device` already sets the target of each device.", "Leave out `target`, or `device`.")


def _added(text: str | None, name: str) -> str:
    return f"{text},{name}" if text else name


def listed_names(argument: str, text: str | None) -> list[str]:
    """The names that *text*, the value of *argument*, lists by commas; none where it is not given."""
    from hydra_export.errors import BadInput

    if text is None:
        return []
    listed = [name.strip() for name in text.split(",")]
    if "" in listed:
        example = ",".join(filter(None, listed)) or "NAME"
        raise BadInput(
            f"`{argument}` {text!r} contains an empty name.",
            f"Separate names by single commas: `{argument}={example}`.",
        )
    if len(set(listed)) < len(listed):
        raise BadInput(f"`{argument}` {text!r} lists a name twice.", "List each once.")
    return listed


def image_size(text: str | None) -> tuple[int, int] | None:
    """Height and width from ``224`` or ``224x224``."""
    from hydra_export.errors import BadInput

    if text is None:
        return None
    sides = text.split("x")
    if not (1 <= len(sides) <= 2 and all(side.isascii() and side.isdigit() and len(side) < 6 for side in sides)):
        raise BadInput(f"`image_size` {text!r} is not an image size.", "Use a side, or height and width: 224x224.")
    return int(sides[0]), int(sides[-1])


def _batch(text: str) -> int | Literal["dynamic"]:
    from hydra_export.errors import BadInput

    if text == "dynamic":
        return "dynamic"
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65536):
        raise BadInput(f"`batch` {text!r} is not a batch size.", "Use a number of images, or 'dynamic'.")
    return int(text)


def _labels(path: Path) -> tuple[str, ...]:
    from hydra_export import files
    from hydra_export.errors import BadData

    try:
        content = files.read(path, _LABELS_BYTES, f"`labels` {path}").decode()
    except UnicodeDecodeError as error:
        raise BadData(
            f"`labels` {path} cannot be read: {error}.", "Pass a text file with one class name per line."
        ) from error
    labels = tuple(line.strip() for line in lines(content) if line.strip())
    if len(labels) > _MOST_LABELS:
        raise BadData(f"`labels` {path} has {len(labels):,} lines.", f"Use at most {_MOST_LABELS:,}.")
    return labels
