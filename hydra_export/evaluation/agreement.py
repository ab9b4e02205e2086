"""How far subnetworks agree with a dense model, for images without labels."""

# B batch, C channels, H height, W width, K outputs
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hydra_export.data.datasets import Images
from hydra_export.errors import BadData
from hydra_export.evaluation.preprocessed import batches, spread
from hydra_export.model import HydraViT
from hydra_export.preprocess import Preprocessing


@torch.inference_mode()
def agreement(
    model: HydraViT,
    dense: Callable[[Tensor], Tensor],
    preprocessing: Preprocessing,
    images: Images,
    heads: Iterable[int],
    *,
    rank: int = 0,
    num_processes: int = 1,
    total: Callable[[Sequence[float]], Sequence[float]] = tuple,
    limit: int | None = None,
    batch_size: int = 500,
    workers: int = 0,
) -> tuple[dict[int, float], int]:
    """Percent per head count, and of how many images.

    Of models with classes: how many images have the same largest logit as *dense* gives them, which takes the same
    normalised images [B, C, H, W]. Of features: 100 times their mean cosine. The other arguments are ``accuracy``'s.

    Raises:
        BadData: none can be read.
    """
    assert not model.training
    heads, first = tuple(heads), model.patch_embed.proj.weight
    of_classes = model.config.num_classes > 0
    sums, num_images = np.zeros(len(heads)), 0
    for pixels_BHWC, _ in batches(
        images, spread(len(images), limit)[rank::num_processes], preprocessing, batch_size, workers
    ):
        image_BCHW = torch.from_numpy(preprocessing.normalise(pixels_BHWC)).to(first.device, first.dtype)
        expected_BK = dense(image_BCHW)
        num_images += len(pixels_BHWC)
        for row, k in enumerate(heads):
            outputs_BK = model(image_BCHW, k)
            if of_classes:
                sums[row] += int((outputs_BK.argmax(1) == expected_BK.argmax(1)).sum())
            else:
                sums[row] += float(F.cosine_similarity(outputs_BK.double(), expected_BK.double()).sum())
    count, *summed = total([num_images, *sums.tolist()])
    if not count:
        raise BadData("None of the images can be read.", "Pass images that Pillow can open.")
    return {k: round(100 * value / count, 2) for k, value in zip(heads, summed, strict=True)}, int(count)
