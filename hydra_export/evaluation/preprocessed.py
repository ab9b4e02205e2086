"""Images of a dataset as a model takes them, in batches, read by other processes where there are workers."""

# B batch, H height, W width, C channels
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from hydra_export.data.datasets import Images, Split, num_readers
from hydra_export.errors import BadData
from hydra_export.preprocess import Preprocessing

Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]


def spread(count: int, limit: int | None) -> NDArray[np.int64]:
    """The numbers of at most *limit* of *count* images, evenly over all."""
    taken = min(count, limit or count)
    return np.arange(taken) * count // taken


def batches(
    images: Images, indices: NDArray[np.int64], preprocessing: Preprocessing, batch_size: int, workers: int
) -> Iterator[Batch]:
    """Some *images*, fitted to a model: pixels uint8 [B, H, W, C] and labels; unreadable ones are left out."""
    if isinstance(images, Split):
        split = images.fitted(preprocessing) if _differs(images, preprocessing) else images
        for start in range(0, len(indices), batch_size):
            chosen = indices[start : start + batch_size]
            yield split.pixels[chosen], split.labels[chosen]
        return
    loader = DataLoader(
        _PreprocessedImages(images, indices, preprocessing),
        batch_size,
        num_workers=num_readers(workers),
        collate_fn=_collate,
    )
    yield from (batch for batch in loader if len(batch[1]))


def _differs(split: Split, preprocessing: Preprocessing) -> bool:
    return split.pixels.shape[1:] != (*preprocessing.image_shape, preprocessing.channels)


@dataclass(frozen=True)
class _PreprocessedImages(Dataset[tuple[NDArray[np.uint8], int] | None]):
    images: Images
    indices: NDArray[np.int64]
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[NDArray[np.uint8], int] | None:
        try:
            picture, label = self.images.read(int(self.indices[position]))
        except BadData:
            return None
        return self.preprocessing.fit(picture), label


def _collate(samples: Sequence[tuple[NDArray[np.uint8], int] | None]) -> Batch:
    readable = [sample for sample in samples if sample is not None]
    pixels = np.stack([pixels for pixels, _ in readable]) if readable else np.empty(0, np.uint8)
    return pixels, np.asarray([label for _, label in readable], np.int64)
