"""ViTs of Hugging Face transformers: their config.json, preprocessor_config.json and names of tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from hydra_export.architecture import HydraConfig
from hydra_export.errors import BadInput
from hydra_export.importing import shapes
from hydra_export.importing.imported_model import PREPROCESSING, ImportedModel
from hydra_export.preprocess import Preprocessing

_ONLY = "Only transformers' ViT (model_type vit) with exact GELU and a qkv bias is supported."
_EXACT_GELU = ("gelu", "gelu_python")
# PIL's numbers, as preprocessor_config.json has them; the others are no interpolation that every device has.
_RESAMPLE: dict[Any, str] = {0: "nearest", 2: "bilinear", 3: "bicubic"}
_NAMES = (
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.patch_embeddings.projection.", "patch_embed.proj."),
    ("layernorm.", "norm."),
    ("classifier.", "head."),
)
_LAYER = re.compile(r"(?:encoder\.layer|layers)\.(\d{1,4})\.(.+)\.(weight|bias)")
# Up to transformers 4, and as 5 still writes them; in memory 5 has other names.
_LAYER_NAMES = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.output.dense": "attn.proj",
    "attention.o_proj": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "mlp.fc1": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "mlp.fc2": "mlp.fc2",
}
_QKV = re.compile(r"attention\.(?:attention\.(query|key|value)|(q|k|v)_proj)")
_LARGEST_NUMBER = 1e9


def is_form(config: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is transformers'."""
    return isinstance(config.get("model_type"), str)


