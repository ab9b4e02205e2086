"""HydraViT: one Vision Transformer whose first k attention heads are a complete smaller ViT."""

# B batch, N tokens, D width of subnetwork k, E width of the universal model, H heads, C head width, M hidden, K classes
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub import ModelHubMixin
from numpy.typing import NDArray
from timm.layers.norm import LayerNorm
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from hydra_export import checkpoint_file, files
from hydra_export.architecture import HydraConfig
from hydra_export.errors import BadInput
from hydra_export.importing import sources, tensors, timm_form
from hydra_export.preprocess import Preprocessing, imagenet

if TYPE_CHECKING:
    from hydra_export.checkpoint_file import CheckpointFile, CheckpointInfo

# What timm's VisionTransformer takes that does not change which computation it is.
_TIMM_ARGUMENTS = {
    "attn_drop_rate",
    "device",
    "drop_path_rate",
    "drop_rate",
    "dtype",
    "fix_init",
    "pos_drop_rate",
    "proj_drop_rate",
    "weight_init",
}


Span = tuple[int, int]  # from one head count to another


@dataclass(frozen=True)
class Weight:
    """One tensor of the normalised form, and how subnetworks are cut from it.

    *units* has one entry per axis: the channels that one head adds there, 0 where every head count has all.
    The weight is *full* times *factor*: so that no copy is made before a part is asked for.
    """

    full: Tensor
    units: tuple[int, ...]
    factor: float = 1.0

    @property
    def transposed(self) -> Weight:
        """A matrix with its axes exchanged."""
        return Weight(self.full.T, self.units[::-1], self.factor)

    def part(self, spans: Sequence[Span]) -> Tensor:
        """The block between two head counts per axis; axes that all head counts share are whole."""
        view = self.full[
            tuple(
                slice(low * unit, high * unit) if unit else slice(None)
                for (low, high), unit in zip(spans, self.units, strict=True)
            )
        ]
        return view if self.factor == 1.0 else view * self.factor

    def first(self, heads: int) -> Tensor:
        """What subnetwork *heads* uses: a view where there is no factor."""
        return self.part(((0, heads),) * len(self.units))

    def shape(self, heads: int) -> tuple[int, ...]:
        """Shape of what subnetwork *heads* uses."""
        return tuple(unit * heads or size for unit, size in zip(self.units, self.full.shape, strict=True))


def array(tensor: Tensor) -> NDArray[np.float32]:
    """*tensor* as files hold it: contiguous, little-endian float32; a view where it is that already."""
    return np.asarray(tensor.detach().to(torch.float32).contiguous().numpy(), dtype="<f4")


