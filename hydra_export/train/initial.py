"""The first weights of a run: random, or a checkpoint's, which may be smaller, of other classes or another size."""

# D width of the source's largest subnetwork that fits
from __future__ import annotations

import contextlib

import torch
from timm.layers import trunc_normal_  # type: ignore[attr-defined]

from hydra_export import checkpoint
from hydra_export.adapted import resampled
from hydra_export.architecture import HydraConfig
from hydra_export.checkpoint import Checkpoint
from hydra_export.checkpoint_file import CheckpointInfo
from hydra_export.data.datasets import Dataset, Images
from hydra_export.data.images import is_coloured
from hydra_export.elastic import rebasing
from hydra_export.errors import BadData, BadInput
from hydra_export.model import HydraViT
from hydra_export.train.config import TrainConfig

_LOOKED_AT = 8  # images of a dataset, to see what they are like
# Of two configurations; positions are resampled, other classes start anew, also behind what a projection took, and
# whether both have LayerScale is asked.
_MAY_DIFFER = {"heads", "image_size", "num_classes", "separate_classifiers", "layer_scale"}
_TOKENS = ("cls_token", "dist_token", "reg_token", "pos_embed", "attn_pool.latent")


def source(config: TrainConfig) -> Checkpoint | None:
    """The checkpoint that *config* starts from, if any.

    Raises:
        BadCheckpoint: it cannot be read or is not supported.
        BadInput: its weights do not match the model.
    """
    if not config.start:
        return None
    path = None if config.start == "packaged" else config.start
    start = checkpoint.load(path, head_dim=config.model.head_dim)
    check(_to_fill_from(config, start.info.config), config.model, start.info.name)
    return start


def _to_fill_from(config: TrainConfig, start: HydraConfig) -> HydraConfig:
    return start if config.rebase == "none" else rebasing.rebased_config(start)


def check_suits(info: CheckpointInfo, dataset: Dataset[Images]) -> None:
    """Refuses images in colour for a grey model, and images of more than twice its size, by a few of them.

    Raises:
        BadInput: naming what they are and what the model takes.
    """
    shown = []
    for index in range(0, len(dataset.train), -(-len(dataset.train) // _LOOKED_AT)):
        with contextlib.suppress(BadData):
            shown.append(dataset.train.read(index)[0])
    if not shown:
        return
    size, grey = info.config.image_shape, info.config.channels == 1
    width, height = max((picture.size for picture in shown), key=min)
    in_colour = any(map(is_coloured, shown))
    if (height <= 2 * size[0] or width <= 2 * size[1]) and not (grey and in_colour):
        return
    raise BadInput(
        f"The images of {dataset.title} are {'in colour' if in_colour else 'grey'}, of {width}x{height} pixels, and "
        f"without `start` training would begin with {info.name}, which takes {'grey ones' if grey else 'ones'} of "
        f"{info.config.image_text}.",
        "Pass a `start` checkpoint for such images, or `start=packaged` to begin with it anyway.",
    )


def check(theirs: HydraConfig, ours: HydraConfig, name: str) -> None:
    """Refuses a checkpoint whose weights are of other shapes than head counts and classes account for."""
    may_differ = _MAY_DIFFER | {"projection"} if ours.num_classes else _MAY_DIFFER
    for field in (name for name in HydraConfig.__struct_fields__ if name not in may_differ):
        given, required = getattr(theirs, field), getattr(ours, field)
        if given != required:
            raise BadInput(
                f"{name} has {field} {given}, but the model to train has {required}.",
                f"Start from another checkpoint, or set model.{field} to {given}.",
            )
    if (theirs.layer_scale is None) != (ours.layer_scale is None):
        raise BadInput(f"Only one of {name} and the model to train has LayerScale.", "Set model.layer_scale.")


def model(config: TrainConfig, start: Checkpoint | None, same_classes: bool) -> HydraViT:
    """The universal model of *config* with its first weights; with *same_classes* the classifier is *start*'s too."""
    torch.manual_seed(config.seed)
    fresh = HydraViT(config.model, drop_path_rate=config.drop_path, weight_init="skip")
    randomise(fresh, config.scheme)
    if start is not None:
        fill(fresh, start.model, same_classes)
    return fresh


@torch.no_grad()
def randomise(model: HydraViT, scheme: str) -> None:
    """Random weights, zero biases.

    ``hydravit``: as the authors' code has it, see below.
    ``fan-in``: products normal of standard deviation 1 / sqrt(inputs), which small models and few steps need.
    ``timm``: 0.02 for all, and the patch embedding as torch makes it, as DeiT has it.
    """
    if scheme == "hydravit":
        _as_authors(model)
        return
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif name in _TOKENS:
            torch.nn.init.trunc_normal_(parameter, std=0.02)
        elif parameter.ndim > 1 and scheme == "fan-in":
            torch.nn.init.trunc_normal_(parameter, std=parameter[0].numel() ** -0.5)
        elif parameter.ndim == 2:
            trunc_normal_(parameter, std=0.02)
        elif parameter.ndim > 2:
            torch.nn.init.kaiming_uniform_(parameter, a=5**0.5)


def _as_authors(model: HydraViT) -> None:
    """Layers as torch makes them, uniform up to 1 / sqrt(inputs) with their biases, and a class token near zero.

    The authors' layers do not derive from torch's Linear, so timm's initialiser passes them by
    (github.com/ds-kiel/HydraViT at 45a78ae, timm/models/hydravit.py).
    """
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        weight = parameters.get(name.removesuffix("bias") + "weight", parameter)
        if name in _TOKENS and name.endswith("token"):
            torch.nn.init.normal_(parameter, std=1e-6)
        elif name in _TOKENS:
            trunc_normal_(parameter, std=0.02)
        elif parameter.ndim > 1:
            torch.nn.init.kaiming_uniform_(parameter, a=5**0.5)
        elif name.endswith("bias"):
            bound = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.0
            torch.nn.init.uniform_(parameter, -bound, bound)


@torch.no_grad()
def fill(model: HydraViT, start: HydraViT, same_classes: bool) -> None:
    """Copies *start* into the first heads and channels of *model*, as far as both reach.

    Positions are resampled for another image size. Other classes start from a classifier of zeros.
    """
    heads = min(model.config.heads, start.config.heads)
    mine, theirs = dict(model.named_parameters()), start.state_dict()
    for name, cut in model.cuts.items():
        if name.startswith(("head.", "head_dist.", "head_patches.")):
            mine[name].zero_()
            if not same_classes and not model.config.projection:
                continue
            k = min(cut.owner or heads, heads)
            given = theirs[f"{name.partition('.')[0]}{_owner(start.config, k)}.{name.rpartition('.')[2]}"]
            inputs = min(mine[name].shape[-1], given.shape[-1])
            mine[name][..., :inputs] = given[..., :inputs]
            continue
        given = theirs[name]
        if name == "pos_embed":
            given = resampled(given, start.config, model.config.grid)
        cut.first(mine[name], heads).copy_(cut.first(given, heads))


def _owner(config: HydraConfig, heads: int) -> str:
    """What the name of the classifier for *heads*, or of the next larger that has one, ends with."""
    listed = config.separate_classifiers
    return f".k{next((k for k in listed if k >= heads), listed[-1])}" if listed else ""