def imported_model(
    state: Mapping[str, Tensor], config: Mapping[str, Any], preprocessor: Mapping[str, Any]
) -> ImportedModel:
    """The ViT of *state*, under timm's names, as *config* and *preprocessor* say.

    Raises:
        BadInput: the kind of model is not supported, or its metadata contradicts the tensors.
    """
    _check_kind(config)
    timm_state = _rename(state)
    shape, heads = shapes.shape(timm_state), config.get("num_attention_heads", 12)
    if not isinstance(heads, int) or not 1 <= heads <= shape.width or shape.width % heads:
        raise BadInput(
            f"config.json gives {heads} heads, the weights are {shape.width} wide.", "Give these weights' own."
        )
    hydra_config = shape.config(shape.width // heads, float(config.get("layer_norm_eps", 1e-12)))
    shapes.check_size(_pair(config.get("image_size", 224), "image_size"), hydra_config.image_size, "config.json")
    patch = config.get("patch_size", 16)
    if _pair(patch, "patch_size") != (hydra_config.patch_size,) * 2:
        raise BadInput(f"config.json gives patch_size {str(patch)[:60]}, the weights {hydra_config.patch_size}.", _ONLY)
    result = ImportedModel(
        config=hydra_config, state=timm_state, labels=_labels(config.get("id2label"), hydra_config.num_classes)
    )
    if not preprocessor:
        return result
    try:
        preprocessing, assumed = _preprocessing(preprocessor, hydra_config)
    except BadInput as error:
        return replace(result, unusable=error.message)
    return replace(result, preprocessing=preprocessing, assumed=assumed)


def _check_kind(config: Mapping[str, Any]) -> None:
    kind, activation = config["model_type"], config.get("hidden_act", "gelu")
    if kind != "vit":
        raise BadInput(f"config.json is of model_type {kind[:40]}.", _ONLY)
    if activation not in _EXACT_GELU:
        raise BadInput(f"config.json gives the activation {str(activation)[:40]}, not exact GELU.", _ONLY)
    if config.get("qkv_bias", True) is not True:
        raise BadInput("config.json gives no qkv bias.", _ONLY)
    epsilon = config.get("layer_norm_eps", 1e-12)
    if not _is_number(epsilon):
        raise BadInput(f"config.json gives layer_norm_eps {str(epsilon)[:40]}.", "Give a number.")


def _rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """*state* under timm's names; query, key and value of a block become one."""
    timm_state: dict[str, Tensor] = {}
    qkv_parts: dict[str, dict[str, Tensor]] = {}
    for full_name, tensor in state.items():
        name = full_name.removeprefix("vit.")
        if match := _LAYER.fullmatch(name):
            block, layer, part = f"blocks.{int(match[1])}", match[2], match[3]
            if qkv := _QKV.fullmatch(layer):
                qkv_parts.setdefault(f"{block}.attn.qkv.{part}", {})[(qkv[1] or qkv[2])[0]] = tensor
                continue
            name = f"{block}.{_LAYER_NAMES.get(layer, layer)}.{part}"
        else:
            for theirs, ours in _NAMES:
                if name == theirs or (theirs.endswith(".") and name.startswith(theirs)):
                    name = ours + name.removeprefix(theirs)
                    break
        timm_state[name] = tensor
    for name, parts in qkv_parts.items():
        if set(parts) != {"q", "k", "v"} or len({part.shape for part in parts.values()}) != 1:
            raise BadInput(f"query, key and value of {name} do not match.", "Download it again.")
        timm_state[name] = torch.cat([parts[part] for part in "qkv"])
    return timm_state


def _preprocessing(settings: Mapping[str, Any], config: HydraConfig) -> tuple[Preprocessing, tuple[str, ...]]:
    """What transformers does with an image, and how this differs.

    Raises:
        BadInput: nothing here is like it.
    """
    mean, std = (settings.get(name) for name in ("image_mean", "image_std"))
    if settings.get("do_normalize", True) is False:
        mean, std = [0.0] * config.channels, [1.0] * config.channels
    crop, assumed = _crop(settings, config.image_size)
    resample, factor = settings.get("resample", 2), settings.get("rescale_factor", 1 / 255)
    interpolation = _RESAMPLE.get(resample) if isinstance(resample, int) else None
    rescales = settings.get("do_rescale", True) is True and _is_number(factor) and abs(factor - 1 / 255) < 1e-6
    floats = all(
        isinstance(values, list) and len(values) == config.channels and all(map(_is_number, values))
        for values in (mean, std)
    )
    if not floats or not rescales or interpolation is None or settings.get("do_flip_channel_order"):
        raise BadInput("preprocessor_config.json makes images ready in a way that is not supported.", "")
    return (
        Preprocessing(
            image_size=config.image_size,
            mean=tuple(map(float, cast(list[float], mean))),
            std=tuple(map(float, cast(list[float], std))),
            interpolation=cast(Any, interpolation),
            crop=crop,
        ),
        assumed,
    )


def _is_number(value: Any) -> bool:
    """Whether it is one that a float can be."""
    return isinstance(value, (int, float)) and abs(value) < _LARGEST_NUMBER


def _crop(settings: Mapping[str, Any], side: int) -> tuple[float, tuple[str, ...]]:
    """The share of the shorter side that is kept, and what is assumed of it.

    *size* has had several forms: a number or height and width, to which the whole image is stretched, or the shorter
    side, with which it keeps its proportions.
    """
    size = settings.get("size", side)
    shortest = size.get("shortest_edge") if isinstance(size, Mapping) else None
    height, width = _pair(size if shortest is None else shortest, "size")
    crops = settings.get("do_center_crop", False) is True
    crop_size = _pair(settings.get("crop_size", side), "crop_size") if crops else (height, width)
    square = height == width and (shortest is None or crops)
    if (
        settings.get("do_resize", True) is not True
        or settings.get("crop_pct")
        or not square
        or crop_size != (side, side)
    ):
        raise BadInput(f"preprocessor_config.json does not make images of {side}x{side} as timm does.", "")
    assumption = f"the centre of the image is kept, where transformers stretches the whole image to {height}x{width}"
    return side / height, (f"{PREPROCESSING}: {assumption}",) if shortest is None else ()


def _labels(id2label: Any, num_classes: int) -> tuple[str, ...]:
    """The names of the classes, where they are more than transformers' own LABEL_0, LABEL_1, ..."""
    if not isinstance(id2label, Mapping) or not num_classes:
        return ()
    names = [id2label.get(str(number)) for number in range(num_classes)]
    if all(name == f"LABEL_{number}" for number, name in enumerate(names)):
        return ()
    if len(id2label) != num_classes or not all(isinstance(name, str) for name in names):
        raise BadInput(
            f"config.json names {len(id2label)} classes, the weights have {num_classes}.", "Give these weights' own."
        )
    return tuple(cast(list[str], names))


def _pair(value: Any, name: str) -> tuple[int, int]:
    """Height and width, from a number, a list or an object."""
    if isinstance(value, Mapping):
        value = (value.get("height"), value.get("width"))
    pair = (value, value) if isinstance(value, int) else value
    if (
        not isinstance(pair, (list, tuple))
        or len(pair) != 2
        or not all(isinstance(side, int) and side > 0 for side in pair)
    ):
        raise BadInput(f"The configuration gives {name} as {str(value)[:60]}.", "Give a number, or height and width.")
    return pair[0], pair[1]
