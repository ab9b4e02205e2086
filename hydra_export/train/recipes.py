"""Recipes: functions that return the whole configuration of a run."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from hydra_export import checkpoint
from hydra_export.architecture import HydraConfig
from hydra_export.elastic.checkpoints import check_dense
from hydra_export.elastic.rebasing import rebased_config
from hydra_export.errors import BadInput, UnknownName
from hydra_export.preprocess import Preprocessing, hydravit
from hydra_export.train.config import Augmentation, TrainConfig


def fashion_mnist() -> TrainConfig:
    """Twelve heads of 16 channels on the 60,000 training images of Fashion-MNIST; made the packaged model.

    hydra-export train --recipe fashion-mnist --out RUN

    30 passes over the images in 52 minutes on one CPU core. Top-1 on the 10,000 test images:
    k=1 81.1 %, k=3 87.7 %, k=6 89.7 %, k=9 90.1 %, k=12 90.1 %.
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
        steps=28_000,
        batch_size=64,
        lr=1e-3,
        active_slices=False,
        label_smoothing=0.05,
        augmentation=Augmentation(flip=0.5, shift=1, erase=0.1, erase_area=(0.02, 0.15), mixup=0.2),
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
        active_slices=False,
        augmentation=Augmentation(flip=0.0, shift=1),
        monitor_images=360,
    )


def imagenet_base() -> TrainConfig:
    """The paper's model and training on ImageNet-1K: k = 3, 6, 12 are DeiT-tiny, -small and -base.

    torchrun --nproc-per-node 2 -m -- hydra_export.train --recipe imagenet-base --data IMAGENET --out RUN

    HydraViT (NeurIPS 2024, arXiv 2409.17978), the arguments of its official code (github.com/ds-kiel/HydraViT at
    45a78ae): 300 epochs and 10 of cooldown, 512 images on each of 2 GPUs, no mixed precision. Each process draws a k of
    its own; one process alone draws uniformly. docs/training.md compares value by value. Published top-1: k=3 73.0 %,
    k=6 78.4 % (arXiv 2605.22677). Not run here. ``--start deit-tiny.pth`` starts from DeiT-tiny, which the paper found
    best on average over k.
    """
    epochs, warmup, cooldown = 310, 5, 10
    return TrainConfig(
        recipe="imagenet-base",
        name="hydravit-base",
        dataset="folder",
        model=HydraConfig(heads=12),
        preprocessing=hydravit(224),
        trained_heads=tuple(range(3, 13)),
        export_heads=(3, 6, 12),
        epochs=epochs,
        scheme="hydravit",
        sampling="per-rank",
        batch_size=1024,
        workers=8,
        lr=1e-3,
        active_slices=False,
        lr_min=1e-5,
        lr_warmup=1e-6,
        lr_per_epoch=True,
        warmup=warmup / epochs,
        cooldown=cooldown / epochs,
        weight_decay=0.05,
        clip=None,
        label_smoothing=0.1,
        drop_path=0.1,
        augmentation=Augmentation(
            flip=0.5,
            crop=(0.08, 1.0),
            auto_augment="rand-m9-mstd0.5-inc1",
            color_jitter=0.3,
            erase=0.25,
            erase_mode="pixel",
            mixup=0.8,
            cutmix=1.0,
            mix_switch=0.5,
        ),
        ema_decay=0.99996,
        ema_warmup=False,
        cudnn_benchmark=True,
        seed=42,
        log_every=100,
        save_every=1250,
        monitor_every=5000,
    )


def imagenet_small() -> TrainConfig:
    """Six heads of 64 on ImageNet-1K: k = 3 and 6 are DeiT-tiny and -small, at a quarter of the cost.

    torchrun --nproc-per-node 8 -m -- hydra_export.train --recipe imagenet-small --data IMAGENET --out RUN

    The paper's recipe with bfloat16 arithmetic, 100 epochs, the optimiser over active slices, and one k for all
    processes, so that none waits for another with a larger one. Not run here.
    """
    base, epochs = imagenet_base(), 100
    return msgspec.structs.replace(
        base,
        recipe="imagenet-small",
        name="hydravit-small",
        model=HydraConfig(heads=6),
        trained_heads=(2, 3, 4, 5, 6),
        export_heads=(3, 6),
        epochs=epochs,
        warmup=5 / epochs,
        cooldown=0.0,
        sampling="uniform",
        active_slices=True,
        precision="bfloat16",
    )


