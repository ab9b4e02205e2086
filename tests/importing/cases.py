"""Checkpoints as others write them, each with the module whose outputs it stands for, and how it must end.

``benchmarks/imports.py`` prints what becomes of each; ``test_table.py`` holds them to it.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import timm
import torch
from timm.layers.activations import QuickGELU
from timm.layers.mlp import SwiGLUPacked
from timm.layers.norm import LayerNorm
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer
from torch import Tensor, nn

from hydra_export import checkpoint
from hydra_export.errors import BadInput

_M = TypeVar("_M", bound=nn.Module)

SIZE = 32
TINY: dict[str, Any] = {
    "img_size": SIZE, "patch_size": 8, "num_classes": 5, "embed_dim": 192, "depth": 2, "num_heads": 3, "mlp_ratio": 1.0
}  # fmt: skip
_HEADS_OF = {16: 12, 32: 6, 64: 3}
_DATA = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bilinear", "crop_pct": 0.95}


@dataclass(frozen=True)
class Written:
    """A checkpoint on disk.

    Attributes:
        module: what its outputs are to be.
        options: of ``checkpoint.load``.
    """

    place: Path
    module: nn.Module
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A checkpoint to make, and how it must end.

    Attributes:
        end: ``equal``, ``assumed`` or ``refused``.
        says: the reason of a refusal, or the subject of the false assumption, in part.
    """

    name: str
    write: Callable[[Path], Written]
    end: str
    says: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a case; *error* is the largest difference of outputs over the largest output."""

    end: str
    detail: str
    error: float | None = None
    assumed: tuple[str, ...] = ()


def outcome(case: Case, folder: Path) -> Outcome:
    """Writes *case* into *folder* and loads it."""
    written = case.write(folder)
    try:
        loaded = checkpoint.load(written.place, **written.options)
    except BadInput as error:
        return Outcome("refused", error.message)
    config = loaded.info.config
    image = torch.randn(2, config.channels, *config.image_shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours = loaded.model(image)
        try:
            theirs = written.module.eval()(image)
        except AssertionError as refused:  # images of another shape than its own
            return Outcome("assumed", str(refused), None, loaded.info.assumed)
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    assumed = loaded.info.assumed
    return Outcome("equal" if difference < 1e-5 else "assumed" if assumed else "SILENT", "", difference, assumed)


def vit(seed: int = 0, kind: type[VisionTransformer] = VisionTransformer, **changes: Any) -> VisionTransformer:
    """A ViT of timm's whose every parameter matters."""
    torch.manual_seed(seed)
    return perturbed(kind(**{**TINY, **changes}))


def perturbed(module: _M) -> _M:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return module.eval()


def bare(module: nn.Module, **options: Any) -> Callable[[Path], Written]:
    """Its state dict alone."""

    def write(folder: Path) -> Written:
        safetensors.torch.save_file(module.state_dict(), folder / "vit.safetensors")
        return Written(folder / "vit.safetensors", module, options)

    return write


def pickled(module: nn.Module, content: Any, **options: Any) -> Callable[[Path], Written]:
    """What a trainer saved."""

    def write(folder: Path) -> Written:
        torch.save(content, folder / "vit.pth")
        return Written(folder / "vit.pth", module, options)

    return write


def hub(
    module: nn.Module,
    configs: Mapping[str, Any],
    state: Mapping[str, Tensor] | None = None,
    weights: str = "model.safetensors",
    **options: Any,
) -> Callable[[Path], Written]:
    """A folder as the Hub has it: weights and the JSON files *configs*."""

    def write(folder: Path) -> Written:
        tensors = dict(module.state_dict() if state is None else state)
        if weights.endswith(".bin"):
            torch.save(tensors, folder / weights)
        elif weights.endswith(".json"):
            sharded(tensors, folder)
        else:
            safetensors.torch.save_file(tensors, folder / weights)
        for name, content in configs.items():
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
        return Written(folder, module, options)

    return write


