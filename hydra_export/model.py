"""HydraViT: one Vision Transformer whose first k attention heads are a complete smaller ViT."""

# B batch, N tokens, D width of subnetwork k, E width of the universal model, H heads, C head width, P prefix tokens
from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec
import torch
import torch.nn.functional as F
from huggingface_hub import ModelHubMixin
from timm.layers.norm import LayerNorm
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from hydra_export import checkpoint_file, files, network, normalised
from hydra_export.architecture import HydraConfig
from hydra_export.errors import BadInput
from hydra_export.importing import remote, tensors, timm_form
from hydra_export.network import Operations
from hydra_export.normalised import Weight
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
        self.config, self.cuts = config, network.cuts(config)
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
        return network.run(_Slices(self, heads), self.config, image_BCHW, heads)

    @classmethod
    def of(cls, file: CheckpointFile) -> Self:
        """The model that *file* holds, in eval mode; its float32 weights may be mapped from the file.

        Raises:
            BadCheckpoint: timm's own module computes something else.
        """
        with checkpoint_file.naming(file.path):
            model = cls(file.info.config, weight_init="skip", device="meta")
            model.load_state_dict(tensors.as_float32(file.state), assign=True)
            model.eval()
            if file.original is not None:
                dense = model.subnetwork(model.config.heads, copy=False)
                timm_form.check_equal(file.original, model.state_dict(), dense, model.config)
        model.info = file.info
        return model

    def description(self, name: str) -> CheckpointInfo:
        """*info*, or, of a model that has none, what its shapes say; then it is called *name*.

        Raises:
            BadInput: a grey model that does not say how its images are normalised.
        """
        if self.info is not None and self.info.config == self.config:
            return self.info
        if self.config.channels != 3:
            raise BadInput("The model does not say how its images are normalised.", "Set model.info first.")
        data = imagenet(self.config.image_size)
        assumed = (checkpoint_file.DEITS_PREPROCESSING,)
        return checkpoint_file.CheckpointInfo(name=name, config=self.config, preprocessing=data, assumed=assumed)

    def _save_pretrained(self, save_directory: Path) -> None:
        """Writes the model and its description as the Hub and ``checkpoint_file.read`` expect it."""
        info = self.description(save_directory.name)
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
            path = remote.fetched(
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
            source = name.replace("head.", f"{classifier}.")
            cut = self.cuts[source].first(own[source], heads)
            whole = cut.clone(memory_format=torch.contiguous_format) if copy else cut
            state[name] = whole.reshape(dense_tensor.shape)
        dense.load_state_dict(state, assign=True)
        return dense.train(self.training)

    def normalised_weights(self, pixels: Preprocessing | None = None) -> dict[str, Weight]:
        """The normalised form of all parameters (see ``normalised.weights``)."""
        return normalised.weights(self.config, self.state_dict(), pixels)

    def weights(self, heads: int, pixels: Preprocessing | None = None) -> dict[str, Tensor]:
        """The normalised form of subnetwork *heads*, views where nothing is computed; its classifier is ``head``."""
        self._assert_heads(heads)
        classifier = self.config.classifier(heads)
        return {
            name.replace(classifier, "head"): weight.first(heads)
            for name, weight in self.normalised_weights(pixels).items()
            if weight.cut.used_by((heads,))
        }


class _Slices(Operations[Tensor]):
    """The operations on slices of the universal model's own parameters, with what training adds to them."""

    def __init__(self, model: HydraViT, heads: int) -> None:
        self.model, self.heads = model, heads

    def embed(self, image_BCHW: Tensor) -> Tensor:
        x_BDhw = F.conv2d(image_BCHW, *self._layer("patch_embed/proj"), stride=self.model.patch_embed.proj.stride)
        x_BND = x_BDhw.flatten(2).transpose(1, 2)
        cut, names = self.model.cuts["pos_embed"], (*self.model.config.prefix_tokens, "pos_embed")
        *prefix, positions_1ND = (cut.first(getattr(self.model, name), self.heads) for name in names)
        prefix_BPD = [tokens.expand(x_BND.shape[0], -1, -1) for tokens in prefix]
        return self.model.pos_drop(torch.cat([*prefix_BPD, x_BND], dim=1) + positions_1ND)  # type: ignore[no-any-return]

    def layer_norm(self, x_BND: Tensor, place: str) -> Tensor:
        return F.layer_norm(x_BND, x_BND.shape[-1:], *self._layer(place), self.model.config.layer_norm_eps)

    def linear(self, x: Tensor, place: str) -> Tensor:
        return F.linear(x, *self._layer(place))

    def qkv(self, query_BND: Tensor, x_BND: Tensor, place: str) -> tuple[Tensor, Tensor, Tensor]:
        """One product over the packed slice: three strided ones cost up to 2.5 times as much forward and backward."""
        weight_3DD, bias_3D = self._layer(f"{place}/qkv")
        D = x_BND.shape[-1]
        weight, bias = weight_3DD.reshape(3 * D, D), bias_3D.reshape(3 * D)
        if query_BND is x_BND:
            q_BHNC, k_BHNC, v_BHNC = self._heads_apart(F.linear(x_BND, weight, bias))
        else:
            (q_BHNC,) = self._heads_apart(F.linear(query_BND, weight[:D], bias[:D]))
            k_BHNC, v_BHNC = self._heads_apart(F.linear(x_BND, weight[D:], bias[D:]))
        return q_BHNC, k_BHNC, v_BHNC

    def _heads_apart(self, x_BND: Tensor) -> tuple[Tensor, ...]:
        C = self.model.config.head_dim
        parts = x_BND.shape[2] // (self.heads * C)  # said, as -1 is ambiguous where the batch is empty
        x = x_BND.view(*x_BND.shape[:2], parts, self.heads, C)
        return x.permute(2, 0, 3, 1, 4).unbind(0)

    def attention(self, qkv: tuple[Tensor, Tensor, Tensor], place: str, num_queries: int) -> Tensor:
        dropout = self._module(place).attn_drop.p if self.model.training else 0.0
        return F.scaled_dot_product_attention(*qkv, dropout_p=dropout).transpose(1, 2).flatten(2)

    def activation(self, x: Tensor, place: str) -> Tensor:
        return self._module(place).drop1(F.gelu(x))  # type: ignore[no-any-return]

    def residual(self, x_BND: Tensor, y_BND: Tensor, place: str) -> Tensor:
        block = self._module(place.partition("/")[0])
        if place.endswith("attn"):
            drop, scale, drop_path = block.attn.proj_drop, block.ls1, block.drop_path1
        else:
            drop, scale, drop_path = block.mlp.drop2, block.ls2, block.drop_path2
        y_BND = drop(y_BND)
        if not isinstance(scale, nn.Identity):
            y_BND = y_BND * scale.gamma[: y_BND.shape[-1]]
        return x_BND + drop_path(y_BND)  # type: ignore[no-any-return]

    def select(self, x_BND: Tensor, place: str) -> Tensor:
        return x_BND[:, :1]

    def features(self, x_B1D: Tensor) -> Tensor:
        return self.model.head_drop(x_B1D[:, 0])  # type: ignore[no-any-return]

    def classifier(self, features_BD: Tensor, weights: str) -> Tensor:
        return F.linear(features_BD, *self._layer(weights))

    def _module(self, place: str) -> Any:
        return attrgetter(place.replace("/", "."))(self.model)

    def _layer(self, place: str) -> tuple[Tensor, Tensor]:
        """The weight and the bias of the subnetwork."""
        name, cuts = place.replace("/", "."), self.model.cuts
        layer = attrgetter(name)(self.model)
        weight, bias = cuts[f"{name}.weight"], cuts[f"{name}.bias"]
        return weight.first(layer.weight, self.heads), bias.first(layer.bias, self.heads)


def assembled(config: HydraConfig, heads: int, weights: Mapping[str, Tensor]) -> VisionTransformer:
    """The plain timm ViT that the normalised *weights* of subnetwork *heads* are, whatever was done to them."""
    plain = msgspec.structs.replace(config, layer_scale=None, separate_classifiers=())
    dense = VisionTransformer(**_timm_arguments(plain, heads), weight_init="skip", device="meta")
    zeros = {name: torch.zeros(1, count, config.width(heads)) for name, count in config.prefix_tokens.items()}
    state = {**zeros, "pos_embed": weights["tokens"]}
    for layer in network.layers(plain):
        for kind in ("weight", "bias"):
            parts = [weights[f"{part}.{kind}"] for part in layer.parts]
            if len(parts) > 1:
                parts[0] = parts[0] * (1 / config.attention_scale)
            state[f"{layer.name}.{kind}"] = torch.cat(parts) if len(parts) > 1 else parts[0]
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