class HydraViT(VisionTransformer, ModelHubMixin):
    """A timm VisionTransformer whose forward takes a head count (HydraViT, NeurIPS 2024, arXiv 2409.17978).

    Parameter names and the meaning of the full width are timm's, so its tools (optimisers, schedules, EMA,
    weight loading) work on it. With separate classifiers, ``head`` is a ModuleDict with keys ``k3``, ``k6``, ...

    ``from_pretrained``, ``save_pretrained`` and ``push_to_hub`` are huggingface_hub's, over the format of
    hydra_export.checkpoint_file; *info* is what that says of the model, and what it will say.
    """

    cls_token: nn.Parameter
    pos_embed: nn.Parameter
    info: CheckpointInfo | None = None

    def __init__(self, config: HydraConfig, **timm_arguments: Any) -> None:
        if refused := sorted(timm_arguments.keys() - _TIMM_ARGUMENTS):
            raise BadInput(f"HydraViT takes no {refused[0]}.", f"It takes {', '.join(sorted(_TIMM_ARGUMENTS))}.")
        super().__init__(**_timm_arguments(config, config.heads), **timm_arguments)
        self.config = config
        self._hub_mixin_config = None  # it lies in the checkpoint; a second copy could contradict it
        if config.separate_classifiers:
            like: dict[str, Any] = {"device": self.cls_token.device, "dtype": self.cls_token.dtype}
            heads = {
                f"k{k}": nn.Linear(config.width(k), config.num_classes, **like) for k in config.separate_classifiers
            }
            for head in heads.values():
                nn.init.zeros_(head.weight)
                nn.init.zeros_(head.bias)
            self.head = nn.ModuleDict(heads)  # type: ignore[assignment]

    def forward(self, image_BCHW: Tensor, heads: int | None = None) -> Tensor:  # type: ignore[override]
        """Logits [B, num_classes] of subnetwork *heads* (all by default); computes the active slices only."""
        heads = self.config.heads if heads is None else heads
        self._assert_heads(heads)
        D = self.config.width(heads)
        patches = self.patch_embed.proj
        x_BDhw = F.conv2d(image_BCHW, patches.weight[:D], patches.bias[:D], stride=patches.stride)
        x_BND = x_BDhw.flatten(2).transpose(1, 2)
        cls_B1D = self.cls_token[..., :D].expand(x_BND.shape[0], -1, -1)
        x_BND = self.pos_drop(torch.cat([cls_B1D, x_BND], dim=1) + self.pos_embed[..., :D])
        *blocks, last = self.blocks
        for block in blocks:
            x_BND = self._block(block, x_BND, heads)
        # Nothing after the last block reads the patches: of that block only the class token is computed.
        x_B1D = self._block(last, x_BND, heads, queries=1)
        cls_BD: Tensor = self.head_drop(_layer_norm(x_B1D[:, 0], self.norm))
        if not self.config.num_classes:
            return cls_BD
        head: Any = self.get_submodule(self.config.classifier(heads))
        logits_BK: Tensor = F.linear(cls_BD, head.weight[:, :D], head.bias)
        return logits_BK

    def _block(self, block: Any, x_BND: Tensor, heads: int, queries: int | None = None) -> Tensor:
        """The first *queries* tokens (all by default) after *block*."""
        attended_BND = self._attention(block.attn, _layer_norm(x_BND, block.norm1), heads, queries)
        x_BND = x_BND[:, :queries] + block.drop_path1(_layer_scale(attended_BND, block.ls1))
        mixed_BND = self._mlp(block.mlp, _layer_norm(x_BND, block.norm2), heads)
        return x_BND + block.drop_path2(_layer_scale(mixed_BND, block.ls2))  # type: ignore[no-any-return]

    def _attention(self, attn: Any, x_BND: Tensor, heads: int, queries: int | None) -> Tensor:
        B, N, D = x_BND.shape
        C = self.config.head_dim
        weight_3DD = attn.qkv.weight.unflatten(0, (3, -1))[:, :D, :D]
        bias_3D = attn.qkv.bias.unflatten(0, (3, -1))[:, :D]
        # One product over the packed slice: three strided ones cost up to 2.5 times as much forward and backward.
        weight, bias = weight_3DD.reshape(3 * D, D), bias_3D.reshape(3 * D)
        if queries is None:
            qkv = F.linear(x_BND, weight, bias)
            q_BHNC, k_BHNC, v_BHNC = qkv.view(B, N, 3, heads, C).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q_BHNC = F.linear(x_BND[:, :queries], weight[:D], bias[:D]).view(B, queries, heads, C).transpose(1, 2)
            kv = F.linear(x_BND, weight[D:], bias[D:])
            k_BHNC, v_BHNC = kv.view(B, N, 2, heads, C).permute(2, 0, 3, 1, 4).unbind(0)
        dropout = attn.attn_drop.p if self.training else 0.0
        x_BHNC = F.scaled_dot_product_attention(q_BHNC, k_BHNC, v_BHNC, dropout_p=dropout)
        x_BND = x_BHNC.transpose(1, 2).reshape(B, x_BHNC.shape[2], D)
        return attn.proj_drop(F.linear(x_BND, attn.proj.weight[:D, :D], attn.proj.bias[:D]))  # type: ignore[no-any-return]

    def _mlp(self, mlp: Any, x_BND: Tensor, heads: int) -> Tensor:
        D, hidden = x_BND.shape[-1], heads * self.config.hidden_per_head
        x_BNM = mlp.drop1(F.gelu(F.linear(x_BND, mlp.fc1.weight[:hidden, :D], mlp.fc1.bias[:hidden])))
        return mlp.drop2(F.linear(x_BNM, mlp.fc2.weight[:D, :hidden], mlp.fc2.bias[:D]))  # type: ignore[no-any-return]

    @classmethod
    def of(cls, file: CheckpointFile) -> Self:
        """The model that *file* holds, in eval mode; its float32 weights may be mapped from the file.

        Raises:
            BadCheckpoint: the tensors are not those of its configuration, or timm's own module computes something else.
        """
        with checkpoint_file.naming(file.path):
            model = cls(file.info.config, weight_init="skip", device="meta")
            _check_tensors({name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}, file.state)
            model.load_state_dict(tensors.as_float32(file.state), assign=True)
            model.eval()
            if file.original is not None:
                dense = model.subnetwork(model.config.heads, copy=False)
                timm_form.check_equal(file.original, model.state_dict(), dense, model.config)
        model.info = file.info
        return model

    def _save_pretrained(self, save_directory: Path) -> None:
        """Writes *model* and what it says of itself as the Hub and ``checkpoint_file.read`` expect it.

        Raises:
            BadInput: a grey model that does not say how its images are normalised.
        """
        info = self.info
        if info is None or info.config != self.config:
            if self.config.channels != 3:
                raise BadInput("The model does not say how its images are normalised.", "Set model.info first.")
            data = imagenet(self.config.image_size)
            info = checkpoint_file.CheckpointInfo(name=save_directory.name, config=self.config, preprocessing=data)
        checkpoint_file.write(save_directory / "model.safetensors", self.state_dict(), info)
        # The Hub counts downloads by this file, and shows it.
        with files.replaced_file(save_directory / "config.json") as partial:
            partial.write_text('{"architecture": "hydravit", "library_name": "hydra-export"}\n', encoding="utf-8")

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        head_dim: int | None = None,
        preprocessing: str | None = None,
        architecture: str | None = None,
        image_size: int | tuple[int, int] | None = None,
        **_config_json: Any,  # is read with the weights
    ) -> HydraViT:
        path = Path(model_id)
        if not path.is_dir():
            path = sources.fetched(
                model_id,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
        return cls.of(
            checkpoint_file.read(
                path,
                head_dim=head_dim,
                preprocessing=preprocessing,
                architecture=architecture,
                image_size=image_size,
            )
        )

    def _assert_heads(self, heads: int) -> None:
        if not 1 <= heads <= self.config.heads:
            raise BadInput(f"The model has no subnetwork with {heads} heads.", f"Give 1 to {self.config.heads}.")

    @torch.no_grad()
    def subnetwork(self, heads: int, *, copy: bool = True) -> VisionTransformer:
        """The dense ViT made of the first *heads* heads; shares no storage with self (HydraViT, section 3).

        Without *copy* most of its weights are views of self: it is for reading alone, and needs hardly any memory.
        """
        self._assert_heads(heads)
        dense = VisionTransformer(**_timm_arguments(self.config, heads), weight_init="skip", device="meta")
        own, classifier = self.state_dict(), self.config.classifier(heads)
        state = {}
        for name, dense_tensor in dense.state_dict().items():
            source = own[name.replace("head.", f"{classifier}.")]
            shape = dense_tensor.shape
            if ".attn.qkv." in name:  # three stacked matrices, each cut for itself
                source, shape = source.unflatten(0, (3, -1)), (3, shape[0] // 3, *shape[1:])
            cut = source[tuple(slice(size) for size in shape)]
            whole = cut.clone(memory_format=torch.contiguous_format) if copy else cut
            state[name] = whole.reshape(dense_tensor.shape)
        dense.load_state_dict(state, assign=True)
        return dense.train(self.training)

    @torch.no_grad()
    def normalised_weights(self, pixels: Preprocessing | None = None) -> dict[str, Weight]:
        """Everything that a target emits from, and what fp16 and int8 round.

        q, k and v are apart and q carries the attention's scale; LayerScale is folded into the Linear before it.
        Linears keep torch's layout [out, in]. ``tokens`` [1, N, E] is what is added to a zero token and the embedded
        patches: the class token at its position, then the other positions. With *pixels*, the patch embedding takes
        raw pixels in 0-255: its weights and bias absorb that normalisation, computed in float64.
        """
        config, own = self.config, self.state_dict()
        C, M = config.head_dim, config.hidden_per_head
        patch, bias = own["patch_embed.proj.weight"], own["patch_embed.proj.bias"]
        if pixels is not None:
            patch, bias = _fold_normalisation(patch, bias, pixels)
        weights = {
            "patch_embed.weight": Weight(patch, (C, 0, 0, 0)),
            "patch_embed.bias": Weight(bias, (C,)),
            "tokens": Weight(F.pad(own["cls_token"], (0, 0, 0, config.num_tokens - 1)) + own["pos_embed"], (0, 0, C)),
        }

        def linear(target: str, weight: Tensor, bias: Tensor, units: tuple[int, int], factor: float = 1.0) -> None:
            weights[f"{target}.weight"] = Weight(weight, units, factor)
            weights[f"{target}.bias"] = Weight(bias, units[:1], factor)

        def norm(name: str) -> None:
            weights[f"{name}.weight"] = Weight(own[f"{name}.weight"], (C,))
            weights[f"{name}.bias"] = Weight(own[f"{name}.bias"], (C,))

        def scaled(name: str, scale: str) -> tuple[Tensor, Tensor]:
            weight, bias = own[f"{name}.weight"], own[f"{name}.bias"]
            gamma = own.get(f"{scale}.gamma")
            return (weight, bias) if gamma is None else (weight * gamma[:, None], bias * gamma)

        for i in range(config.depth):
            block = f"blocks.{i}"
            norm(f"{block}.norm1")
            qkv = zip(
                "qkv", own[f"{block}.attn.qkv.weight"].chunk(3), own[f"{block}.attn.qkv.bias"].chunk(3), strict=True
            )
            for part, weight, bias in qkv:
                linear(f"{block}.attn.{part}", weight, bias, (C, C), C**-0.5 if part == "q" else 1.0)
            linear(f"{block}.attn.proj", *scaled(f"{block}.attn.proj", f"{block}.ls1"), (C, C))
            norm(f"{block}.norm2")
            linear(f"{block}.mlp.fc1", own[f"{block}.mlp.fc1.weight"], own[f"{block}.mlp.fc1.bias"], (M, C))
            linear(f"{block}.mlp.fc2", *scaled(f"{block}.mlp.fc2", f"{block}.ls2"), (C, M))
        norm("norm")
        if config.separate_classifiers:
            for k in config.separate_classifiers:
                linear(f"head.k{k}", own[f"head.k{k}.weight"], own[f"head.k{k}.bias"], (0, 0))
        elif config.num_classes:
            linear("head", own["head.weight"], own["head.bias"], (0, C))
        return weights

    def weights(self, heads: int, pixels: Preprocessing | None = None) -> dict[str, Tensor]:
        """The normalised form of subnetwork *heads*, views where nothing is computed; its classifier is ``head``."""
        self._assert_heads(heads)
        classifier = self.config.classifier(heads)
        return {
            name.replace(classifier, "head"): weight.first(heads)
            for name, weight in self.normalised_weights(pixels).items()
            if not name.startswith("head.k") or name.startswith(f"{classifier}.")
        }


def _check_tensors(wanted: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor]) -> None:
    for name, shape in wanted.items():
        if name not in state:
            raise BadInput(
                f"tensor {name} is missing; the configuration asks for it.", "Use the matching configuration."
            )
        if tuple(state[name].shape) != shape:
            raise BadInput(
                f"tensor {name} has shape {list(state[name].shape)}, the configuration asks for {list(shape)}.",
                "Use the matching configuration.",
            )
    if unknown := sorted(state.keys() - wanted.keys()):
        raise BadInput(f"tensor {unknown[0]} belongs to no supported ViT.", "Export the plain ViT without it.")


def assembled(config: HydraConfig, heads: int, weights: Mapping[str, Tensor]) -> VisionTransformer:
    """The plain timm ViT that the normalised *weights* of subnetwork *heads* are, whatever was done to them."""
    plain = msgspec.structs.replace(config, layer_scale=None, separate_classifiers=())
    dense = VisionTransformer(**_timm_arguments(plain, heads), weight_init="skip", device="meta")
    state = {name: tensor for name, tensor in weights.items() if name in dense.state_dict()}
    state["cls_token"], state["pos_embed"] = torch.zeros(1, 1, config.width(heads)), weights["tokens"]
    for part in ("weight", "bias"):
        state[f"patch_embed.proj.{part}"] = weights[f"patch_embed.{part}"]
        for i in range(config.depth):
            q, k, v = (weights[f"blocks.{i}.attn.{name}.{part}"] for name in "qkv")
            state[f"blocks.{i}.attn.qkv.{part}"] = torch.cat([q * config.head_dim**0.5, k, v])
    dense.load_state_dict(state, assign=True)
    return dense.eval()


def _timm_arguments(config: HydraConfig, heads: int) -> dict[str, Any]:
    return {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "in_chans": config.channels,
        "num_classes": config.num_classes,
        "embed_dim": config.width(heads),
        "depth": config.depth,
        "num_heads": heads,
        "mlp_ratio": config.mlp_ratio,
        "init_values": config.layer_scale,
        "norm_layer": partial(LayerNorm, eps=config.layer_norm_eps),
    }


def _layer_norm(x_BND: Tensor, norm: Any) -> Tensor:
    D = x_BND.shape[-1]
    return F.layer_norm(x_BND, (D,), norm.weight[:D], norm.bias[:D], norm.eps)


def _layer_scale(x_BND: Tensor, scale: nn.Module) -> Tensor:
    return x_BND if isinstance(scale, nn.Identity) else x_BND * scale.gamma[: x_BND.shape[-1]]  # type: ignore[index]


def _fold_normalisation(patch: Tensor, bias: Tensor, pixels: Preprocessing) -> tuple[Tensor, Tensor]:
    """(x / 255 - mean) / std, then the patch embedding, as one embedding of x; exact as there is no padding."""
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in (pixels.mean, pixels.std))
    wide = patch.double() / std
    return (wide / 255).to(patch.dtype), (bias.double() - (wide * mean).sum((1, 2, 3))).to(bias.dtype)


