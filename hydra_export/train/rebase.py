"""The checkpoint that a run starts from, in the basis that the training images give."""

# B batch
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from hydra_export.checkpoint import Checkpoint
from hydra_export.data.datasets import Images
from hydra_export.elastic.checkpoints import made_elastic
from hydra_export.elastic.observation import BATCH, Batch
from hydra_export.evaluation.preprocessed import batches, spread
from hydra_export.train.config import TrainConfig
from hydra_export.train.distributed import World


def of(config: TrainConfig, start: Checkpoint, images: Images, world: World, same_classes: bool) -> Checkpoint:
    """*start* in the basis that *config* asks for, with notes of what was done; the same for all processes.

    The labels of the images count where they are of the *same_classes*.

    Raises:
        BadInput, CheckFailed: it cannot be (see ``made_elastic``).
    """
    if config.rebase == "none":
        return start
    pixels = start.info.preprocessing
    device = world.device if world.device.type == "cuda" else torch.device("cpu")  # of these, those that have float64

    def shown() -> Iterator[Batch]:
        indices = spread(len(images), config.rebase_images)
        for pixels_BHWC, labels in batches(images, indices, pixels, BATCH, config.workers):
            image_BCHW = torch.from_numpy(pixels.normalise(pixels_BHWC)).to(device)
            labels_B = torch.from_numpy(labels).to(device)
            yield image_BCHW, labels_B if config.labels == "use" and same_classes else None

    result = made_elastic(start, shown(), config.rebase, device)
    # Rounding may differ between processes, and all have to start from the same weights.
    return replace(result, state={name: world.first(tensor) for name, tensor in result.state.items()})
