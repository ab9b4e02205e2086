"""ViTs that timm has a name for: timm's own module says what they compute, and the import is compared with it."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import timm
import torch
from timm.layers.activations import GELU
from timm.layers.attention import Attention
from timm.layers.layer_scale import LayerScale
from timm.layers.mlp import Mlp
from timm.layers.norm import LayerNorm
from timm.layers.patch_embed import PatchEmbed
from timm.models import is_model, is_model_in_modules, split_model_name_tag
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from hydra_export.architecture import HydraConfig
from hydra_export.errors import BadInput, UnknownName
from hydra_export.exact import layers_in_float64
from hydra_export.importing import shapes
from hydra_export.importing.imported_model import IMAGE_SIZE, PREPROCESSING, ImportedModel
from hydra_export.preprocess import Preprocessing

_MODULES = ("vision_transformer", "deit", "model")  # timm's with plain ViTs, and hydra_export.model
_LARGEST_ARGUMENT = 8192  # of sizes that a configuration asks timm for; the model's own are all smaller
_LARGEST_DEPTH = 256
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
# float64 through two implementations of one computation; a misread epsilon alone moves logits by a thousand times more.
_BOUND = 1e-9


@dataclass(frozen=True, kw_only=True)
class TimmReference:
    """A timm model name and the configuration that came with it.

    Attributes:
        who: the source, as messages name it.
        arguments: of the model's constructor.
        data: preprocessing settings under timm's names.
        of_these_weights: whether it describes these weights, and not just any of this architecture.
        is_whole: whether *data* is complete, so that the architecture's defaults do not fill gaps.
        image_size: height and width, where stated.
        labels: one per class.
        num_classes: where stated.
    """

    name: str
    who: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    of_these_weights: bool = True
    is_whole: bool = False
    image_size: tuple[int, int] | None = None
    labels: tuple[str, ...] = ()
    num_classes: int | None = None


def of_option(name: str) -> TimmReference:
    """A name that the user gives; with a tag (``.augreg_in1k``) it is of certain weights."""
    tagged = bool(split_model_name_tag(name)[1])
    return TimmReference(name=name, who=f"timm's {name}", of_these_weights=tagged)


def of_config(config: Mapping[str, Any]) -> TimmReference | None:
    """What a ``config.json`` in timm's form says; None where it has another form."""
    if not isinstance(name := config.get("architecture"), str):
        return None
    data = _mapping(config.get("pretrained_cfg")) or config
    arguments = _mapping(config.get("model_args"))
    pool, size = config.get("global_pool"), arguments.get("img_size", _spatial(data.get("input_size")))
    labels = config.get("label_names") or data.get("label_names") or data.get("labels") or ()
    return TimmReference(
        name=name,
        who="config.json",
        arguments=({"global_pool": pool} if pool else {}) | dict(arguments),
        data=data,
        is_whole=True,
        image_size=_size(size, "config.json"),
        labels=_labels(labels),
        num_classes=_whole(config.get("num_classes", data.get("num_classes"))),
    )


def arguments_of(content: Any) -> dict[str, Any]:
    """The command-line arguments that timm's trainer keeps in its checkpoints, empty where there are none."""
    if not isinstance(content, Mapping):
        return {}
    args = content.get("args")
    found = dict(vars(args)) if isinstance(args, argparse.Namespace) else dict(_mapping(args))
    if not isinstance(found.get("model"), str) and isinstance(content.get("arch"), str):
        found["model"] = content["arch"]
    return found


def of_arguments(arguments: Mapping[str, Any]) -> TimmReference | None:
    """What they say; None where they name no model of timm's."""
    name = arguments.get("model")
    if not isinstance(name, str) or not is_model(name):
        return None
    pool, size = arguments.get("gp"), arguments.get("img_size") or _spatial(arguments.get("input_size"))
    keys = ("mean", "std", "interpolation", "crop_pct", "crop_mode")
    return TimmReference(
        name=name,
        who="the checkpoint's args",
        arguments=({"global_pool": pool} if pool else {}) | dict(_mapping(arguments.get("model_kwargs"))),
        data={key: arguments[key] for key in keys if arguments.get(key)},
        image_size=_size(size, "the checkpoint's args"),
        num_classes=_whole(arguments.get("num_classes")),
    )


