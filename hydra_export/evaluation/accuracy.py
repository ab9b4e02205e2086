"""Top-1 and top-5 accuracy per subnetwork; several processes count each image once."""

# B batch, H height, W width, C channels, n images, K classes
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hydra_export.data.datasets import Images
from hydra_export.errors import BadData
from hydra_export.evaluation.preprocessed import batches, spread
from hydra_export.model import HydraViT
from hydra_export.preprocess import Preprocessing


@dataclass(frozen=True)
class Accuracy:
    """Percent of *num_images* images whose label is the largest logit, or among the five largest."""

    top1: float
    top5: float
    num_images: int


def accuracy(
    model: HydraViT,
    preprocessing: Preprocessing,
    images: Images,
    heads: Iterable[int],
    *,
    rank: int = 0,
    num_processes: int = 1,
    total: Callable[[Sequence[float]], Sequence[float]] = tuple,
    limit: int | None = None,
    classes: Sequence[int] | None = None,
    batch_size: int = 500,
    workers: int = 0,
    progress: Callable[[int, Mapping[int, float]], None] = lambda _num_images, _top1: None,
) -> dict[int, Accuracy]:
    """Accuracy per head count on *images*; those that cannot be read are left out, as ``num_images`` shows.

    Args:
        model: in eval mode.
        rank, num_processes: this process counts its own share of the images.
        total: adds up the counts of all processes.
        limit: at most so many images, evenly over all.
        classes: logits that may be chosen, where the images are of some of the model's classes alone.
        progress: called after each batch with the images of this process so far, and the percent of them that are
            correct per head count.

    Raises:
        BadData: none can be read.
    """
    assert not model.training
    heads, first = tuple(heads), model.patch_embed.proj.weight
    device, dtype = first.device, first.dtype
    indices = spread(len(images), limit)[rank::num_processes]
    class_indices = None if classes is None else torch.as_tensor(classes, device=device)
    counts = np.zeros((len(heads), 2), np.int64)
    num_images = 0
    for pixels_BHWC, labels in batches(images, indices, preprocessing, batch_size, workers):
        image_BCHW = torch.from_numpy(preprocessing.normalise(pixels_BHWC)).to(device, dtype)
        labels_B = torch.from_numpy(labels).to(device)
        num_images += len(labels)
        for row, k in enumerate(heads):
            counts[row] += _right(model, image_BCHW, labels_B, k, class_indices)
        progress(num_images, dict(zip(heads, (100 * counts[:, 0] / num_images).tolist(), strict=True)))
    num_images, *right = map(int, total([num_images, *counts.ravel().tolist()]))
    if not num_images:
        raise BadData("None of the images can be read.", "Pass images that Pillow can open.")
    percent = np.round(100 * np.asarray(right).reshape(-1, 2) / num_images, 2)
    return {k: Accuracy(float(one), float(five), num_images) for k, (one, five) in zip(heads, percent, strict=True)}


@torch.inference_mode()
def _right(
    model: HydraViT, image_BCHW: torch.Tensor, labels_B: torch.Tensor, heads: int, class_indices: torch.Tensor | None
) -> tuple[int, int]:
    logits_BK = model(image_BCHW, heads)
    if class_indices is not None:
        others = torch.full_like(logits_BK, -torch.inf)
        logits_BK = others.index_copy(1, class_indices, logits_BK[:, class_indices])
    hits_B5 = logits_BK.topk(min(5, logits_BK.shape[1])).indices == labels_B[:, None]
    return int(hits_B5[:, 0].sum()), int(hits_B5.sum())
