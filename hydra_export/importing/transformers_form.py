"""ViTs of Hugging Face transformers: their config.json, preprocessor_config.json and names of tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from hydra_export.architecture import Activation, HydraConfig
from hydra_export.errors import BadInput
from hydra_export.importing import canonical, shapes
from hydra_export.importing.canonical import Layout
from hydra_export.importing.imported_model import POOLING, PREPROCESSING, ImportedModel
from hydra_export.preprocess import Preprocessing

_ACTIVATIONS: dict[Any, Activation] = {
    "gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu", "relu": "relu", "silu": "silu", "swish": "silu",
}  # fmt: skip
# PIL's numbers, as preprocessor_config.json has them; the others are no interpolation that every device has.
_RESAMPLE: dict[Any, str] = {0: "nearest", 2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True)
class _Kind:
    """What transformers takes of a model_type where its config.json says nothing."""

    patch: int
    epsilon: float
    activation: str = "gelu"
    resample: int = 3  # bicubic


_VIT, _DINO = _Kind(16, 1e-12, resample=2), _Kind(14, 1e-6)
_CLIP, _SIGLIP = _Kind(32, 1e-5, "quick_gelu"), _Kind(16, 1e-6, "gelu_pytorch_tanh")
_KINDS = {
    "vit": _VIT, "deit": _VIT, "dinov2": _DINO, "dinov2_with_registers": _DINO,
    "clip": _CLIP, "clip_vision_model": _CLIP, "siglip": _SIGLIP, "siglip_vision_model": _SIGLIP,
}  # fmt: skip
_ONLY = f"hydra-export supports these transformers models: {', '.join(_KINDS)}."
_PREFIX = re.compile(r"(vit|deit|dinov2|dinov2_with_registers|vision_model)\.")
_NAMES = {
    "embeddings.cls_token": "cls_token",
    "embeddings.class_embedding": "cls_token",
    "embeddings.distillation_token": "dist_token",
    "embeddings.register_tokens": "reg_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.position_embedding.weight": "pos_embed",
    "head.probe": "attn_pool.latent",
    "embeddings.patch_embeddings.projection.": "patch_embed.proj.",
    "embeddings.patch_embedding.": "patch_embed.proj.",
    "layernorm.": "norm.",
    "post_layernorm.": "norm.",
    "pre_layrnorm.": "norm_pre.",
    "classifier.": "head.",
    "cls_classifier.": "head.",
    "distillation_classifier.": "head_dist.",
    "visual_projection.": "head.",
    "head.attention.out_proj.": "attn_pool.proj.",
    "head.layernorm.": "attn_pool.norm.",
    "head.mlp.": "attn_pool.mlp.",
}
_LAYER = re.compile(r"(?:encoder\.layers?|layers?)\.(\d{1,4})\.(.+)\.(weight|bias|lambda1)")
# Up to transformers 4, and as 5 still writes them; in memory 5 has other names.
_LAYER_NAMES = {
    **dict.fromkeys(("layernorm_before", "norm1", "layer_norm1"), "norm1"),
    **dict.fromkeys(("layernorm_after", "norm2", "layer_norm2"), "norm2"),
    **dict.fromkeys(("attention.output.dense", "attention.o_proj", "self_attn.out_proj"), "attn.proj"),
    **dict.fromkeys(("intermediate.dense", "mlp.fc1", "mlp.weights_in"), "mlp.fc1"),
    **dict.fromkeys(("output.dense", "mlp.fc2", "mlp.weights_out", "mlp.down_proj"), "mlp.fc2"),
    "mlp.gate_proj": "mlp.fc1_g",
    "mlp.up_proj": "mlp.fc1_x",
    "layer_scale1": "ls1",
    "layer_scale2": "ls2",
}
_QKV = re.compile(r"(?:attention\.attention\.(query|key|value)|(?:attention|self_attn)\.(q|k|v)_proj)")
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
    kind, tower = _KINDS.get(config["model_type"]), config.get("vision_config") or config
    if kind is None or not isinstance(tower, Mapping):
        raise BadInput(f"config.json is of model_type {config['model_type'][:40]}.", _ONLY)
    ours, known = _known(_renamed(state), config)
    ours = canonical.converted(ours, Layout())
    stated = tower.get("hidden_act", kind.activation)
    activation = _ACTIVATIONS.get(stated) if isinstance(stated, str) else None
    if activation is None:
        raise BadInput(f"config.json states the activation {str(stated)[:40]}.", _ONLY)
    if shapes.is_gated(ours):  # DINOv2's, whatever hidden_act says
        activation = "silu"
    epsilon, heads = tower.get("layer_norm_eps", kind.epsilon), tower.get("num_attention_heads", 12)
    if not _is_number(epsilon):
        raise BadInput(f"config.json states layer_norm_eps {str(epsilon)[:40]}.", "Use a number.")
    width = ours["patch_embed.proj.weight"].shape[0] if "patch_embed.proj.weight" in ours else 0
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise BadInput(
            f"config.json states {heads} heads, but the weights are {width} wide.",
            "Pass the config.json of these weights.",
        )
    size = _pair(tower.get("image_size", 224), "image_size")
    hydra_config = shapes.config(
        ours, width // heads, size, activation=activation, layer_norm_eps=float(epsilon), **known
    )
    _check_agrees(tower, hydra_config)
    if _pair(patch := tower.get("patch_size", kind.patch), "patch_size") != (hydra_config.patch_size,) * 2:
        raise BadInput(
            f"config.json states patch_size {str(patch)[:60]}, but the weights have {hydra_config.patch_size}.", _ONLY
        )
    labels = _labels(config.get("id2label"), hydra_config.num_classes)
    assumed: tuple[str, ...] = ()
    if kind is _SIGLIP and hydra_config.pooling == "avg" and not hydra_config.num_classes:
        assumed = (f"{POOLING}: the mean of the patches' tokens, as nothing pools them",)
    result = ImportedModel(config=hydra_config, state=ours, labels=labels, assumed=assumed)
    if not preprocessor:
        return result
    try:
        preprocessing, more = _preprocessing(preprocessor, hydra_config, kind)
    except BadInput as error:
        return replace(result, unusable=error.message)
    return replace(result, preprocessing=preprocessing, assumed=(*assumed, *more))


def _check_agrees(config: Mapping[str, Any], ours: HydraConfig) -> None:
    """Refuses weights of which a part is missing."""
    if ours.final_norm == "none" and ours.pooling != "avg":  # which CLIP's classifier alone has not
        raise BadInput("the weights have no last norm.", "Download it again.")
    for what, own in (("num_hidden_layers", ours.depth), ("num_register_tokens", ours.register_tokens)):
        if (stated := config.get(what, own)) != own:
            raise BadInput(
                f"config.json states {what} {str(stated)[:40]}, but the weights have {own}.",
                "Pass the config.json of these weights.",
            )


def _known(state: dict[str, Tensor], config: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What transformers' classes compute that shapes do not say, and *state* without what they leave out."""
    head, norm, model_type = state.get("head.weight"), state.get("norm.weight"), config["model_type"]
    listed = config.get("architectures")
    architecture = str(listed[0]) if isinstance(listed, list) and listed else ""
    known: dict[str, Any] = {}
    classifies = architecture.endswith("ForImageClassification")
    if head is None and (architecture.endswith("WithTeacher") or (classifies and "dinov2" in model_type)):
        raise BadInput(
            f"a {architecture} without classes does not output its backbone's features.",
            "Save only the backbone, or a model with a classifier.",
        )
    if model_type.startswith(("clip", "siglip")) and ("head.bias" in state or classifies):
        known["pooling"] = "avg"
        state = {name: tensor for name, tensor in state.items() if not name.startswith("attn_pool.")}
        if model_type.startswith("clip"):  # whose last norm is the pooler's
            state = {name: tensor for name, tensor in state.items() if not name.startswith("norm.")}
    elif "dist_token" in state and "head_dist.weight" not in state:  # read by the other tokens alone
        state["reg_token"] = state.pop("dist_token")
    elif head is not None and norm is not None and head.shape[-1] == 2 * norm.shape[0]:  # class token, mean of patches
        known["pooling"] = "token_avg"
        state["head.weight"], state["head_patches.weight"] = head.chunk(2, dim=1)
        state["head_patches.bias"] = head.new_zeros(head.shape[:1])
    if head is not None and "head.bias" not in state:
        state["head.bias"] = head.new_zeros(head.shape[:1])
        if model_type.startswith("clip") and not classifies:
            known |= {"num_classes": 0, "projection": head.shape[0]}
    cls_token, positions = state.get("cls_token"), state.get("pos_embed")
    if "dinov2" in model_type and "reg_token" in state and cls_token is not None and positions is not None:
        if cls_token.shape[-1] != positions.shape[-1]:
            raise BadInput("its class token and its positions are of different widths.", "Download it again.")
        state["cls_token"] = cls_token.float() + positions[:, :1].float()  # registers have no positions
        state["pos_embed"] = positions[:, 1:]
    return state, known


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """*state* under timm's names, query, key and value apart."""
    ours: dict[str, Tensor] = {}
    for full_name, tensor in state.items():
        name = _PREFIX.sub("", full_name, count=1) if _PREFIX.match(full_name) else full_name
        if match := _LAYER.fullmatch(name):
            block, layer, part = f"blocks.{int(match[1])}", match[2], match[3].replace("lambda1", "gamma")
            if qkv := _QKV.fullmatch(layer):
                layer = f"attn.{(qkv[1] or qkv[2])[0]}_proj"
            name = f"{block}.{_LAYER_NAMES.get(layer, layer)}.{part}"
        elif match := re.fullmatch(r"head\.attention\.in_proj_(weight|bias)", name):
            query, *others = tensor.chunk(3)
            ours[f"attn_pool.q.{match[1]}"], tensor, name = query, torch.cat(others), f"attn_pool.kv.{match[1]}"
        else:
            for theirs, own in _NAMES.items():
                if name == theirs or (theirs.endswith(".") and name.startswith(theirs)):
                    name = own + name.removeprefix(theirs)
                    break
        ours[name] = tensor
    for name in ("cls_token", "pos_embed"):
        if name in ours and ours[name].ndim < 3:
            ours[name] = ours[name].reshape(1, -1, ours[name].shape[-1])
    return ours


