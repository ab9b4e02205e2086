"""``hydra-export evaluate``: top-1, parameters and GMACs per head count."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra_export.commands import Result, table, talk, tell, titled
from hydra_export.errors import BadData, BadInput, UnknownName

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hydra_export.checkpoint import CheckpointInfo
    from hydra_export.data import ImageSet


def evaluate(
    *,
    checkpoint: Path | None = None,
    data: str = "packaged",
    heads: str | None = None,
    head_dim: int = 64,
    preprocessing: str | None = None,
) -> Result:
    """Measure the top-1 accuracy of each subnetwork on labelled images.

    Args:
        checkpoint: The universal model; by default the packaged one.
        data: packaged (1,000 test images of Fashion-MNIST), fashion-mnist or digits (the whole test set), or a
            folder with one folder of images per class, or with the idx files of Fashion-MNIST.
        heads: Head counts, such as 3,6,12, or all; by default the checkpoint's own export list.
        head_dim: Channels per head, for checkpoints that do not say.
        preprocessing: Supplies or overrides what the checkpoint says: imagenet, inception, or a JSON file.
    """
    from hydra_export import checkpoint as checkpoints
    from hydra_export.architecture import parse_heads
    from hydra_export.train.evaluate import top1

    loaded = checkpoints.load(checkpoint, head_dim=head_dim, preprocessing=preprocessing)
    info = loaded.info
    chosen = checkpoints.default_heads(info) if heads is None else parse_heads(heads, info.config.heads)
    images = _images(data, info)
    assert images.labels is not None
    console = talk()
    tell(console, loaded.notes, checkpoints.check_trained(info, chosen, allow_untrained=True))
    with console.status(f"{len(images):,} images through {len(chosen)} subnetworks"):
        accuracy = top1(loaded.model, info.preprocessing, images.pixels, images.labels, chosen)
    subnetworks = [
        {
            "heads": k,
            "trained": k in info.trained_heads if info.trained_heads else None,
            "top1": accuracy[k],
            "params": info.config.num_params(k),
            "macs": info.config.macs(k),
        }
        for k in chosen
    ]
    document = {
        "model": info.name,
        "sha256": loaded.sha256,
        "data": images.source,
        "num_images": len(images),
        "subnetworks": subnetworks,
    }
    return Result(document, shown_subnetworks(subnetworks, f"{info.name} on {images.source}"))


def shown_subnetworks(subnetworks: Sequence[dict[str, Any]], title: str) -> RenderableType:
    """What a person reads of *subnetworks*, as in the documents of train and evaluate."""
    shown = table("heads", "top-1 %", "parameters", "GMACs")
    for row in subnetworks:
        untrained = " (not trained)" if row["trained"] is False else ""
        gmacs = row["macs"] / 1e9
        shown_gmacs = f"{gmacs:.2f}" if gmacs >= 1 else f"{gmacs:.2g}"
        shown.add_row(f"{row['heads']}{untrained}", f"{row['top1']:.2f}", f"{row['params']:,}", shown_gmacs)
    return titled(title, shown)


def _images(name: str, info: CheckpointInfo) -> ImageSet:
    """The labelled images called *name*, refused where they do not have the classes of the model."""
    from hydra_export import data
    from hydra_export.train import data as datasets

    if name == "packaged":
        images = data.packaged_images(info.preprocessing)
    elif name in datasets.names():
        images = datasets.fitted_test(name, info.preprocessing)
    elif list(Path(name).glob("t10k-images-idx3-ubyte*")):
        images = datasets.fitted_test("fashion-mnist", info.preprocessing, Path(name))
    elif Path(name).is_dir():
        images = data.folder_images(Path(name), info.preprocessing, info.labels)
        if images.labels is None:
            raise BadData(f"Folder {name} has images without classes.", "Give one folder of images per class.")
    else:
        raise UnknownName("dataset or folder", name, ("packaged", *datasets.names()))
    if (info.labels and images.label_names != info.labels) or len(images.label_names) != info.config.num_classes:
        raise BadInput(
            f"{info.name} tells {info.config.num_classes} classes apart ({_few(info.labels)}), "
            f"the images are of {len(images.label_names)} ({_few(images.label_names)}).",
            "Give --data with images of the model's classes.",
        )
    return images


def _few(labels: Sequence[str]) -> str:
    return ", ".join(labels[:3]) + ", ..." if labels else "names unknown"