def imported_model(
    state: dict[str, Tensor],
    reference: TimmReference,
    own_module: nn.Module | None = None,
    image_size: tuple[int, int] | None = None,
) -> ImportedModel:
    """The ViT of *state*, as timm's module of that name defines it; *own_module* is that module if it exists.

    Raises:
        BadInput: timm has no such ViT, it is not a supported kind, or its metadata contradicts the tensors.
    """
    if own_module is None:
        _check_name(reference)
    shape = shapes.shape(state)
    for stated in (image_size, reference.image_size):
        if stated is not None:
            shapes.check_size(stated, shape.image_size, "`image_size`" if stated is image_size else reference.who)
    depth = reference.arguments.get("depth", shape.depth)
    for what, count, own in (("classes", reference.num_classes, shape.num_classes), ("blocks", depth, shape.depth)):
        if count is not None and count != own:
            raise BadInput(
                f"{reference.who} says {count} {what}, the weights have {own}.",
                "Give the configuration of these weights.",
            )
    module = own_module or _module(reference, shape)
    ours = getattr(module, "config", None)  # of a HydraViT
    if not isinstance(ours, HydraConfig) and (problem := next(_differences(module), "")):
        raise BadInput(f"timm's {reference.name} has {problem}.", shapes.ONLY)
    config = ours if isinstance(ours, HydraConfig) else _config(module, shape)
    cfg: Mapping[str, Any] = getattr(module, "pretrained_cfg", None) or {}
    assumed = []
    usual = _spatial(cfg.get("input_size"))
    if image_size is None and reference.image_size is None and usual != (config.image_size,) * 2:
        side = config.image_size
        assumed.append(f"{IMAGE_SIZE}: {side}x{side}, a square, as the number of positions allows")
    data, unusable = reference.data if reference.is_whole else {**cfg, **reference.data}, ""
    try:
        preprocessing, more = _preprocessing(data, config)
    except BadInput as error:
        preprocessing, more, unusable = None, [], error.message
    if preprocessing is not None and not reference.of_these_weights:
        more = [f"{PREPROCESSING}: timm's of {reference.name} ({_summary(preprocessing)})", *more]
    return ImportedModel(
        config=config,
        state=state,
        preprocessing=preprocessing,
        unusable=unusable,
        labels=reference.labels or (_labels(cfg.get("label_names")) if own_module else ()),
        assumed=(*assumed, *more),
        module=None if isinstance(ours, HydraConfig) else module,
    )


@torch.no_grad()
def check_equal(module: nn.Module, state: Mapping[str, Tensor], ours: nn.Module, config: HydraConfig) -> None:
    """Refuses an import, *ours*, that does not compute what timm's *module* computes of one random image, in float64.

    Raises:
        BadInput: by how much the outputs differ.
    """
    module.load_state_dict(dict(state), assign=True)
    shape = (1, config.channels, config.image_size, config.image_size)
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    outputs = []
    for each in (module.eval(), ours.eval()):
        with layers_in_float64(each):
            outputs.append(each(image))
    error, size = float((outputs[0] - outputs[1]).abs().max()), float(outputs[0].abs().max())
    if not error <= _BOUND * max(size, 1e-30):
        raise BadInput(
            f"the import does not compute what timm's module computes: outputs of up to {size:.3g} differ by "
            f"{error:.3g}.",
            "Report it with this message; nothing was written.",
        )


