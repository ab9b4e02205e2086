"""Everything that a training run needs to know; a run is reproducible from it."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from hydra_export.architecture import HydraConfig, check_heads
from hydra_export.errors import BadInput
from hydra_export.preprocess import Preprocessing


class Augmentation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How training images are varied, each by its own draws.

    Attributes:
        flip: probability of a left-right flip.
        shift: largest move in pixels, up, down, left and right; black comes in from the border.
        erase: probability that a rectangle is replaced by the mean colour (random erasing, arXiv 1708.04896).
        erase_area: smallest and largest share of the image that is erased.
    """

    flip: float = 0.5
    shift: int = 0
    erase: float = 0.0
    erase_area: tuple[float, float] = (0.02, 0.2)

    def __post_init__(self) -> None:
        for name in ("flip", "erase"):
            _check(name, getattr(self, name), 0, 1)
        _check("shift", self.shift, 0, 1024)
        low, high = self.erase_area
        if not 0 < low <= high < 1:
            raise BadInput(f"Erased areas are {self.erase_area}.", "Give two shares in (0, 1), the smaller first.")


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One training run.

    Attributes:
        dataset: a name of train/data.py.
        trained_heads: the head counts that steps draw from.
        export_heads: what an export takes by default, as far as it was trained.
        name, license: of the checkpoint that the run makes.
        sampling: a name of train/sampling.py.
        lr: peak learning rate of AdamW, reached after ``warmup`` (a share of the steps), then cosine to ``lr_min``.
        clip: largest gradient norm.
        drop_path: timm's stochastic depth rate at the last block.
        ema_decay: of timm's ModelEmaV3, warmed up; which weights are kept is ``keep``.
        stored: precision of the weights in the final checkpoint, whose accuracy is measured after rounding.
        monitor_images: test images that the accuracy shown on the way is measured on; nothing is chosen by it.
    """

    recipe: str
    dataset: str
    model: HydraConfig
    preprocessing: Preprocessing
    trained_heads: tuple[int, ...]
    export_heads: tuple[int, ...]
    steps: int
    name: str
    license: str = ""
    sampling: str = "uniform"
    batch_size: int = 128
    lr: float = 1e-3
    lr_min: float = 1e-6
    warmup: float = 0.05
    weight_decay: float = 0.05
    clip: float = 1.0
    label_smoothing: float = 0.0
    drop_path: float = 0.0
    augmentation: Augmentation = msgspec.field(default_factory=Augmentation)
    ema_decay: float = 0.999
    keep: Literal["ema", "raw"] = "ema"
    stored: Literal["float32", "float16"] = "float32"
    seed: int = 0
    log_every: int = 50
    save_every: int = 500
    monitor_every: int = 500
    monitor_images: int = 2000

    def __post_init__(self) -> None:
        check_heads(self.trained_heads, self.model.heads)
        _check("steps", self.steps, 1, 10**9)
        _check("batch size", self.batch_size, 1, 10**6)
        _check("learning rate", self.lr, 1e-12, 1e3)
        _check("lowest learning rate", self.lr_min, 0, self.lr)
        _check("warm-up", self.warmup, 0, 1)
        _check("weight decay", self.weight_decay, 0, 1e3)
        _check("gradient clipping", self.clip, 1e-12, 1e12)
        _check("seed", self.seed, 0, 2**63 - 1)
        for name in ("label_smoothing", "drop_path", "ema_decay"):
            _check(name, getattr(self, name), 0, 1)
        for name in ("log_every", "save_every", "monitor_every", "monitor_images"):
            _check(name, getattr(self, name), 1, 10**9)


def _check(name: str, value: float, smallest: float, largest: float) -> None:
    if not (math.isfinite(value) and smallest <= value <= largest):
        raise BadInput(f"The {name} of a training run is {value}.", f"Give {smallest:g} to {largest:g}.")
