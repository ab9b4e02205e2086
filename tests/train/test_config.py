"""Recipes, and overrides of their fields by name."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from timm.scheduler.scheduler_factory import create_scheduler_v2

from hydra_export import checkpoint
from hydra_export.architecture import HydraConfig
from hydra_export.data.datasets import Dataset, Images, Split, digits
from hydra_export.errors import BadInput, UnknownName
from hydra_export.preprocess import IMAGENET_MEAN
from hydra_export.train import dataset, initial, loop, recipes
from hydra_export.train.command import command
from hydra_export.train.config import overridden
from hydra_export.train.distributed import World

PAPER_K = tuple(range(3, 13))


def test_imagenet_base_is_the_authors_training_value_by_value() -> None:
    config = recipes.imagenet_base()
    model = config.model
    assert (model.heads, model.head_dim, model.depth, model.patch_size, model.num_classes) == (12, 64, 12, 16, 1000)
    assert (config.preprocessing.image_size, config.preprocessing.interpolation) == (224, "bicubic")
    assert (config.trained_heads, config.sampling, config.seed) == (PAPER_K, "per-rank", 42)
    assert (config.preprocessing.mean, config.preprocessing.crop) == (IMAGENET_MEAN, 0.875)
    assert (config.scheme, config.active_slices) == ("hydravit", False)
    assert config.batch_size == 2 * 512
    assert config.epochs == 300 + 10
    assert config.warmup * config.epochs == pytest.approx(5)
    assert config.cooldown * config.epochs == pytest.approx(10)
    assert (config.optimizer, config.weight_decay, config.clip) == ("adamw", 0.05, None)
    assert config.lr == 5e-4 * config.batch_size / 512
    assert (config.lr_min, config.lr_warmup) == (1e-5, 1e-6)
    how = config.augmentation
    assert (how.auto_augment, how.mixup, how.cutmix, how.mix_switch) == ("rand-m9-mstd0.5-inc1", 0.8, 1.0, 0.5)
    assert (how.erase, how.erase_mode, how.color_jitter) == (0.25, "pixel", 0.3)
    assert (config.label_smoothing, config.drop_path) == (0.1, 0.1)
    assert (config.ema_decay, config.ema_warmup, config.kept_weights) == (0.99996, False, "ema")
    assert (config.precision, config.distill) == ("float32", "")
    assert (config.tf32, config.cudnn_benchmark) == (True, True)


def test_imagenet_base_has_the_authors_steps_and_learning_rates() -> None:
    """Of timm's schedule with the arguments of the authors, stepped per epoch as their train.py steps it."""
    n = 1_281_167
    images = Split(np.zeros((n, 1, 1, 1), np.uint8), np.zeros(n, np.int64))
    data = Dataset[Images]("ImageNet", "", tuple(map(str, range(1000))), images, images)
    config = dataset.resolved(recipes.imagenet_base(), data, None)[0]
    assert config.steps == 310 * 1251 == 387_810
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=5e-4 * 1024 / 512)
    schedule, epochs = create_scheduler_v2(
        theirs, "cosine", num_epochs=300, warmup_epochs=5, warmup_lr=1e-6, min_lr=1e-5, cooldown_epochs=10
    )
    tiny = HydraConfig(heads=12, head_dim=2, depth=1, patch_size=16, image_size=16, num_classes=1)
    alone = World(0, 1, torch.device("cpu"))
    small = msgspec.structs.replace(config, model=tiny)
    made = loop.Trainer(small, initial.model(small, None, False), None, alone)  # type: ignore[arg-type]
    assert schedule is not None
    assert epochs == 310
    for epoch in range(310):
        schedule.step(epoch)
        for step in (epoch * 1251, epoch * 1251 + 1250):
            made.step = step
            made.set_lr()
            assert made.lr == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-9)


@pytest.mark.parametrize(("batch_size", "steps"), [(64, 2 * 22), (1437, 2), (5000, 2)])
def test_an_epoch_has_as_many_steps_as_whole_batches_and_at_least_one(batch_size: int, steps: int) -> None:
    asked = overridden(recipes.digits(), {"steps": 0, "epochs": 2, "batch_size": batch_size})
    assert len(digits().train) == 1437 == 22 * 64 + 29
    assert dataset.resolved(asked, digits(), None)[0].steps == steps