def _check_name(reference: TimmReference) -> None:
    if not is_model(reference.name):
        known = timm.list_models("vit_*") + timm.list_models("deit*")
        raise UnknownName("architecture of timm's called", reference.name, known, field="architecture")
    if not is_model_in_modules(reference.name, _MODULES):
        raise BadInput(f"{reference.name} is no plain ViT.", shapes.ONLY)
    for name, value in reference.arguments.items():
        numbers = value if isinstance(value, (list, tuple)) else [value]
        plain = all(each is None or isinstance(each, (bool, int, float, str)) for each in numbers) and len(numbers) < 9
        largest = _LARGEST_DEPTH if name == "depth" else _LARGEST_ARGUMENT
        if not plain or any(isinstance(each, (int, float)) and not abs(each) <= largest for each in numbers):
            raise BadInput(
                f"{reference.who} gives {name} as {str(value)[:60]}.", "Give the configuration of these weights."
            )


def _module(reference: TimmReference, shape: shapes.Shape) -> nn.Module:
    """timm's module without weights, of the size and classes that the tensors have."""
    ours = {"num_classes": shape.num_classes, "img_size": shape.image_size, "in_chans": shape.channels}
    arguments = {
        key: value for key, value in reference.arguments.items() if key not in ("pretrained", "checkpoint_path")
    }
    try:
        # Warnings are about sizes of nothing, such as no channels: they are compared with the weights next.
        with torch.device("meta"), warnings.catch_warnings(action="ignore"):
            return timm.create_model(reference.name, **arguments | ours)
    except Exception as error:  # of timm and torch: they share no base
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(
            f"timm cannot build {reference.name} as {reference.who} says: {reason}.",
            "Give the configuration of these weights.",
        ) from error


def _differences(module: nn.Module) -> Iterator[str]:
    """Features of *module* that subnetworks do not support."""
    if type(module) is not VisionTransformer:
        yield f"a class of its own, {type(module).__name__}"
        return
    if not module.blocks:
        yield "no blocks"
    if not module.has_class_token:
        yield "no class token"
    if module.num_reg_tokens:
        yield "register tokens"
    if module.global_pool != "token":
        yield f"{module.global_pool or 'no'} pooling, not that of the class token"
    if module.pos_embed is None or module.no_embed_class:
        yield "positions of another kind"
    if type(module.patch_embed) is not PatchEmbed or not isinstance(module.patch_embed.norm, nn.Identity):
        yield "another patch embedding"
    elif module.patch_embed.proj.bias is None:
        yield "no bias in the patch embedding"
    elif len({*module.patch_embed.patch_size}) > 1 or len({*(module.patch_embed.grid_size or ())}) != 1:
        yield "patches or images that are not square"
    for name in ("norm_pre", "fc_norm", "patch_drop"):
        if not isinstance(getattr(module, name), nn.Identity):
            yield f"a layer {name}"
    if module.attn_pool is not None:
        yield "attention pooling"
    for block in module.blocks:
        yield from _differences_of_block(block)
    norms = [
        module.norm,
        *(norm for block in module.blocks if type(block) is Block for norm in (block.norm1, block.norm2)),
    ]
    if any(type(norm) not in (LayerNorm, nn.LayerNorm) or norm.bias is None for norm in norms):
        yield "another norm than LayerNorm, or none at its end"
    elif len({norm.eps for norm in norms}) > 1:
        yield "LayerNorms of different epsilons"


def _differences_of_block(block: nn.Module) -> Iterator[str]:
    if type(block) is not Block or type(block.attn) is not Attention or type(block.mlp) is not Mlp:
        yield "blocks of another kind"
        return
    attn: Any = block.attn
    mlp: Any = block.mlp
    if attn.qkv.bias is None or attn.proj.bias is None or mlp.fc1.bias is None or mlp.fc2.bias is None:
        yield "no bias in attention (qkv) or MLP"
    if attn.num_heads * attn.head_dim != attn.qkv.in_features or attn.scale != attn.head_dim**-0.5:
        yield "attention of another width or scale"
    extra = {"qk-norm": (attn.q_norm, attn.k_norm), "a norm in attention or MLP": (attn.norm, mlp.norm)}
    for name, layers in extra.items():
        if not all(isinstance(layer, nn.Identity) for layer in layers):
            yield name
    if getattr(attn, "gate", None) is not None:
        yield "gated attention"
    if type(mlp.act) not in (nn.GELU, GELU) or getattr(mlp.act, "approximate", "none") != "none":
        yield f"the activation {type(mlp.act).__name__}, not exact GELU"
    if not all(isinstance(scale, (nn.Identity, LayerScale)) for scale in (block.ls1, block.ls2)):
        yield "another LayerScale"