def sharded(state: Mapping[str, Tensor], folder: Path) -> None:
    names = sorted(state)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, part in shards.items():
        safetensors.torch.save_file({name: state[name] for name in part}, folder / shard)
    weight_map = {name: shard for shard, part in shards.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")


def timm_config(arguments: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """``config.json`` as timm.models.push_to_hf_hub writes it, of a module built with *arguments* over TINY."""
    given = {**TINY, **(arguments or {})}
    size = given["img_size"] if isinstance(given["img_size"], tuple) else (given["img_size"],) * 2
    data = {**_DATA, "input_size": [3, *size], "num_classes": given["num_classes"]}
    kept = {name: value for name, value in given.items() if name != "num_classes"}
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": given["num_classes"], "model_args": kept}
    return {"config.json": {**config, "pretrained_cfg": data, **changes}}


def transformers_state(state: Mapping[str, Tensor], prefix: str = "vit.") -> dict[str, Tensor]:
    """*state* under the names that transformers saves a ViTForImageClassification with."""
    renamed: dict[str, Tensor] = {}
    outer = {"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings"}
    layers = {
        "norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
    }  # fmt: skip
    for name, tensor in state.items():
        if match := re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.(\w+)", name):
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                full = f"{prefix}encoder.layer.{match[1]}.attention.attention.{part}.{match[2]}"
                renamed[full] = piece.clone()
        elif match := re.fullmatch(r"blocks\.(\d+)\.(.+)\.(\w+)", name):
            renamed[f"{prefix}encoder.layer.{match[1]}.{layers[match[2]]}.{match[3]}"] = tensor
        elif name.startswith("head."):
            renamed[name.replace("head.", "classifier.")] = tensor
        else:
            theirs = name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
            renamed[prefix + outer.get(name, re.sub(r"^norm\.", "layernorm.", theirs))] = tensor
    return renamed


def transformers_configs(processor: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """``config.json`` and ``preprocessor_config.json`` as transformers writes them for a tiny ViT."""
    config = {
        "architectures": ["ViTForImageClassification"], "model_type": "vit", "hidden_act": "gelu",
        "hidden_size": 192, "intermediate_size": 192, "num_attention_heads": 6, "num_hidden_layers": 2,
        "image_size": SIZE, "patch_size": 8, "num_channels": 3, "qkv_bias": True, "layer_norm_eps": 1e-12,
        "id2label": dict(enumerate(("ant", "bee", "cat", "dog", "eel"))),
    }  # fmt: skip
    images = {
        "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
        "resample": 2, "rescale_factor": 1 / 255, "size": {"height": SIZE, "width": SIZE},
    }  # fmt: skip
    return {"config.json": config | changes, "preprocessor_config.json": images | dict(processor or {})}


def _epsilon(value: float) -> dict[str, Any]:
    return {"norm_layer": partial(LayerNorm, eps=value)}


def _prefixed(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}


def _halved(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module that a file of *dtype* holds, computed in float32."""
    return module.to(dtype).float()


def of_timm(name: str, seed: int = 0, **arguments: Any) -> nn.Module:
    torch.manual_seed(seed)
    return perturbed(timm.create_model(name, num_classes=5, **arguments))


def cases() -> Iterator[Case]:
    """All of them; those of random heads, poolings, activations, epsilons and grids come first."""
    yield from _bare()
    yield from _wrapped()
    yield from _timm_configs()
    yield from _architectures()
    yield from _transformers()


def _bare() -> Iterator[Case]:
    for width, heads in _HEADS_OF.items():
        module = vit(width, num_heads=heads)
        yield Case(f"bare, {heads} heads of {width}", bare(module), "equal" if width == 64 else "assumed", "head width")
        yield Case(f"bare, {heads} heads of {width}, --head-dim", bare(module, head_dim=width), "equal")
    wide = vit(80, embed_dim=1280, num_heads=16, depth=1)
    yield Case("bare, 16 heads of 80 (width 1280)", bare(wide), "refused", "does not state its head width")
    yield Case("bare, 16 heads of 80, --head-dim 80", bare(wide, head_dim=80), "equal")
    odd = vit(81, embed_dim=240, num_heads=3)
    yield Case("bare, 3 heads of 80 (width 240)", bare(odd), "refused", "does not state its head width")
    yield Case("bare, average pooling with fc_norm", bare(vit(1, global_pool="avg")), "equal")
    for pool in ("avg", "max", "avgmax"):
        module = vit(2, global_pool=pool, fc_norm=False)
        yield Case(f"bare, {pool} pooling without fc_norm", bare(module), "assumed", "pooling")
    yield Case("bare, quick-GELU", bare(vit(3, act_layer=QuickGELU)), "assumed", "activation")
    yield Case("bare, tanh GELU", bare(vit(4, act_layer="gelu_tanh")), "assumed", "activation")
    yield Case("bare, epsilon 1e-5", bare(vit(5, **_epsilon(1e-5))), "assumed", "LayerNorm epsilon")
    yield Case("bare, epsilon 1e-3", bare(vit(6, **_epsilon(1e-3))), "assumed", "LayerNorm epsilon")
    flat = vit(7, img_size=(16, 64))
    yield Case("bare, 16x64 image (2x8 patches)", bare(flat), "assumed", "image size")
    yield Case("bare, 16x64 image, --image-size", bare(flat, image_size=(16, 64)), "equal")
    yield Case("bare, --image-size of other positions", bare(vit(), image_size=64), "assumed", "image size")
    yield Case("bare, 24x32 image (3x4 patches)", bare(vit(8, img_size=(24, 32))), "refused", "not a square")
    yield Case("bare, 4 registers", bare(vit(9, reg_tokens=4)), "equal")
    yield Case("bare, qk-norm", bare(vit(10, qk_norm=True)), "equal")
    yield Case("bare, no qkv bias", bare(vit(11, qkv_bias=False)), "equal")
    no_class = vit(12, class_token=False, global_pool="avg", fc_norm=False)
    yield Case("bare, no class token", bare(no_class), "equal")
    yield Case("bare, class token without position", bare(vit(13, no_embed_class=True)), "equal")
    yield Case("bare, distilled", bare(vit(14, VisionTransformerDistilled)), "equal")
    yield Case("bare, attention pooling", bare(vit(17, class_token=False, global_pool="map")), "equal")
    yield Case("bare, norm before the blocks", bare(vit(18, pre_norm=True)), "equal")
    gated = vit(19, mlp_layer=SwiGLUPacked, act_layer=nn.SiLU, mlp_ratio=2.0)
    yield Case("bare, SwiGLU", bare(gated), "equal")
    rotary = of_timm("vit_small_patch16_rope_ape_224", img_size=32, depth=1)
    yield Case("bare, rotary positions", bare(rotary), "assumed", "rotary positions")
    yield Case("bare, no positions", bare(vit(23, pos_embed="none")), "refused", "no tensor pos_embed")
    yield Case("bare, parallel blocks", bare(vit(24, block_fn=ParallelScalingBlock)), "refused", "are parallel")
    for name in ("blocks.1.norm1.bias", "blocks.1.attn.qkv.bias", "norm.bias", "head.bias", "patch_embed.proj.bias"):
        state = {key: tensor for key, tensor in vit(26).state_dict().items() if key != name}
        yield Case(f"bare, without {name}", pickled(vit(26), state), "refused", name)
    scaled = {
        key: tensor for key, tensor in vit(27, init_values=0.3).state_dict().items() if key != "blocks.1.ls2.gamma"
    }
    yield Case(
        "bare, without one LayerScale", pickled(vit(27, init_values=0.3), scaled), "refused", "blocks.1.ls2.gamma"
    )
    late = of_timm("vit_base_patch16_rpn_224", img_size=32, depth=2, embed_dim=64, num_heads=1)
    yield Case("bare, norms after attention and MLP", bare(late, head_dim=64), "assumed", "norms")
    empty = vit(28).state_dict() | {"norm.weight": torch.ones(())}
    yield Case("bare, a tensor of no axes", pickled(vit(28), empty), "refused", "norm.weight")
    yield Case("bare, LayerScale", bare(vit(15, init_values=0.3)), "equal")
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        half = vit(16).to(dtype)
        state = {key: tensor.clone() for key, tensor in half.state_dict().items()}
        yield Case(f"bare, {name}", pickled(half.float(), state), "equal")


def _wrapped() -> Iterator[Case]:
    for prefix in ("module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "model.net._orig_mod."):
        module = vit(20)
        yield Case(f"prefix {prefix}", pickled(module, {"state_dict": _prefixed(module, prefix)}), "equal")
    module, average = vit(21), vit(22)
    lightning = _prefixed(module, "model.") | _prefixed(average, "model_ema.module.")
    yield Case("Lightning with an EMA copy", pickled(average, {"state_dict": lightning}), "equal")
    swa = _prefixed(module, "module.") | {"n_averaged": torch.tensor(7)}
    yield Case("AveragedModel", pickled(module, swa), "equal")
    twice = _prefixed(module, "model.") | _prefixed(average, "net.")
    yield Case("two models in one", pickled(module, twice), "refused", "it contains 2 models")
    masked = module.state_dict() | {"mask_token": torch.randn(1, 192)}
    yield Case("mask token", pickled(module, masked), "equal")
    tied = module.state_dict() | {"head_dist.weight": torch.randn(5, 192)}
    yield Case("a distillation head", pickled(module, tied), "refused", "distillation")
    yield Case("a distillation head, --drop", pickled(module, tied, drop=["head_dist"]), "equal")
    distilled = vit(25, VisionTransformerDistilled)
    tokens = ["dist_token", "head_dist"]
    yield Case("distilled, --drop", bare(distilled, drop=tokens), "refused", "not a square")
    yield Case("--drop of nothing", bare(module, drop=["mask"]), "refused", "no parameters that start with mask")


def _timm_configs() -> Iterator[Case]:
    module = vit(30, num_heads=6)
    configs = timm_config({"num_heads": 6}, label_names=["ant", "bee", "cat", "dog", "eel"])
    yield Case("timm config.json, 6 heads of 32", hub(module, configs), "equal")
    yield Case("timm config.json, flat", hub(module, _flat(configs)), "equal")
    yield Case("timm config.json, shards", hub(module, configs, weights="model.safetensors.index.json"), "equal")
    yield Case("timm config.json, .bin", hub(module, configs, weights="pytorch_model.bin"), "equal")
    for pool, fc_norm in (("avg", False), ("avg", True), ("max", False)):
        arguments: dict[str, Any] = {"global_pool": pool, "fc_norm": fc_norm}
        write = hub(vit(31, **arguments), timm_config(arguments))
        yield Case(f"timm config.json, {pool} pooling, fc_norm={fc_norm}", write, "equal")
    quick: dict[str, Any] = {"act_layer": "quick_gelu"}
    yield Case("timm config.json, quick-GELU", hub(vit(32, **quick), timm_config(quick)), "equal")
    hard: dict[str, Any] = {"act_layer": "hard_swish"}
    yield Case("timm config.json, hard-swish", hub(vit(35, **hard), timm_config(hard)), "refused", "activation")
    flat: dict[str, Any] = {"img_size": (16, 64)}
    yield Case("timm config.json, 16x64", hub(vit(33, **flat), timm_config(flat)), "equal")
    wrong = timm_config({"num_heads": 6, "num_classes": 7})
    yield Case("timm config.json of other classes", hub(module, wrong), "refused", "7 classes")
    deep = timm_config({"num_heads": 6, "depth": 3})
    yield Case("timm config.json of another depth", hub(module, deep), "refused", "3 blocks")
    registers: dict[str, Any] = {"reg_tokens": 2, "no_embed_class": True}
    write = hub(vit(34, **registers), timm_config(registers))
    yield Case("timm config.json, registers", write, "equal")


def _flat(configs: Mapping[str, Any]) -> dict[str, Any]:
    """The form of timm before 0.9: what is now in pretrained_cfg lies beside the architecture."""
    config = dict(configs["config.json"])
    return {"config.json": {**config.pop("pretrained_cfg"), **config}}


def _architectures() -> Iterator[Case]:
    module = of_timm("test_vit")  # 2 heads of 32
    yield Case("bare, test_vit", bare(module), "refused", "does not state its head width")
    yield Case("bare, test_vit, --architecture", bare(module, architecture="test_vit"), "equal")
    dynamic = of_timm("test_vit", img_size=96)
    yield Case("bare, test_vit at 96, --architecture", bare(dynamic, architecture="test_vit"), "equal")
    pooled = of_timm("test_vit3")
    yield Case("bare, test_vit3, --architecture", bare(pooled, architecture="test_vit3"), "equal")
    for name, side in (("eva02_tiny_patch14_224", 56), ("vit_small_plus_patch16_dinov3_qkvb", 64)):
        write = bare(of_timm(name, img_size=side), architecture=name, image_size=side)
        yield Case(f"bare, {name}, --architecture", write, "equal")
    shallow = of_timm("vit_small_patch14_reg4_dinov2", img_size=56, depth=1)
    write = bare(shallow, architecture="vit_small_patch14_reg4_dinov2")
    yield Case("bare, one block of a known architecture, --architecture", write, "equal")
    module = of_timm("test_vit")
    wrong = bare(module, architecture="vit_tiny_patch16_224")
    yield Case("bare, test_vit, wrong --architecture", wrong, "refused", "")
    args = argparse.Namespace(model="test_vit", num_classes=5, img_size=None, gp=None, mean=None, lr=1e-3)
    content = {"arch": "test_vit", "state_dict": module.state_dict(), "args": args, "epoch": 3}
    yield Case("timm's trainer, arch and args", pickled(module, content), "equal")
    pooling = argparse.Namespace(**(vars(args) | {"gp": "avg"}))
    content = content | {"args": pooling}
    yield Case("timm's trainer, args with --gp avg", pickled(module, content), "refused", "fc_norm.weight")
    official = vit(40)
    names = argparse.Namespace(model="hydravit_dyn_patch16_224", num_classes=5)
    content = {"arch": names.model, "state_dict": _prefixed(official, "module."), "args": names}
    yield Case("the authors' trainer", pickled(official, content), "equal")


def _transformers() -> Iterator[Case]:
    module = vit(50, num_heads=6, **_epsilon(1e-12))
    state = transformers_state(module.state_dict())
    yield Case("transformers ViT", hub(module, transformers_configs(), state), "equal")
    yield Case("transformers ViT, .bin", hub(module, transformers_configs(), state, "pytorch_model.bin"), "equal")
    backbone = vit(51, num_heads=6, num_classes=0, **_epsilon(1e-12))
    features = transformers_state(backbone.state_dict(), "") | {"pooler.dense.weight": torch.randn(192, 192)}
    yield Case("transformers ViTModel", hub(backbone, transformers_configs(), features), "equal")
    five = vit(52, num_heads=6, **_epsilon(1e-5))
    write = hub(five, transformers_configs(layer_norm_eps=1e-5), transformers_state(five.state_dict()))
    yield Case("transformers ViT, epsilon 1e-5", write, "equal")
    for name in ("layer.1.", "layernorm.", "layer.1.layernorm_after.bias"):
        fewer = {key: tensor for key, tensor in state.items() if f".{name}" not in key}
        write = hub(module, transformers_configs(), fewer)
        yield Case(f"transformers ViT without {name}", write, "refused", "")
    for name, changes, reason in (
        ("a list for an activation", {"hidden_act": []}, "activation []"),
        ("an activation", {"hidden_act": "mish"}, "activation mish"),
        ("another image", {"image_size": [16, 48]}, "images of 16x48"),
        ("Swin", {"model_type": "swin"}, "model_type swin"),
        ("5 heads", {"num_attention_heads": 5}, "5 heads"),
    ):
        yield Case(f"transformers, {name}", hub(module, transformers_configs(**changes), state), "refused", reason)
    lanczos = transformers_configs({"resample": 1})
    yield Case("transformers, Lanczos", hub(module, lanczos, state), "refused", "not supported")