def _preprocessing(
    settings: Mapping[str, Any], config: HydraConfig, kind: _Kind
) -> tuple[Preprocessing, tuple[str, ...]]:
    """What transformers does with an image, and how this differs.

    Raises:
        BadInput: nothing here is like it.
    """
    mean, std = (settings.get(name) for name in ("image_mean", "image_std"))
    if settings.get("do_normalize", True) is False:
        mean, std = [0.0] * config.channels, [1.0] * config.channels
    crop, assumed = _crop(settings, config, kind)
    resample, factor = settings.get("resample", kind.resample), settings.get("rescale_factor", 1 / 255)
    interpolation = _RESAMPLE.get(resample) if isinstance(resample, int) else None
    rescales = settings.get("do_rescale", True) is True and _is_number(factor) and abs(factor - 1 / 255) < 1e-6
    floats = all(
        isinstance(values, list) and len(values) == config.channels and all(map(_is_number, values))
        for values in (mean, std)
    )
    if not floats or not rescales or interpolation is None or settings.get("do_flip_channel_order"):
        raise BadInput("preprocessor_config.json describes preprocessing that is not supported.", "")
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


def _crop(settings: Mapping[str, Any], config: HydraConfig, kind: _Kind) -> tuple[float, tuple[str, ...]]:
    """The share of each side that is kept, and what is assumed of it.

    *size* has had several forms: a number or height and width, to which the whole image is stretched, or the shorter
    side, with which it keeps its proportions. DINOv2's crop is smaller than the images that it was trained with.
    """
    shape, crops = config.image_shape, settings.get("do_center_crop", False) is True
    size = settings.get("size", shape)
    shortest = size.get("shortest_edge") if isinstance(size, Mapping) else None
    if kind is _CLIP and crops and isinstance(size, int):
        shortest = size
    height, width = _pair(size if shortest is None else shortest, "size")
    crop_size = _pair(settings.get("crop_size", shape), "crop_size") if crops else (height, width)
    alike = shape[0] * crop_size[1] == shape[1] * crop_size[0] and crop_size[0] * width == crop_size[1] * height
    if (
        settings.get("do_resize", True) is not True
        or settings.get("crop_pct")
        or not alike
        or not (shortest is None or crops)
        or crop_size[0] > height
    ):
        raise BadInput(f"preprocessor_config.json does not make images of {config.image_text} as timm does.", "")
    assumed = []
    if shortest is None:
        assumed.append(
            f"the centre of the image is kept, where transformers stretches the whole image to {height}x{width}"
        )
    if crop_size != shape:
        assumed.append(
            "images are made of {}, where transformers makes them of {}x{}".format(config.image_text, *crop_size)
        )
    return crop_size[0] / height, (f"{PREPROCESSING}: {'; '.join(assumed)}",) if assumed else ()


def _labels(id2label: Any, num_classes: int) -> tuple[str, ...]:
    """The names of the classes, where they are more than transformers' own LABEL_0, LABEL_1, ..."""
    if not isinstance(id2label, Mapping) or not num_classes:
        return ()
    by_number = {str(number): name for number, name in id2label.items()}  # whose keys JSON makes strings of
    if all(name == f"LABEL_{number}" for number, name in by_number.items()):
        return ()
    names = [by_number.get(str(number)) for number in range(num_classes)]
    if len(id2label) != num_classes or not all(isinstance(name, str) for name in names):
        raise BadInput(
            f"config.json lists {len(id2label)} classes, but the weights have {num_classes}.",
            "Pass the config.json of these weights.",
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
        raise BadInput(f"The configuration states {name} as {str(value)[:60]}.", "Use a number, or height and width.")
    return pair[0], pair[1]
