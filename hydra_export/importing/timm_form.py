"""ViTs that timm has a name for: timm's own module says what they compute, and the import is compared with it."""

from __future__ import annotations

import argparse
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import timm
import torch
from timm.models import is_model, split_model_name_tag
from torch import Tensor, nn

from hydra_export.architecture import HydraConfig
from hydra_export.errors import BadInput, UnknownName
from hydra_export.exact import layers_in_float64
from hydra_export.importing import canonical, shapes, timm_config
from hydra_export.importing.imported_model import IMAGE_SIZE, PREPROCESSING, ImportedModel, Original
from hydra_export.importing.tensors import as_float32
from hydra_export.preprocess import Preprocessing

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
    shapes.check_variant(state)
    _check_stated(state, reference)
    stated = image_size or reference.image_size
    module = own_module or _module(reference, state, stated)
    ours = getattr(module, "config", None)  # of a HydraViT
    if isinstance(ours, HydraConfig):
        config, converted = ours, state
    else:
        config, layout = timm_config.of_module(module, f"timm's {reference.name}")
        converted = canonical.converted(state, layout)
    for size in (image_size, reference.image_size):
        if size is not None:
            shapes.check_size(size, config, "`image_size`" if size is image_size else reference.who)
    cfg: Mapping[str, Any] = getattr(module, "pretrained_cfg", None) or {}
    assumed = []
    if stated is None and _spatial(cfg.get("input_size")) != config.image_shape:
        assumed.append(f"{IMAGE_SIZE}: {config.image_text}, a square, as the number of positions allows")
    data, unusable = reference.data if reference.is_whole else {**cfg, **reference.data}, ""
    try:
        preprocessing, more = _preprocessing(data, config)
    except BadInput as error:
        preprocessing, more, unusable = None, [], error.message
    if preprocessing is not None and not reference.of_these_weights:
        more = [f"{PREPROCESSING}: timm's of {reference.name} ({_summary(preprocessing)})", *more]
    return ImportedModel(
        config=config,
        state=converted,
        preprocessing=preprocessing,
        unusable=unusable,
        labels=reference.labels or (_labels(cfg.get("label_names")) if own_module else ()),
        assumed=(*assumed, *more),
        original=None if isinstance(ours, HydraConfig) else Original(module, state),
    )


def _check_stated(state: Mapping[str, Tensor], reference: TimmReference) -> None:
    head = state.get("head.weight")
    own = {"classes": 0 if head is None else int(head.shape[0]), "blocks": len(_blocks(state))}
    for what, count in (("classes", reference.num_classes), ("blocks", reference.arguments.get("depth"))):
        if count is not None and count != own[what]:
            raise BadInput(
                f"{reference.who} states {count} {what}, but the weights have {own[what]}.",
                "Pass the configuration of these weights.",
            )


@torch.no_grad()
def check_equal(original: Original, ours: nn.Module, config: HydraConfig) -> None:
    """Refuses an import, *ours*, that does not compute what timm's module computes of one random image, in float64.

    Raises:
        BadInput: by how much the outputs differ, or that the module does not take these tensors.
    """
    module = original.module
    try:
        module.load_state_dict(as_float32(original.state), assign=True)
    except RuntimeError as error:  # torch's, for names and shapes
        reason = str(error).strip().splitlines()[-1].strip().rstrip(".")
        raise BadInput(f"the tensors do not match the architecture: {reason}.", "Pass the correct one.") from error
    _compute_buffers(module)
    image = torch.randn(
        (1, config.channels, *config.image_shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    outputs = []
    for each in (module.eval(), ours.eval()):
        with layers_in_float64(each):
            outputs.append(each(image))
    off, size = float((outputs[0] - outputs[1]).abs().max()), float(outputs[0].abs().max())
    if not off <= _BOUND * max(size, 1e-30):
        raise BadInput(
            f"the imported model differs from timm's module: outputs of up to {size:.3g} differ by {off:.3g}.",
            "Report it with this message; nothing was written.",
        )


def _compute_buffers(module: nn.Module) -> None:
    """What timm computes when it builds a module, and does not where there is no memory for it yet."""
    for each in module.modules():
        lost = {name: buffer for name, buffer in each.named_buffers(recurse=False) if buffer.is_meta}
        for name, buffer in lost.items():
            each._buffers[name] = torch.empty_like(buffer, device="cpu")
        if lost:
            each.init_non_persistent_buffers()  # type: ignore[operator]


def _check_name(reference: TimmReference) -> None:
    if not is_model(reference.name):
        known = timm.list_models("vit_*") + timm.list_models("deit*")
        raise UnknownName("architecture of timm's called", reference.name, known, field="architecture")
    timm_config.check_name(reference.name)
    for name, value in reference.arguments.items():
        numbers = value if isinstance(value, (list, tuple)) else [value]
        plain = all(each is None or isinstance(each, (bool, int, float, str)) for each in numbers) and len(numbers) < 9
        largest = _LARGEST_DEPTH if name == "depth" else _LARGEST_ARGUMENT
        if not plain or any(isinstance(each, (int, float)) and not abs(each) <= largest for each in numbers):
            raise BadInput(
                f"{reference.who} states {name} as {str(value)[:60]}.", "Pass the configuration of these weights."
            )


def _module(reference: TimmReference, state: Mapping[str, Tensor], image_size: tuple[int, int] | None) -> nn.Module:
    """timm's module without weights, of the size, classes and depth that the tensors have."""
    head, patch = state.get("head.weight"), state.get("patch_embed.proj.weight")
    if patch is None or patch.ndim != 4:
        raise BadInput("this model has no patch embedding.", shapes.ONLY)
    ours: dict[str, Any] = {"num_classes": 0 if head is None else int(head.shape[0]), "in_chans": int(patch.shape[1])}
    if image_size is not None:
        ours["img_size"] = image_size
    module: Any = _built(reference, ours)
    positions, given = state.get("pos_embed"), getattr(module, "pos_embed", None)
    usual = dict(ours)
    if image_size is None and positions is not None and given is not None and positions.shape != given.shape:
        num_prefix = 0 if getattr(module, "no_embed_class", False) else getattr(module, "num_prefix_tokens", 0)
        side = math.isqrt(max(int(positions.shape[-2]) - num_prefix, 1))
        ours["img_size"] = side * int(patch.shape[2])
    depth = len(_blocks(state))
    if depth and hasattr(module, "blocks") and len(module.blocks) != depth:
        ours["depth"] = depth
    return module if ours == usual else _built(reference, ours)


def _blocks(state: Mapping[str, Tensor]) -> set[str]:
    """The numbers of those that it has."""
    return {match[1] for name in state if (match := re.match(r"blocks\.(\d{1,4})\.", name))}


def _built(reference: TimmReference, ours: Mapping[str, Any]) -> nn.Module:
    arguments = {
        key: value for key, value in reference.arguments.items() if key not in ("pretrained", "checkpoint_path")
    }
    try:
        # Warnings are about sizes of nothing, such as no channels: they are compared with the weights next.
        with torch.device("meta"), warnings.catch_warnings(action="ignore"):
            return timm.create_model(reference.name, **{**arguments, **ours})
    except Exception as error:  # of timm and torch: they share no base
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(
            f"timm cannot build {reference.name} as {reference.who} specifies: {reason}.",
            "Pass the configuration of these weights.",
        ) from error


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
        raise BadInput(f"{who} states the image size {str(value)[:60]}.", "Use a number, or height and width.")
    return pair[0], pair[1]