def finetune(start: str = "", head_dim: int | None = None) -> TrainConfig:
    """Any image folder, from any checkpoint (the packaged model by default): what most users run.

    hydra-export train --recipe finetune --start CHECKPOINT --data FOLDER --out RUN

    Architecture (but for *head_dim*, where it does not say), preprocessing and head counts are the checkpoint's; the
    classes are the folder's, and where they differ the classifier starts from zero. A plain ViT is put into another
    basis first, as in ``elastic``. Five passes; images of 64 pixels and more are cropped and jittered.
    """
    info = checkpoint.load(start or None, head_dim=head_dim).info
    large = min(info.config.image_shape) >= 64
    plain = info.config.is_plain(info.trained_heads)
    known, rebases = () if plain else info.trained_heads, plain and info.config.pooling != "none"
    trained = known or tuple(range(1, info.config.heads + 1))
    return TrainConfig(
        recipe="finetune",
        name=f"{info.name}-finetuned",
        license=info.license,
        dataset="folder",
        classes="data",
        start=start or "packaged",
        rebase="rotate" if rebases else "none",
        model=rebased_config(info.config) if rebases else info.config,
        preprocessing=info.preprocessing,
        trained_heads=trained,
        export_heads=info.export_heads or trained,
        epochs=5,
        batch_size=64,
        workers=4 if large else 0,
        lr=2e-4,
        warmup=0.1,
        layer_decay=0.9,
        label_smoothing=0.1 if large else 0.0,
        drop_path=0.1 if large else 0.0,
        augmentation=Augmentation(crop=(0.3, 1.0), color_jitter=0.3) if large else Augmentation(),
        ema_decay=0.998,
        save_every=250,
        monitor_every=250,
    )


def elastic(start: str = "", head_dim: int | None = None) -> TrainConfig:
    """A universal model from any dense ViT: what those run who have a fine-tuned one, and some photographs.

    hydra-export train --recipe elastic --start CHECKPOINT --data FOLDER --out RUN

    Channels are rotated, heads and hidden units sorted by how much they matter, which keeps the full width's function;
    then every head count is trained on the images, and on what the dense model makes of them. Images without classes,
    or a model without, are enough: then the dense model alone teaches. 2,000 steps.
    """
    if not start:
        raise BadInput("Recipe elastic needs a dense ViT to start from.", "Pass it as `start`.")
    dense = checkpoint.load(start, head_dim=head_dim)
    check_dense(dense)
    info = dense.info
    heads, large = info.config.heads, min(info.config.image_shape) >= 64
    return TrainConfig(
        recipe="elastic",
        name=f"{info.name}-elastic",
        license=info.license,
        dataset="folder",
        start=start,
        rebase="rotate",
        labels="auto",
        distill="self",
        model=rebased_config(info.config),
        preprocessing=info.preprocessing,
        trained_heads=tuple(range(1, heads + 1)),
        export_heads=tuple(sorted({max(1, heads // 4), max(1, heads // 2), heads})),
        steps=2_000,
        batch_size=64,
        workers=4 if large else 0,
        lr=1e-3 * (96 / info.config.width(heads)) ** 0.5,
        augmentation=Augmentation(crop=(0.3, 1.0), color_jitter=0.3) if large else Augmentation(),
        ema_decay=0.998,
        save_every=250,
        monitor_every=250,
    )


_STARTED: dict[str, Callable[[str, int | None], TrainConfig]] = {"elastic": elastic, "finetune": finetune}
_RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "imagenet-base": imagenet_base,
    "imagenet-small": imagenet_small,
}


def names() -> tuple[str, ...]:
    """All recipes."""
    return tuple(sorted((*_RECIPES, *_STARTED)))


def get(name: str, start: str = "", head_dim: int | None = None) -> TrainConfig:
    """The configuration of recipe *name*, from the checkpoint *start* where one is given.

    *head_dim* is that of a *start* which does not say, for ``elastic`` and ``finetune``.

    Raises:
        UnknownName: with the nearest recipe.
        BadCheckpoint: *start* cannot be read.
    """
    name = name.replace("_", "-")
    if name in _STARTED:
        return _STARTED[name](start, head_dim)
    if name not in _RECIPES:
        raise UnknownName("recipe", name, names())
    return msgspec.structs.replace(_RECIPES[name](), start=start)
