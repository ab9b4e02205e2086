"""Distillation: a callable that gives the logits which the subnetworks of a step learn beside the labels."""

# B batch, K classes
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hydra_export import checkpoint
from hydra_export.checkpoint import Checkpoint
from hydra_export.data.classes import IMAGENET_CLASSES, imagenet_synsets, named, plain
from hydra_export.errors import BadInput
from hydra_export.model import HydraViT
from hydra_export.preprocess import Preprocessing
from hydra_export.train.config import TrainConfig

Teacher = Callable[[Tensor, Mapping[int, Tensor]], Tensor]
"""From images [B, C, H, W] and the logits per head count that the step has so far, larger first, to logits [B, K]."""


def get(
    config: TrainConfig,
    model: HydraViT,
    device: torch.device,
    label_names: Sequence[str] = (),
    start: Checkpoint | None = None,
) -> Teacher | None:
    """The teacher that *config* names, if any, with its logits in the order of *label_names*, the model's classes.

    *start* is the checkpoint that the run starts from, which may be the teacher.

    Raises:
        BadInput: it has other classes than the model, or cannot be made.
    """
    if not config.distill:
        return None
    if config.distill == "largest":
        return _largest(model, config.trained_heads[-1])
    if config.distill.startswith("timm:"):
        return _timm(config, device, label_names)
    if config.distill == "self":
        assert start is not None
        return _other(start.model.to(device), config.preprocessing, start.info.preprocessing)
    teacher = checkpoint.load(config.distill)
    _check_classes(config, teacher.info.config.num_classes)
    order = _order(config, teacher.info.labels, label_names)
    taught = _other(teacher.model.to(device), config.preprocessing, teacher.info.preprocessing)
    return taught if order is None else lambda images_BCHW, logits: taught(images_BCHW, logits)[:, order]


def loss(outputs_BK: Tensor, teacher_BK: Tensor, config: TrainConfig) -> Tensor:
    """How far the outputs of a subnetwork are from the teacher's.

    Of logits the Kullback-Leibler divergence from the teacher's softened probabilities (arXiv 1503.02531), times
    temperature^2; of features the mean square of their difference over the variance of the teacher's.
    """
    if not config.model.num_classes:
        return F.mse_loss(outputs_BK, teacher_BK) / teacher_BK.var()
    temperature = config.distill_temperature
    student, teacher = (F.log_softmax(logits / temperature, dim=1) for logits in (outputs_BK, teacher_BK))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def _largest(model: HydraViT, heads: int) -> Teacher:
    def teach(images_BCHW: Tensor, logits: Mapping[int, Tensor]) -> Tensor:
        if heads in logits:
            return logits[heads].detach()
        with torch.no_grad():
            taught: Tensor = model(images_BCHW, heads)
        return taught

    return teach


def _timm(config: TrainConfig, device: torch.device, label_names: Sequence[str]) -> Teacher:
    import timm

    name = config.distill.removeprefix("timm:")
    try:
        teacher = timm.create_model(name, pretrained=True).eval().to(device)
    except (RuntimeError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"The teacher {name} cannot be loaded: {reason}.", "Pass another, or a file.") from error
    num_classes = int(timm.models.get_pretrained_cfg_value(name, "num_classes") or 0)
    _check_classes(config, num_classes)
    if num_classes == IMAGENET_CLASSES and not imagenet_synsets(label_names):
        raise _other_classes(config, "ImageNet's", named(label_names))
    data: dict[str, Any] = timm.data.resolve_model_data_config(teacher)  # type: ignore[attr-defined, no-untyped-call]
    theirs = Preprocessing(image_size=tuple(data["input_size"][1:]), mean=tuple(data["mean"]), std=tuple(data["std"]))
    return _other(teacher, config.preprocessing, theirs)


def _other(teacher: torch.nn.Module, ours: Preprocessing, theirs: Preprocessing) -> Teacher:
    """*teacher* on the same images, normalised and sized as it expects."""

    def column(values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)

    @torch.no_grad()
    def teach(images_BCHW: Tensor, logits: Mapping[int, Tensor]) -> Tensor:
        pixels = images_BCHW * column(ours.std, images_BCHW) + column(ours.mean, images_BCHW)
        if theirs.channels < ours.channels:
            pixels = pixels.mean(1, keepdim=True)
        x = ((pixels - column(theirs.mean, pixels)) / column(theirs.std, pixels)).float()
        if theirs.image_shape != ours.image_shape:
            x = F.interpolate(x, theirs.image_shape, mode="bicubic", antialias=True)
        taught: Tensor = teacher(x)
        return taught

    return teach


def _order(config: TrainConfig, theirs: Sequence[str], ours: Sequence[str]) -> list[int] | None:
    """Which of the teacher's logits each class of the model is; None where all are the same, or have no names."""
    our_names, their_names = ([plain(name) for name in names] for names in (ours, theirs))
    if not our_names or not their_names or our_names == their_names:
        return None
    if sorted(our_names) != sorted(their_names) or len(set(their_names)) < len(their_names):
        raise _other_classes(config, named(theirs), named(ours))
    return [their_names.index(name) for name in our_names]


def _other_classes(config: TrainConfig, theirs: str, ours: str) -> BadInput:
    return BadInput(
        f"The teacher {config.distill} has other classes ({theirs}) than the data ({ours}).",
        "Pass a teacher with the same classes.",
    )


def _check_classes(config: TrainConfig, num_classes: int) -> None:
    if num_classes != config.model.num_classes:
        raise BadInput(
            f"The teacher {config.distill} has {num_classes} classes, but the model has {config.model.num_classes}.",
            "Pass a teacher with the same classes.",
        )
