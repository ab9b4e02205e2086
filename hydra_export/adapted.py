"""A checkpoint at another image size, or with another output."""

# N tokens, E width of the universal model
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import msgspec
from timm.layers import resample_abs_pos_embed  # type: ignore[attr-defined]
from torch import Tensor

from hydra_export import network
from hydra_export.architecture import HydraConfig
from hydra_export.checkpoint_file import UNMEASURED, CheckpointInfo
from hydra_export.errors import BadInput, UnknownName
from hydra_export.image_size import as_size

Output = Literal["logits", "embedding", "tokens"]
OUTPUTS: tuple[Output, ...] = get_args(Output)


@dataclass(frozen=True)
class Adapted:
    """What became of a checkpoint.

    Attributes:
        notes: what was done that the user should see.
    """

    info: CheckpointInfo
    state: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()


def at_image_size(info: CheckpointInfo, state: Mapping[str, Tensor], image_shape: tuple[int, int]) -> Adapted:
    """The model for images of *image_shape*, height and width: its learned positions are resampled as timm does.

    Rotary positions are computed for the new grid. What is known of its accuracy is left out.

    Raises:
        BadInput: the patch size does not divide them.
    """
    old = info.config
    if image_shape == old.image_shape:
        return Adapted(info, state)
    _check_divides(image_shape, old.patch_size, info.name)
    config = msgspec.structs.replace(old, image_size=as_size(*image_shape))
    preprocessing = msgspec.structs.replace(info.preprocessing, image_size=config.image_size)
    note = f"{info.name} takes images of {config.image_text} instead of {old.image_text}: "
    if "pos_embed" in state:
        state = {**state, "pos_embed": resampled(state["pos_embed"], old, config.grid)}
        note += "its learned positions are resampled by bicubic interpolation, as timm does."
    else:
        note += "it has no learned positions to resample."
    if info.accuracy:
        note += " Its accuracy was measured at the old size and is left out."
    changed = {"config": config, "preprocessing": preprocessing, **UNMEASURED}
    return Adapted(msgspec.structs.replace(info, **changed), state, (note,))


def resampled(positions_1NE: Tensor, config: HydraConfig, grid: tuple[int, int]) -> Tensor:
    """The learned positions of a model of *config* for patches in *grid*, rows and columns; of others they are kept."""
    prefix = config.num_positions - config.num_patches
    resampled_1NE: Tensor = resample_abs_pos_embed(positions_1NE, list(grid), list(config.grid), prefix)
    return resampled_1NE


def with_output(info: CheckpointInfo, state: Mapping[str, Tensor], output: str) -> Adapted:
    """The model without what is behind *output*; its name says which that is.

    ``embedding`` is what the classifier would take, or the output of a projection; ``tokens`` are the patches' after
    the last norm. Labels and accuracy are those of logits, and left out.

    Raises:
        UnknownName: no such output.
        BadInput: the model does not have it.
    """
    if output not in OUTPUTS:
        raise UnknownName("output", output, OUTPUTS)
    old, present = info.config, info.config.output_text
    if output == "logits" and not old.num_classes:
        raise BadInput(f"{info.name} has no classifier: it outputs {present}.", "Leave out `output`.", field="output")
    if output == "embedding" and old.pooling == "none":
        raise BadInput(
            f"{info.name} does not pool its tokens: it outputs {present} and no embedding.",
            "Leave out `output`.",
            field="output",
        )
    config, renamed, notes = _without_head(old), dict[str, str](), list[str]()
    if output == "tokens":
        config, renamed, notes = _without_pooling(config, info.name)
    if output == "logits" or config == old:
        return Adapted(info, state)
    state = {name: state[renamed.get(name, name)] for name in network.shapes(config)}
    removed = {"labels": (), **UNMEASURED}
    if old.num_outputs:
        without = "classifier and labels" if old.num_classes else "projection"
        notes.insert(0, f"{info.name} is exported without its {without}: it outputs {config.output_text}.")
    if info.training.get("elastic"):
        notes.append("Its channels were put into another basis when it was made elastic; the output is in that basis.")
    if old.pooling == "token_avg" and output == "embedding":
        notes.append(
            "Its classifier takes the class token and the mean of the patches; only the class token is exported."
        )
    info = msgspec.structs.replace(info, name=f"{info.name}-{output}", config=config, **removed)
    return Adapted(info, state, tuple(notes))


def _without_head(config: HydraConfig) -> HydraConfig:
    pooling = "token" if config.pooling == "token_avg" else config.pooling  # of two features the class token is kept
    return msgspec.structs.replace(config, num_classes=0, separate_classifiers=(), pooling=pooling)


def _without_pooling(config: HydraConfig, name: str) -> tuple[HydraConfig, dict[str, str], list[str]]:
    """Without what comes after the last token; the old names of parameters that are called otherwise; what to say."""
    changed: dict[str, Any] = {"projection": 0, "pooling": "none", "pool_prefix": False}
    renamed, notes = {}, []
    if config.final_norm == "after_pooling":
        changed["final_norm"] = "none"
        notes.append(f"The last norm of {name} comes after pooling, so its patch tokens are not normalised.")
    if config.distillation_token:  # a register token computes the same
        changed |= {"distillation_token": False, "register_tokens": 1}
        renamed["reg_token"] = "dist_token"
    return msgspec.structs.replace(config, **changed), renamed, notes


def _check_divides(image_shape: tuple[int, int], patch_size: int, name: str) -> None:
    if all(side and side % patch_size == 0 for side in image_shape):
        return
    shapes = [
        tuple(max(patch_size, (side + up) // patch_size * patch_size) for side in image_shape)
        for up in (0, patch_size - 1)
    ]
    near = dict.fromkeys(str(h) if h == w else f"{h}x{w}" for h, w in shapes)
    given = "{}x{}".format(*image_shape)
    raise BadInput(
        f"Images of {given} do not divide into the patches of {name}, {patch_size}x{patch_size}.",
        f"Pass `image_size` {' or '.join(near)}.",
        field="image_size",
    )
