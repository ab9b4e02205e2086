"""Recipes: functions that return the whole configuration of a run."""

from __future__ import annotations

from collections.abc import Callable

from hydra_export.architecture import HydraConfig
from hydra_export.errors import UnknownName
from hydra_export.preprocess import Preprocessing
from hydra_export.train.config import Augmentation, TrainConfig


def fashion_mnist() -> TrainConfig:
    """Twelve heads of 16 channels on the 60,000 training images of Fashion-MNIST; made the packaged model.

    hydra-export train --recipe fashion-mnist --out RUN

    17 passes over the images in 47 minutes on two busy CPU cores. Top-1 on the 10,000 test images:
    k=1 81.7 %, k=3 86.5 %, k=6 88.4 %, k=9 88.7 %, k=12 88.3 %.
    """
    return TrainConfig(
        recipe="fashion-mnist",
        name="hydravit-fashion-mnist",
        license="Apache-2.0",
        dataset="fashion-mnist",
        model=HydraConfig(heads=12, head_dim=16, depth=6, patch_size=7, image_size=28, channels=1, num_classes=10),
        # crop 1: images of 28 pixels are used as they are.
        preprocessing=Preprocessing(image_size=28, mean=(0.2860,), std=(0.3530,), crop=1.0),
        trained_heads=tuple(range(1, 13)),
        export_heads=(3, 6, 12),
        steps=16_000,
        batch_size=64,
        lr=1e-3,
        augmentation=Augmentation(flip=0.5, erase=0.1, erase_area=(0.02, 0.15)),
        ema_decay=0.998,
        save_every=250,
        stored="float16",
    )


def digits() -> TrainConfig:
    """Six heads of 8 channels on scikit-learn's 8x8 digits: nothing to download, to see the whole path work.

    hydra-export train --recipe digits --out RUN

    Half a minute on two quiet CPU cores. Top-1 on the 360 test images:
    k=1 76 %, k=2 88 %, k=4 91 %, k=6 92 %.
    """
    return TrainConfig(
        recipe="digits",
        name="hydravit-digits",
        license="Apache-2.0",
        dataset="digits",
        model=HydraConfig(heads=6, head_dim=8, depth=3, patch_size=4, image_size=8, channels=1, num_classes=10),
        preprocessing=Preprocessing(image_size=8, mean=(0.3053,), std=(0.3760,), crop=1.0),
        trained_heads=tuple(range(1, 7)),
        export_heads=(2, 4, 6),
        steps=1_500,
        batch_size=64,
        lr=5e-3,
        augmentation=Augmentation(flip=0.0, shift=1),
        monitor_images=360,
    )


_RECIPES: dict[str, Callable[[], TrainConfig]] = {"digits": digits, "fashion-mnist": fashion_mnist}


def names() -> tuple[str, ...]:
    """All recipes."""
    return tuple(_RECIPES)


def get(name: str) -> TrainConfig:
    """The configuration of recipe *name*.

    Raises:
        UnknownName: with the nearest recipe.
    """
    if name not in _RECIPES:
        raise UnknownName("recipe", name, _RECIPES)
    return _RECIPES[name]()
