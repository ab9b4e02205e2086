"""What is done to a whole batch, in the order of timm's loader: mixed as bytes, normalised, erased."""

# B batch, H height, W width, C channels, K classes
from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data.mixup import FastCollateMixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from hydra_export.preprocess import Preprocessing
from hydra_export.train.config import TrainConfig

Place = tuple[int, int]  # epoch and image


@dataclass(frozen=True)
class Finish:
    """Bytes and labels as what a step takes; draws are functions of *seed* and the images' places.

    Attributes:
        labelled: whether labels are learned; otherwise they may be of any classes, and are all 0.
        mixup: Mixup and CutMix, which draw once per batch, by the place of its first image; None for neither.
        erasing: of each image by its own draws, after they are mixed; None for none, or where it is done before.
    """

    preprocessing: Preprocessing
    seed: int = 0
    labelled: bool = True
    mixup: FastCollateMixup | None = None
    erasing: RandomErasing | None = None

    @classmethod
    def of(cls, config: TrainConfig) -> Finish:
        """What *config* asks for."""
        how, mixup, erasing = config.augmentation, None, None
        labelled = config.labels == "use"
        if how.mixup or how.cutmix:
            mixup = FastCollateMixup(  # type: ignore[no-untyped-call]
                how.mixup,
                how.cutmix,
                prob=how.mix,
                switch_prob=how.mix_switch,
                label_smoothing=0.0,  # the loss does that
                num_classes=config.model.num_classes if labelled else 1,
            )
        if how.crop is not None and how.erase:
            erasing = RandomErasing(how.erase, mode=how.erase_mode, device="cpu")  # type: ignore[no-untyped-call]
        return cls(config.preprocessing, config.seed, labelled, mixup, erasing)

    def __call__(
        self, pixels_BHWC: NDArray[np.uint8], labels_B: NDArray[np.int64], places: Sequence[Place]
    ) -> tuple[Tensor, Tensor]:
        """Images float32 [B, C, H, W], and labels int64 [B] or, where they are mixed, float32 [B, K]."""
        labels_B = labels_B if self.labelled else np.zeros_like(labels_B)
        labels = torch.from_numpy(labels_B)
        if self.mixup is not None:
            epoch, image = places[0]
            samples = list(zip(pixels_BHWC.transpose(0, 3, 1, 2), labels_B.tolist(), strict=True))
            with seeded(self.seed, epoch, 3, image):
                mixed_BCHW, labels = self.mixup(samples)
            pixels_BHWC = mixed_BCHW.permute(0, 2, 3, 1).numpy()
        images_BCHW = torch.from_numpy(self.preprocessing.normalise(pixels_BHWC))
        if self.erasing is not None:
            for image_CHW, (epoch, image) in zip(images_BCHW, places, strict=True):
                with seeded(self.seed, epoch, 2, image):
                    self.erasing(image_CHW)
        return images_BCHW, labels


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """The global generators, from which timm's transforms draw, started from *numbers* and put back afterwards."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    one, two, three = (int(seed) for seed in np.random.SeedSequence(numbers).generate_state(3))
    random.seed(one)
    np.random.seed(two)  # noqa: NPY002
    torch.default_generator.manual_seed(three)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])