def _config(module: Any, shape: shapes.Shape) -> HydraConfig:
    """Everything of the module; LayerScale is that of the tensors, which must have the module's shapes anyway."""
    block: Any = module.blocks[0]
    return HydraConfig(
        heads=block.attn.num_heads,
        head_dim=block.attn.head_dim,
        depth=len(module.blocks),
        patch_size=module.patch_embed.patch_size[0],
        image_size=module.patch_embed.img_size[0],
        channels=module.patch_embed.proj.in_channels,
        num_classes=module.num_classes,
        mlp_ratio=block.mlp.fc1.out_features / module.embed_dim,
        layer_scale=None if isinstance(block.ls1, nn.Identity) else shape.layer_scale or 1e-5,
        layer_norm_eps=module.norm.eps,
    )


def _preprocessing(cfg: Mapping[str, Any], config: HydraConfig) -> tuple[Preprocessing | None, list[str]]:
    """timm's preprocessing (timm.data.resolve_data_config) and its differences from ours; None if not stated.

    Raises:
        BadInput: the preprocessing is not supported.
    """
    mean, std = (_floats(cfg.get(name)) for name in ("mean", "std"))
    if not mean or not std:
        return None, []
    mean, std = (values * config.channels if len(values) == 1 else values for values in (mean, std))
    interpolation, crop = cfg.get("interpolation") or "bicubic", cfg.get("crop_pct") or 0.875
    plain = isinstance(interpolation, str) and isinstance(crop, (int, float)) and len(mean) == config.channels
    if not plain or interpolation not in _INTERPOLATIONS or not abs(crop) <= 1:
        raise BadInput(
            f"images are resized by {str(interpolation)[:40]}, cropped by {str(crop)[:40]} and normalised with "
            f"{len(mean)} means, which is not supported.",
        )
    preprocessing = Preprocessing(
        image_size=config.image_size, mean=mean, std=std, interpolation=cast(Any, interpolation), crop=float(crop)
    )
    mode = cfg.get("crop_mode") or "center"
    if mode == "center":
        return preprocessing, []
    return preprocessing, [f"{PREPROCESSING}: the centre of the image is kept, where timm's crop mode is {mode}"]


def _summary(data: Preprocessing) -> str:
    return f"mean {', '.join(f'{value:g}' for value in data.mean)}, {data.interpolation}, crop {data.crop:g}"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _floats(value: Any) -> tuple[float, ...]:
    numbers = value if isinstance(value, (list, tuple)) else ()
    return tuple(float(number) for number in numbers if isinstance(number, (int, float)) and abs(number) < 1e9)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _labels(value: Any) -> tuple[str, ...]:
    names = value if isinstance(value, (list, tuple)) else ()
    return tuple(names) if all(isinstance(name, str) for name in names) else ()


def _spatial(input_size: Any) -> tuple[int, ...] | None:
    return tuple(input_size[1:]) if isinstance(input_size, (list, tuple)) else None


def _size(value: Any, who: str) -> tuple[int, int] | None:
    """Height and width from timm's number or pair."""
    pair = (value, value) if isinstance(value, int) else value
    if pair is None:
        return None
    if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(isinstance(side, int) for side in pair):
        raise BadInput(f"{who} gives the image size {str(value)[:60]}.", "Give a number, or height and width.")
    return pair[0], pair[1]
