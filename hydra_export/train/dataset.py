"""The dataset of a run, and what of the configuration follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec

from hydra_export.checkpoint import Checkpoint
from hydra_export.data import datasets, sources
from hydra_export.data.classes import named
from hydra_export.data.datasets import Dataset, Images
from hydra_export.errors import BadData, BadInput
from hydra_export.train.config import TrainConfig
from hydra_export.train.distributed import World


def notes_on_classes(
    config: TrainConfig, start: Checkpoint, dataset: Dataset[Images], same_classes: bool
) -> Iterator[str]:
    """What is assumed of the classes of a classifier that is kept."""
    if config.labels == "ignore":
        yield "The images' labels, if any, are not used: the model only learns from the teacher."
    elif same_classes and not start.info.labels:
        order = named(dataset.label_names)
        yield f"{start.info.name} does not name its classes; they are assumed to be the data's, in this order: {order}."


def resolved(
    config: TrainConfig, dataset: Dataset[Images], start: Checkpoint | None
) -> tuple[TrainConfig, Dataset[Images], bool]:
    """*config* with the numbers that depend on the data, the data's classes in the order of the classifier, and whether
    the classifier of *start* can be kept.

    Raises:
        BadInput: the data has other classes than the configuration says.
    """
    config = _with_steps(config, dataset)
    if config.labels == "auto":
        known = config.model.num_classes > 0 and len(dataset.label_names) > 1
        config = msgspec.structs.replace(config, labels="use" if known else "ignore")
    if config.labels == "ignore":
        return config, replace(dataset, label_names=() if start is None else start.info.labels), True
    same = start is not None and start.info.config.num_classes == len(dataset.label_names)
    if same and start is not None and start.info.labels:
        in_order = sources.renumbered(dataset, start.info.labels) if config.dataset == "folder" else None
        same = in_order is not None or dataset.label_names == start.info.labels
        dataset = in_order or dataset
    if config.distill == "self" and start is not None and not same:
        raise BadInput(
            f"The classes of the data ({named(dataset.label_names)}) are not those of the teacher, {start.info.name}.",
            f"First fine-tune its full width on them (recipe finetune with `train_heads={config.model.heads}`), or set "
            "`labels=ignore` to use only the images.",
        )
    if config.classes == "data":
        model = msgspec.structs.replace(config.model, num_classes=len(dataset.label_names), projection=0)
        config = msgspec.structs.replace(config, model=model)
    elif len(dataset.label_names) != config.model.num_classes:
        raise BadInput(
            f"The data has {len(dataset.label_names)} classes, but the model to train has {config.model.num_classes}.",
            "Pass matching data, or set model.num_classes; recipe finetune takes the data's classes.",
        )
    elif start is not None and start.info.config.num_classes not in (0, config.model.num_classes):
        raise BadInput(
            f"{start.info.name} has {start.info.config.num_classes} classes, but the data has "
            f"{config.model.num_classes}.",
            "Set `classes=data` to train a new classifier, or start from another checkpoint.",
        )
    return config, dataset, same


def _with_steps(config: TrainConfig, dataset: Dataset[Images]) -> TrainConfig:
    if config.steps or not config.epochs:
        return config
    steps_per_epoch = max(1, len(dataset.train) // config.batch_size)  # as many as with drop_last
    return msgspec.structs.replace(config, steps=max(1, int(config.epochs * steps_per_epoch)))


def load(config: TrainConfig, folder: Path | None) -> Dataset[Images]:
    """The dataset that *config* names, read from *folder* where it is no folder of images.

    Raises:
        BadData: it is not there, or cannot be used.
    """
    if config.dataset == "folder":
        return sources.load(config.data, config.held_out, labelled=config.labels == "use")
    if config.data and (place := Path(config.data)).is_dir() and not [*place.glob("*-ubyte*")]:
        message = f"Recipe {config.recipe} trains on {config.dataset}, and {place} is another folder."
        raise BadData(message, "Set `recipe=finetune` to train on a folder of images.")
    return datasets.load(config.dataset, folder or (Path(config.data) if config.data else None))


def check_shares(config: TrainConfig, world: World) -> None:
    """Refuses a batch that the processes cannot share."""
    parts = world.size * config.accumulate
    if config.batch_size % parts:
        raise BadInput(
            f"A batch of {config.batch_size} images does not divide into {world.size} processes with "
            f"{config.accumulate} parts each.",
            f"Use a multiple of {parts}.",
        )
    if (config.augmentation.mixup or config.augmentation.cutmix) and config.batch_size // world.size % 2:
        raise BadInput("Mixing needs an even number of images on each process.", "Change batch_size.")
