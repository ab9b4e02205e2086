"""What a model says of images at each head count, as it is calibrated by."""

# n images, H height, W width, C channels, K classes, B batch
from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from hydra_export.arrays import Array, Pixels
from hydra_export.model import HydraViT
from hydra_export.preprocess import Preprocessing

_BATCH = 128


@torch.inference_mode()
def logits(
    model: HydraViT, preprocessing: Preprocessing, pixels_nHWC: Pixels, heads: Iterable[int]
) -> dict[int, Array]:
    """float32 [n, K] by head count, of fitted images uint8 [n, H, W, C]; *model* is in eval mode."""
    assert not model.training
    found: dict[int, list[Array]] = {k: [] for k in heads}
    for start in range(0, len(pixels_nHWC), _BATCH):
        image_BCHW = torch.from_numpy(preprocessing.normalise(pixels_nHWC[start : start + _BATCH]))
        for k, pieces in found.items():
            pieces.append(model(image_BCHW, k).numpy())
    return {k: np.concatenate(pieces) for k, pieces in found.items()}
