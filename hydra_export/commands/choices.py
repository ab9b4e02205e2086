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
    """What to export, of what, and what it is judged by; the options of each target beside.

    Attributes:
        target: Formats, separated by commas.
        device: Instead of --target: devices, separated by commas, such as pixel7,rpi5; profile list shows them. Each
            gets the target of its best known runtime (NAME:RUNTIME: of this one) and the head count that fits.
        budget_ms: With --device: milliseconds that one image may take; by default each device's own. If nothing fits
            it, the exit status is 1.
        heads: Head counts, such as 3,6,12, or all; by default the checkpoint's own export list.
        graph: Graph kinds, separated by commas: separate (one file each), shared (graphs over common weight files),
            universal (one artifact for all, which takes the head count when it runs, or a function for each).
        precision: Precisions, separated by commas: fp32, fp16, int8 (weights), int8-static (weights and activations,
            for NPUs), w8a16 (activations of 16 bits); by default the target's own.
        input: What the graph takes: a normalised float tensor, or an image as uint8 RGB in 0-255.
        batch: Images at a time: a number, or dynamic.
        output: What artifacts give: logits, embedding (what the classifier would take), or tokens (those of all
            patches, after the last norm); by default what the model has.
        check_images: Your own images for the parity check and int8's accuracy: class folders, or a flat folder.
        calibrate: Images by which to calibrate the activations of int8-static and w8a16, and the model's confidence and
            cascades, as hydra-export calibrate does: a folder, packaged, fashion-mnist or digits.
        calibration_images: int8-static and w8a16: how many of them show how large activations are.
        calibration_method: int8-static: min-max, percentile or mse for all ranges; auto tries them for each.
        no_smooth: int8-static and w8a16: leave channels that are much larger than others as they are.
        mixed: int8-static: give as few activations as pass 16 bits, those first that 8 bits cost most.
        io: int8-static and w8a16: the graph takes and gives float, or integer, the integers themselves.
        verify_with: Runtimes that verify beside each target's own, separated by commas; doctor lists them.
        labels: A text file with one class name per line, in the order of the logits; empty lines do
            not count, names may repeat.
        architecture: timm's name of a ViT whose checkpoint does not say, such as deit_tiny_patch16_224.
        head_dim: Channels per head, for checkpoints that do not say.
        image_size: Side of the images, or HxW; positions that are of another size are resampled.
        drop: Parameters that inference does not use, separated by commas, by the beginnings of their names: head_dist.
        reference: A .npz file with image, as the model takes it, and logits, as hydra_export.save_reference writes it:
            the whole model must reproduce them, or the exit status is 1.
        preprocessing: Supplies or overrides what the checkpoint says: hydravit, imagenet, inception, or a JSON
            file.
        allow_untrained: Export head counts that were not trained.
        max_drop: int8 and its kind: points of top-1 that it may lose at any head count, on labelled images.
        max_class_drop: int8 and its kind: points of any one class that it may lose; by default any.
        accept_unchecked: int8 and its kind: export it without images that it could be judged by.
    """

    target: Annotated[
        str, some_of(candidates.targets), Parameter(help=f"Formats, separated by commas: {', '.join(targets.names())}.")
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
                    f"`{argument}` is for {precisions[0]}, which is not exported.",
                    f"Add it: `precision={_added(given.precision, precisions[0])}`.",
                )
    if given.device is not None and given.target != targets.DEFAULT:
        raise BadInput("`device` says what each device needs.", "Leave out `target`, or `device`.")


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
            f"`{argument}` {text!r} has an empty name.", f"Separate names by single commas: `{argument}={example}`."
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
        raise BadInput(f"`image_size` {text!r} is no image size.", "Give a side, or height and width: 224x224.")
    return int(sides[0]), int(sides[-1])


def _batch(text: str) -> int | Literal["dynamic"]:
    from hydra_export.errors import BadInput

    if text == "dynamic":
        return "dynamic"
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65536):
        raise BadInput(f"`batch` {text!r} is not a batch size.", "Give a number of images, or 'dynamic'.")
    return int(text)


def _labels(path: Path) -> tuple[str, ...]:
    from hydra_export import files
    from hydra_export.errors import BadData

    try:
        content = files.read(path, _LABELS_BYTES, f"`labels` {path}").decode()
    except UnicodeDecodeError as error:
        raise BadData(
            f"`labels` {path} cannot be read: {error}.", "Give a text file, a class name per line."
        ) from error
    labels = tuple(line.strip() for line in lines(content) if line.strip())
    if len(labels) > _MOST_LABELS:
        raise BadData(f"`labels` {path} has {len(labels):,} lines.", f"Give at most {_MOST_LABELS:,}.")
    return labels