def _registered(config: HydraConfig, pretrained: bool, arguments: dict[str, Any]) -> HydraViT:
    if pretrained:
        raise BadInput(
            "timm has no pretrained weights for HydraViT.", "Load a checkpoint with hydra_export.load_checkpoint(path)."
        )
    for ours, theirs in (("num_classes", "num_classes"), ("image_size", "img_size"), ("channels", "in_chans")):
        if (value := arguments.pop(theirs, None)) is not None:
            if isinstance(value, (tuple, list)) and len(set(value)) == 1:  # timm's (224, 224)
                value = value[0]
            config = msgspec.structs.replace(config, **{ours: value})
    for unused in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        arguments.pop(unused, None)
    model = HydraViT(config, **arguments)
    data = imagenet(config.image_size)
    model.pretrained_cfg = model.default_cfg = {  # type: ignore[assignment]
        "architecture": "hydravit",
        "input_size": (config.channels, config.image_size, config.image_size),
        "num_classes": config.num_classes,
        "mean": data.mean,
        "std": data.std,
        "interpolation": data.interpolation,
        "crop_pct": data.crop,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    return model


@register_model
def hydravit_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> HydraViT:
    """The paper's model: 12 heads of 64, depth 12; subnetworks 3, 6 and 12 are DeiT-tiny, -small and -base."""
    return _registered(HydraConfig(heads=12), pretrained, kwargs)


@register_model
def hydravit_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> HydraViT:
    """6 heads of 64, depth 12; subnetworks 3 and 6 are DeiT-tiny and -small."""
    return _registered(HydraConfig(heads=6), pretrained, kwargs)
