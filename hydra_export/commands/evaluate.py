"""``hydra-export evaluate``: accuracy and cost per head count, as the paper tables them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from hydra_export.commands import Flag, Result, candidates, choices, table, talk, tell, titled
from hydra_export.commands.candidates import one_of
from hydra_export.errors import BadInput
from hydra_export.text import counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import RenderableType

    from hydra_export.checkpoint_file import CheckpointInfo
    from hydra_export.data.datasets import Images
    from hydra_export.evaluation.accuracy import Accuracy

_STEP = 32  # images between two signs of life


def evaluate(
    checkpoint: Path | None = None,
    *,
    data: Annotated[str, one_of(candidates.test_sets)] = "packaged",
    heads: str | None = None,
    architecture: str | None = None,
    head_dim: int | None = None,
    image_size: str | None = None,
    preprocessing: Annotated[str | None, one_of(candidates.preprocessings)] = None,
    measure: Flag = False,
    batch_size: int = 64,
    threads: int = 1,
    plot: Path | None = None,
) -> Result:
    """Measure the accuracy and the cost of each subnetwork on labelled images.

    Args:
        checkpoint: The model: a file, a folder in the Hub's layout, a Hub id, or timm:NAME; by default the packaged
            model.
        data: packaged (1,000 test images of Fashion-MNIST), fashion-mnist or digits (the whole test set), or a
            folder with one folder of images per class, or with the idx files of Fashion-MNIST. For models of the
            1,000 classes of ImageNet, folders may be named by synset or number, as in ImageNet's variants. Folders
            that do not match the model's classes are refused.
        heads: Head counts, such as 3,6,12, or all; by default the checkpoint's export list.
        architecture: The ViT's name in timm, such as deit_tiny_patch16_224, if the checkpoint does not state it.
        head_dim: Channels per head, if the checkpoint does not state it.
        image_size: Side of the images, or HxW; position embeddings of another size are resampled.
        preprocessing: Supplies or overrides the checkpoint's preprocessing: hydravit, imagenet, inception, or a JSON
            file.
        measure: Add throughput, peak memory and load time in PyTorch on this CPU.
        batch_size: Images per call while measuring throughput and memory.
        threads: CPU threads while measuring.
        plot: Plot accuracy over GMACs and over measured throughput into this file, such as tradeoff.png.
    """
    import msgspec

    from hydra_export import checkpoint as checkpoints
    from hydra_export import network
    from hydra_export.architecture import parse_heads
    from hydra_export.commands.progress import shown_progress
    from hydra_export.evaluation.accuracy import accuracy
    from hydra_export.evaluation.cost import measure as cost
    from hydra_export.gate import chance

    _check(batch_size, threads, plot)
    loaded = checkpoints.load(
        checkpoint,
        head_dim=head_dim,
        preprocessing=preprocessing,
        architecture=architecture,
        image_size=choices.image_size(image_size),
    )
    info = loaded.info
    usual = checkpoints.default_heads(info)
    head_counts = usual if heads is None else parse_heads(heads, info.config.heads, usual)
    unreadable: list[Path] = []
    test_set = _images(data, info, unreadable)
    images, source, by_chance = test_set.images, test_set.source, chance(test_set.labels)
    console = talk()
    notes = (*loaded.notes, *filter(None, [test_set.note]))
    tell(console, notes, checkpoints.check_trained(info, head_counts, allow_untrained=True))
    with shown_progress(console) as progress:
        progress("evaluating", 0, len(images))
        accuracies = accuracy(
            loaded.model,
            info.preprocessing,
            images,
            head_counts,
            classes=test_set.classes,
            batch_size=_STEP,
            progress=lambda num_images, top1: progress(f"top-1 so far: {_so_far(top1)}", num_images, len(images)),
        )
    if at_chance := _at_chance(accuracies, by_chance):
        counts = ", ".join(map(str, at_chance))
        same = f"always the same answer would be correct on {by_chance:.1%}"
        tell(console, (), f"Top-1 at k = {counts} is not clearly above chance ({same}): are the labels the model's?")
    num_images = accuracies[head_counts[0]].num_images
    if left_out := len(images) + len(unreadable) - num_images:
        such = f", such as {unreadable[0]}" if unreadable else ""
        tell(console, (), f"Left out {counted(left_out, 'image')} that cannot be read{such}.")
    costs: dict[int, dict[str, Any]] = {}
    with shown_progress(console) as progress:
        for step, k in enumerate(head_counts if measure or plot else ()):
            progress(f"measuring k = {k}", step, len(head_counts))
            costs[k] = msgspec.to_builtins(cost(loaded, k, batch_size=batch_size, threads=threads))
    subnetworks = [
        {
            "heads": k,
            "trained": k in info.trained_heads if info.trained_heads else None,
            "top1": accuracies[k].top1,
            "top5": accuracies[k].top5,
            "params": network.num_params(info.config, k),
            "macs": network.macs(info.config, k),
            **costs.get(k, {}),
        }
        for k in head_counts
    ]
    title = f"{info.name} on {source}"
    if plot is not None:
        from hydra_export.evaluation.tradeoff import tradeoff

        tradeoff(subnetworks, title, plot)
    document = {
        "model": info.name,
        "sha256": loaded.sha256,
        "data": source,
        "num_images": num_images,
        "unreadable_images": left_out,
        "chance": round(100 * by_chance, 2),
        "at_chance": at_chance,
        "plot": None if plot is None else plot.as_posix(),
        "subnetworks": subnetworks,
    }
    return Result(document, subnetwork_table(subnetworks, title))


def _so_far(top1: Mapping[int, float]) -> str:
    """Of the smallest and the largest head count, which fit into a line."""
    ends = dict.fromkeys((min(top1), max(top1)))
    return ", ".join(f"k = {k} {top1[k]:.1f} %" for k in ends)


def _check(batch_size: int, threads: int, plot: Path | None) -> None:
    if min(batch_size, threads) < 1:
        raise BadInput(f"`batch_size` is {batch_size}, `threads` is {threads}.", "Pass 1 or more for each.")
    if plot is not None:
        from hydra_export import pictures

        pictures.check(plot)


def subnetwork_table(subnetworks: Sequence[dict[str, Any]], title: str) -> RenderableType:
    """What a person reads of *subnetworks*, as in the documents of train and evaluate."""
    columns = {
        "top-1 %": "top1",
        "agreement %": "agreement",
        "top-5 %": "top5",
        "parameters": "params",
        "GMACs": "macs",
    }
    columns |= {"images/s": "images_per_second", "peak MiB": "peak_mib", "load ms": "load_ms"}
    there = {title: field for title, field in columns.items() if field in subnetworks[0]}
    shown = table("k", *there)
    for row in subnetworks:
        untrained = " (not trained)" if row["trained"] is False else ""
        shown.add_row(f"{row['heads']}{untrained}", *(_render(field, row[field]) for field in there.values()))
    return titled(title, shown)


def _render(field: str, value: float | None) -> str:
    if value is None:
        return "-"
    if field == "macs":
        gmacs = value / 1e9
        return f"{gmacs:.2f}" if gmacs >= 1 else f"{gmacs:.2g}"
    return (
        f"{value:,}"
        if field == "params"
        else f"{value:,.2f}"
        if field in ("top1", "top5", "agreement")
        else f"{value:,.1f}"
    )


@dataclass(frozen=True)
class _LabelledImages:
    """Labelled images: the classes that they are of where not all, what to call them, and what was assumed of them."""

    images: Images
    labels: NDArray[np.int64]
    source: str
    classes: tuple[int, ...] | None = None
    note: str = ""


def _images(name: str, info: CheckpointInfo, unreadable: list[Path]) -> _LabelledImages:
    """The labelled images called *name*; BadInput where their labels are not the model's own."""
    from hydra_export.data.classes import IMAGENET_CLASSES
    from hydra_export.data.datasets import Split
    from hydra_export.data.of_model import labelled
    from hydra_export.evaluation import imagenet

    if info.config.num_classes == IMAGENET_CLASSES and Path(name).is_dir():
        folder_classes = imagenet.folder_classes(Path(name), info.labels)
        if folder_classes is not None:
            images, classes = imagenet.images(Path(name), folder_classes)
            of = f"{len(classes or folder_classes.names)} classes {folder_classes.known_by}"
            source = f"{len(images):,} images of the folder {Path(name).resolve().name}, {of}"
            return _LabelledImages(images, images.labels, source, classes, folder_classes.note)
    fitted = labelled(info, name, unreadable)
    assert fitted.labels is not None
    return _LabelledImages(Split(fitted.pixels, fitted.labels), fitted.labels, fitted.source, note=fitted.note)


def _at_chance(accuracies: Mapping[int, Accuracy], by_chance: float) -> list[int]:
    """The head counts whose accuracy tells nothing: always the same answer may score as much."""
    from hydra_export.gate import above_chance

    return [
        k
        for k, a in accuracies.items()
        if not above_chance(round(a.top1 * a.num_images / 100), a.num_images, by_chance)
    ]