def test_a_learning_rate_per_epoch_needs_epochs() -> None:
    with pytest.raises(BadInput, match=r"lr_per_epoch is set, but epochs is 0"):
        overridden(recipes.digits(), {"lr_per_epoch": True})


def test_finetune_takes_architecture_and_head_counts_from_the_checkpoint(tiny_checkpoint: Path) -> None:
    config, info = recipes.finetune(str(tiny_checkpoint)), checkpoint.load(tiny_checkpoint).info
    assert (config.model, config.preprocessing) == (info.config, info.preprocessing)
    assert (config.trained_heads, config.export_heads) == (info.trained_heads, info.export_heads)
    assert recipes.finetune().name == "hydravit-fashion-mnist-finetuned"


def test_names_of_recipes_may_be_written_with_underscores() -> None:
    assert recipes.get("imagenet_base") == recipes.imagenet_base()


def test_every_field_can_be_overridden_by_text() -> None:
    changed = overridden(
        recipes.digits(),
        {
            "augmentation.mixup": "0.8",
            "augmentation.erase-area": "0.1,0.2",
            "model.depth": "2",
            "clip": "none",
            "compile": "true",
            "weights": "1",
            "sampling": "sandwich",
            "name": "123",
            "preprocessing.mean": "[0.5]",
        },
    )
    assert (changed.augmentation.mixup, changed.augmentation.erase_area) == (0.8, (0.1, 0.2))
    assert (changed.model.depth, changed.clip, changed.compile, changed.weights) == (2, None, True, (1.0,))
    assert (changed.sampling, changed.name, changed.preprocessing.mean) == ("sandwich", "123", (0.5,))


def test_another_image_size_of_the_model_is_one_of_its_images_too() -> None:
    assert overridden(recipes.digits(), {"model.image_size": "16"}).preprocessing.image_size == 16


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"augmentation.mixpu": "1"}, r"'augmentation.mixpu'.*'augmentation.mixup'"),
        ({"model": "3"}, "cannot take model=3"),
        ({"steps": "many"}, "steps=many"),
        ({"kept_weights": "best"}, r"kept_weights=best: .* Use one of ema, raw\."),
        ({"precision": "fp16", "seed": "1"}, r"take precision=fp16: .* float32, bfloat16, float16, float64\."),
        ({"augmentation.erase-mode": "x"}, r"Use one of const, pixel\."),
        ({"batch_size": "0"}, "`batch_size` of a training run is 0"),
        ({"augmentation.mixup": "-1"}, r"`augmentation.mixup` of a training run is -1"),
        ({"ema_decay": "1"}, "ema_decay is 1: the moving average never moves"),
        ({"augmentation.auto_augment": "rand-m9"}, "belong to timm's transforms"),
        ({"model.separate_classifiers": "[2]"}, r"Head counts \[1, 3, 4, 5, 6\]"),
        ({"trained_heads": "[6, 3]"}, "ascending"),
        ({"kept_weights": "ema", "ema_decay": "0"}, "there is no moving average"),
    ],
)
def test_overrides_that_cannot_be_are_refused(values: dict[str, str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        overridden(recipes.digits(), values)


def test_an_unknown_field_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'drop_path'"):
        overridden(recipes.digits(), {"drop_pth": "0.1"})


def test_the_command_of_a_run_repeats_it() -> None:
    changed = overridden(recipes.digits(), {"augmentation.shift": "2", "lr": "0.5", "clip": "none", "steps": "7"})
    words = command(changed).split()
    assert words[:7] == ["hydra-export", "train", "--recipe", "digits", "--out", "RUN", "--seed"]
    given = dict(pair.split("=") for pair in words if "=" in pair)
    given |= {"lr": words[words.index("--lr") + 1], "steps": words[words.index("--steps") + 1]}
    assert overridden(recipes.digits(), given) == changed
