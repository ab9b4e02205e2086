"""Extracts the state dict from a checkpoint and strips the prefixes that training added to its names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from hydra_export.errors import BadInput

_CONTAINERS = ("state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model_state_dict", "model")
_MOST_LISTED = 4
# DistributedDataParallel and AveragedModel, torch.compile, Lightning's usual attribute names, EMA copies.
_AVERAGES = ("ema_model", "model_ema", "ema")
_WRAPPERS = re.compile(rf"((?:module|_orig_mod|model|net|{'|'.join(_AVERAGES)})\.)*")
_PATCHES = (
    "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embedding.weight",
)
# What forward never reads: masked pre-training's token, AveragedModel's counter, what transformers adds to a backbone,
# and of CLIP and SigLIP what is about texts.
_UNUSED = re.compile(
    r"(mask_token|n_averaged|(\w+\.)?embeddings\.(mask_token|position_ids)|(\w+\.)?pooler\.dense\.(weight|bias)"
    r"|text_model\..*|text_projection\.(weight|bias)|logit_scale|logit_bias)"
)


def plain(content: Any, name: str, notes: list[str], drop: Sequence[str] = ()) -> dict[str, Tensor]:
    """The state dict under the names of the model itself; appends choices and omissions to *notes*.

    Args:
        drop: prefixes of parameters that the user declares unused at inference.

    Raises:
        BadInput: there is no state dict, several without a moving average, or nothing matches *drop*.
    """
    while containers := [
        each for each in _CONTAINERS if isinstance(content, Mapping) and _is_filled(content.get(each))
    ]:
        content = content[containers[0]]
        if len(containers) > 1:
            notes.append(f"{name} contains {' and '.join(containers)}; {containers[0]} was used.")
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise BadInput("it does not contain a state dict.", "Save model.state_dict().")
    state = _unwrap(content, name, notes)
    if unused := [key for key in state if _UNUSED.fullmatch(key)]:
        notes.append(f"{name}: {_listed(unused)} {_is(unused)} not used at inference and {_was(unused)} left out.")
    dropped = [key for key in state if key.startswith(tuple(drop))]
    for start in drop:
        if not any(key.startswith(start) for key in dropped):
            raise BadInput(f"it has no parameters that start with {start}.", "Choose names that it has.")
    if dropped:
        notes.append(f"{name}: {_listed(dropped)} {_was(dropped)} left out as asked.")
    return {key: tensor for key, tensor in state.items() if key not in {*unused, *dropped}}


def _unwrap(content: Mapping[str, Tensor], name: str, notes: list[str]) -> dict[str, Tensor]:
    """*content* without the prefix that the patch embedding has; other models beside it are left out."""
    prefixes = list(dict.fromkeys(_prefix(key) for key in content if key.endswith(_PATCHES)))
    averages = [prefix for prefix in prefixes if set(prefix.split(".")) & set(_AVERAGES)]
    if len(prefixes) > 1 and len(averages) != 1:
        raise BadInput(
            f"it contains {len(prefixes)} models, under {repr(prefixes)[1:-1]}.", "Save the state dict of one model."
        )
    prefix = (averages or prefixes or [""])[0]
    others = [each for each in prefixes if each != prefix]
    if others:
        notes.append(
            f"{name} contains {' and '.join(each or 'a plain model' for each in prefixes)}; {prefix} was used."
        )
    if prefix:
        notes.append(f"{name}: the prefix {prefix} was removed from the names.")
    return {
        key.removeprefix(prefix) if _prefix(key) == prefix else key: tensor
        for key, tensor in content.items()
        if _prefix(key) not in others
    }


def _prefix(key: str) -> str:
    match = _WRAPPERS.match(key)
    return match[0] if match else ""


def _is_filled(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value)


def _listed(names: Sequence[str]) -> str:
    shown = names if len(names) <= _MOST_LISTED else names[:_MOST_LISTED]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _was(names: Sequence[str]) -> str:
    return "was" if len(names) == 1 else "were"
