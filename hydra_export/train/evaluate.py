"""Top-1 accuracy per subnetwork."""

# B batch, H height, W width, C channels, n images
from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from hydra_export.model import HydraViT
from hydra_export.preprocess import Preprocessing


@torch.inference_mode()
def top1(
    model: HydraViT,
    preprocessing: Preprocessing,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    heads: Iterable[int],
    batch_size: int = 500,
) -> dict[int, float]:
    """Percent of the images whose largest logit is their label, per head count.

    Args:
        model: in eval mode.
        pixels: uint8 [n, H, W, C], fitted but not normalised.
        labels: int64 [n].
    """
    assert not model.training
    device = model.cls_token.device
    heads = tuple(heads)
    correct = dict.fromkeys(heads, 0)
    for start in range(0, len(labels), batch_size):
        batch = slice(start, start + batch_size)
        images_BCHW = torch.from_numpy(preprocessing.normalise(pixels[batch])).to(device)
        labels_B = torch.from_numpy(labels[batch]).to(device)
        for k in heads:
            correct[k] += int((model(images_BCHW, k).argmax(1) == labels_B).sum())
    return {k: round(100 * number / len(labels), 2) for k, number in correct.items()}
