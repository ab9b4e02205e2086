"""HydraViT: one Vision Transformer whose first k attention heads are a complete smaller ViT."""

# B batch, N tokens, D width of subnetwork k, E width of the universal model, H heads, C head width, P prefix tokens
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec
import torch
import torch.nn.functional as F
from huggingface_hub import ModelHubMixin
from timm.layers.activations import GELUTanh, QuickGELU
from timm.layers.attention import Attention
from timm.layers.mlp import GluMlp
from timm.layers.norm import LayerNorm, RmsNorm
from timm.layers.patch_embed import PatchEmbed
from timm.layers.weight_init import trunc_normal_
from timm.models import register_model
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hydra_export import adapted, checkpoint_file, files, network, normalised, rotary
from hydra_export.architecture import HydraConfig
from hydra_export.errors import BadInput
from hydra_export.image_size import as_shape
from hydra_export.importing import remote, tensors, timm_form
from hydra_export.network import Operations, Span
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

    ``from_pretrained``, ``save_pretrained`` and ``push_to_hub`` are huggingface_hub's, with the format of
    hydra_export.checkpoint_file; *info* is the description that it reads and writes.
    """

    info: CheckpointInfo | None = None

    def __init__(self, config: HydraConfig, **timm_arguments: Any) -> None:
        if refused := sorted(timm_arguments.keys() - _TIMM_ARGUMENTS):
            raise BadInput(f"HydraViT does not take {refused[0]}.", f"It takes {', '.join(sorted(_TIMM_ARGUMENTS))}.")
        super().__init__(**_timm_arguments(config, config.heads), **timm_arguments)
        self.config, self.cuts = config, network.cuts(config)
        self._hub_mixin_config = None  # it lies in the checkpoint; a second copy could contradict it
        self._packed = {part: (layer.name, i) for layer in network.layers(config) for i, part in enumerate(layer.parts)}
        patches = self.patch_embed.proj.weight
        like: dict[str, Any] = {"device": patches.device, "dtype": patches.dtype}
        _add_tokens_and_classifiers(self, config, config.heads, like)
        if config.rotary is not None:
            tables = rotary.tables(config, config.rotary)
            where = {} if patches.is_meta else like  # computed on the CPU where nothing else is yet
            _add_rotary(self, config, (tables[0].to(**where), tables[1].to(**where)))
        if config.separate_classifiers:
            for name in config.classifier_names:
                heads = {
                    f"k{k}": nn.Linear(config.width(k), config.num_classes, **like) for k in config.separate_classifiers
                }
                for head in heads.values():
                    nn.init.zeros_(head.weight)
                    nn.init.zeros_(head.bias)
                setattr(self, name, nn.ModuleDict(heads))

    def forward(self, image_BCHW: Tensor, heads: int | None = None) -> Tensor:  # type: ignore[override]
        """The output of subnetwork *heads* (all by default), usually logits [B, K]; computes only the active slices."""
        heads = self.config.heads if heads is None else heads
        return network.run(self.operations(heads), self.config, image_BCHW, heads)

    def operations(self, heads: int) -> Operations[Tensor]:
        """The operations of subnetwork *heads*, on slices of the model's parameters."""
        self._assert_heads(heads)
        return _Slices(self, heads)

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
                timm_form.check_equal(file.original, dense, model.config)
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
            raise BadInput("The model does not state how its images are normalised.", "Set model.info first.")
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
        file = checkpoint_file.read(
            path, head_dim=head_dim, preprocessing=preprocessing, architecture=architecture, image_size=image_size
        )
        model = cls.of(file)
        if image_size is not None:
            other = adapted.at_image_size(file.info, file.state, as_shape(image_size))
            if other.info != file.info:
                return cls.of(dataclasses.replace(file, info=other.info, state=other.state, original=None))
        return model

    def _assert_heads(self, heads: int) -> None:
        if not 1 <= heads <= self.config.heads:
            raise BadInput(f"The model has no subnetwork with {heads} heads.", f"Choose from 1 to {self.config.heads}.")

    @torch.no_grad()
    def subnetwork(self, heads: int, *, copy: bool = True) -> VisionTransformer:
        """The dense ViT made of the first *heads* heads; shares no storage with self (HydraViT, section 3).

        Without *copy*, most of its weights are views of self: it is read-only and needs hardly any memory.
        """
        self._assert_heads(heads)
        dense = _dense(self.config, heads)
        own, classifiers = self.state_dict(), self.config.classifiers(heads)
        renamed = dict(zip(self.config.classifier_names, classifiers, strict=True))
        state = {}
        for name, dense_tensor in dense.state_dict().items():
            layer, dot, kind = name.partition(".")
            source = f"{renamed.get(layer, layer)}{dot}{kind}"
            cut = self.cuts[source].first(own[source], heads)
            whole = cut.clone(memory_format=torch.contiguous_format) if copy else cut
            state[name] = whole.reshape(dense_tensor.shape)
        dense.load_state_dict(state, assign=True)
        return dense.train(self.training)

    def packed(self, name: str) -> tuple[str, int | None]:
        """The layer that holds the layer *name* of the normalised form, and which part of it that is."""
        layer, part = self._packed[name]
        return layer, part if self.cuts[f"{layer}.weight"].stacked > 1 else None

    def normalised_weights(self, pixels: Preprocessing | None = None) -> dict[str, Weight]:
        """The normalised form of all parameters (see ``normalised.weights``)."""
        return normalised.weights(self.config, self.state_dict(), pixels)

    def weights(self, heads: int, pixels: Preprocessing | None = None) -> dict[str, Tensor]:
        """The normalised form of subnetwork *heads*, classifiers by timm's names; views where nothing is computed."""
        self._assert_heads(heads)
        self.config.classifiers(heads)  # refuses one that is missing
        return {
            name.replace(f".k{heads}.", ".") if weight.cut.owner else name: weight.first(heads)
            for name, weight in self.normalised_weights(pixels).items()
            if weight.cut.used_by((heads,))
        }


class _Slices(Operations[Tensor]):
    """The operations on slices of the universal model's own parameters, with what training adds to them."""

    def __init__(self, model: HydraViT, heads: int) -> None:
        self.model, self.heads = model, heads
        self._cut: dict[str, Tensor] = {}

    def block(self, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Forgets what is inside until the backward pass where timm's ``set_grad_checkpointing`` asks for that."""
        if self.model.grad_checkpointing and self.model.training and torch.is_grad_enabled():
            return checkpoint(run, x, use_reentrant=False)
        return run(x)

    def embed(self, image_BCHW: Tensor) -> Tensor:
        model, config = self.model, self.model.config
        x_BDhw = F.conv2d(image_BCHW, *self._layer("patch_embed"), stride=model.patch_embed.proj.stride)
        x_BND = x_BDhw.flatten(2).transpose(1, 2)
        if config.positions == "patches":
            x_BND = x_BND + self._parameter("pos_embed")
        if config.num_prefix_tokens:
            prefix_BPD = [self._parameter(name).expand(x_BND.shape[0], -1, -1) for name in config.prefix_tokens]
            x_BND = torch.cat([*prefix_BPD, x_BND], dim=1)
        if config.positions == "all":
            x_BND = x_BND + self._parameter("pos_embed")
        return model.pos_drop(x_BND)  # type: ignore[no-any-return]

    def norm(self, x: Tensor, place: str) -> Tensor:
        size, epsilon = x.shape[-1:], self.model.config.layer_norm_eps
        if self.model.config.norm == "rms_norm":
            return F.rms_norm(x, size, self._layer(place)[0], epsilon)
        return F.layer_norm(x, size, *self._layer(place), epsilon)

    def linear(self, x: Tensor, place: str) -> Tensor:
        return F.linear(x, *self._layer(place))

    def qkv(self, query_BND: Tensor, x_BND: Tensor, place: str) -> tuple[Tensor, Tensor, Tensor]:
        """One product over the packed slice: three strided ones cost up to 2.5 times as much forward and backward."""
        if place == "attn_pool":
            places = ((query_BND, "q"), (x_BND, "k"), (x_BND, "v"))
            q_BHNC, k_BHNC, v_BHNC = (self._heads_apart(self.linear(x, f"{place}/{part}"))[0] for x, part in places)
            return q_BHNC, k_BHNC, v_BHNC
        weight_3DD, bias_3D = self._first(f"{place}/qkv")
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

    def head_norm(self, x_BHNC: Tensor, place: str) -> Tensor:
        return self.norm(x_BHNC, place)

    def rotate(self, x_BHNC: Tensor, place: str) -> Tensor:
        return _rotated(x_BHNC, *self._module("blocks.0/attn").tables)

    def attention(self, qkv: tuple[Tensor, Tensor, Tensor], place: str, num_queries: int) -> Tensor:
        dropout = 0.0 if place == "attn_pool" or not self.model.training else self._module(place).attn_drop.p
        return F.scaled_dot_product_attention(*qkv, dropout_p=dropout).transpose(1, 2).flatten(2)

    def activation(self, x: Tensor, place: str) -> Tensor:
        mlp = self._module(place)
        return mlp.act(x) if self.model.config.gated_mlp else mlp.drop1(mlp.act(x))  # type: ignore[no-any-return]

    def product(self, x: Tensor, y: Tensor, place: str) -> Tensor:
        return self._module(place).drop1(x * y)  # type: ignore[no-any-return]

    def residual(self, x_BND: Tensor, y_BND: Tensor, place: str) -> Tensor:
        if place.startswith("attn_pool"):
            return x_BND + y_BND
        block = self._module(place.partition("/")[0])
        if place.endswith("attn"):
            drop, scale, drop_path = block.attn.proj_drop, block.ls1, block.drop_path1
        else:
            drop, scale, drop_path = block.mlp.drop2, block.ls2, block.drop_path2
        y_BND = drop(y_BND)
        if not isinstance(scale, nn.Identity):
            y_BND = y_BND * self._parameter(f"{place.partition('/')[0]}/ls{1 if place.endswith('attn') else 2}/gamma")
        return x_BND + drop_path(y_BND)  # type: ignore[no-any-return]

    def select(self, x_BND: Tensor, span: Span, place: str) -> Tensor:
        return x_BND[:, slice(*span)]

    def pool(self, x_BND: Tensor, kind: str, place: str) -> Tensor:
        if kind == "avg":
            return x_BND.mean(1, keepdim=True)
        largest_B1D = x_BND.amax(1, keepdim=True)
        return largest_B1D if kind == "max" else 0.5 * (largest_B1D + x_BND.mean(1, keepdim=True))

    def latent(self, x_BND: Tensor, place: str) -> Tensor:
        return self._parameter(place).expand(x_BND.shape[0], -1, -1)

    def features(self, x_B1D: Tensor, place: str) -> Tensor:
        return self.model.head_drop(x_B1D[:, 0])  # type: ignore[no-any-return]

    def classifier(self, features: Sequence[tuple[Tensor, str]]) -> Tensor:
        logits = [F.linear(features_BD, *self._layer(weights)) for features_BD, weights in features]
        return logits[0] if len(logits) == 1 else (logits[0] + logits[1]) * self.model.config.logits_share

    def patch_tokens(self, x_BND: Tensor) -> Tensor:
        return x_BND

    def _module(self, place: str) -> Any:
        return attrgetter(place.replace("/", "."))(self.model)

    def _parameter(self, place: str) -> Tensor:
        """The subnetwork's part, the same tensor each time: when a block is repeated in the backward pass, the model
        may have other parameters than in ``functional_call``.
        """
        name = place.replace("/", ".")
        if name not in self._cut:
            self._cut[name] = self.model.cuts[name].first(self._module(place), self.heads)
        return self._cut[name]

    def _layer(self, place: str) -> tuple[Tensor, Tensor]:
        """The weight and the bias of the subnetwork; an RMSNorm has a weight alone."""
        layer, part = self.model.packed(place.replace("/", "."))
        tensors = self._first(layer)
        return tensors if part is None else (tensors[0][part], tensors[1][part])

    def _first(self, place: str) -> tuple[Tensor, Tensor]:
        name = place.replace("/", ".")
        weight = self._parameter(f"{name}.weight")
        return weight, self._parameter(f"{name}.bias") if f"{name}.bias" in self.model.cuts else weight


def _rotated(x_BHNC: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """See ``network.Operations.rotate``."""
    first, second = x_BHNC.chunk(2, dim=-1)
    return x_BHNC * cosines + torch.cat([second, first], dim=-1) * sines


class _RotaryAttention(Attention):
    """timm's attention with rotary positions."""

    cosines: Tensor
    sines: Tensor

    def turn(self, tables: tuple[Tensor, Tensor]) -> None:
        """By these from now on."""
        for name, table in zip(("cosines", "sines"), tables, strict=True):
            self.register_buffer(name, table, persistent=False)

    @property
    def tables(self) -> tuple[Tensor, Tensor]:
        """Cosines and sines [N, C]."""
        return self.cosines, self.sines

    def forward(self, x_BND: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """As Attention's."""
        B, N, D = x_BND.shape
        qkv = self.qkv(x_BND).reshape(B, N, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        q, k = (_rotated(x, *self.tables) for x in (self.q_norm(q), self.k_norm(k)))
        y_BND = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask).transpose(1, 2).reshape(B, N, D)
        return self.proj_drop(self.proj(self.norm(y_BND)))  # type: ignore[no-any-return]


def assembled(config: HydraConfig, heads: int, weights: Mapping[str, Tensor]) -> VisionTransformer:
    """The plain timm ViT that the normalised *weights* of subnetwork *heads* are, whatever was done to them."""
    positions = "all" if "tokens" in weights else "none"
    plain = msgspec.structs.replace(config, layer_scale=None, separate_classifiers=(), positions=positions)
    tables = (weights["rope.cos"][0, 0], weights["rope.sin"][0, 0]) if config.rotary is not None else None
    dense = _dense(plain, heads, tables)
    state = {name: torch.zeros(1, count, config.width(heads)) for name, count in config.prefix_tokens.items()}
    if positions == "all":
        state["pos_embed"] = weights["tokens"]
    if config.pooling == "attention":
        state["attn_pool.latent"] = weights["attn_pool.latent"]
    for layer in network.layers(plain):
        for kind in ("weight", "bias")[: 1 + layer.has_bias]:
            parts = [weights[f"{part}.{kind}"] for part in layer.parts]
            if layer.factor != 1.0:
                parts[0] = parts[0] * (1 / layer.factor)
            state[f"{layer.name}.{kind}"] = torch.cat(parts) if len(parts) > 1 else parts[0]
    dense.load_state_dict(state, assign=True)
    return dense.eval()


def _dense(config: HydraConfig, heads: int, tables: tuple[Tensor, Tensor] | None = None) -> VisionTransformer:
    """timm's module of subnetwork *heads*, without weights; with rotary positions as *tables* say."""
    dense = VisionTransformer(**_timm_arguments(config, heads), weight_init="skip", device="meta")
    _add_tokens_and_classifiers(dense, config, heads, {"device": "meta"})
    if config.distillation_token:
        dense.__class__ = VisionTransformerDistilled
        dense.distilled_training = False  # type: ignore[assignment]
    elif config.pooling == "token_avg":
        dense.__class__ = _TwoClassifiers
    _add_rotary(dense, config, tables)
    return dense


def _add_rotary(model: VisionTransformer, config: HydraConfig, tables: tuple[Tensor, Tensor] | None = None) -> None:
    """The tables, which are no parameters: one pair for all blocks."""
    if config.rotary is not None:
        tables = tables or rotary.tables(config, config.rotary)
        for block in model.blocks:
            attention: Any = block.attn
            attention.turn(tables)


class _TwoClassifiers(VisionTransformer):
    """As transformers' Dinov2ForImageClassification."""

    def forward_head(self, x_BND: Tensor, pre_logits: bool = False) -> Tensor:
        """The sum of what is made of the class token and of the mean over patches."""
        if pre_logits:  # of the two features, that of a backbone
            return x_BND[:, 0]
        patches_BD = x_BND[:, self.num_prefix_tokens :].mean(1)
        return self.head(x_BND[:, 0]) + self.head_patches(patches_BD)  # type: ignore[no-any-return,operator]


def _add_tokens_and_classifiers(
    model: VisionTransformer, config: HydraConfig, heads: int, like: dict[str, Any]
) -> None:
    """What timm's VisionTransformer has not: a second classifier, and a distillation token."""
    width, num_outputs = config.width(heads), config.num_outputs
    if config.distillation_token:
        model.num_prefix_tokens = 2
        model.dist_token = nn.Parameter(torch.empty(1, 1, width, **like))
        trunc_normal_(model.dist_token, std=0.02)
        if config.num_positions:
            model.pos_embed = nn.Parameter(torch.empty(1, config.num_positions, width, **like))
            trunc_normal_(model.pos_embed, std=0.02)
    for name in config.classifier_names[1:]:
        setattr(model, name, nn.Linear(width, num_outputs, **like) if num_outputs else nn.Identity())


_POOLING = {"attention": "map", "none": "", "token_avg": "token"}  # timm's names of what has another
_ACTIVATIONS = {"gelu": nn.GELU, "gelu_tanh": GELUTanh, "quick_gelu": QuickGELU, "relu": nn.ReLU, "silu": nn.SiLU}


def _timm_arguments(config: HydraConfig, heads: int) -> dict[str, Any]:
    width, hidden = config.width(heads), config.hidden(heads)
    arguments = {
        "img_size": config.image_shape,
        "patch_size": config.patch_size,
        "in_chans": config.channels,
        "num_classes": config.num_outputs,
        "global_pool": _POOLING.get(config.pooling, config.pooling),
        "embed_dim": width,
        "depth": config.depth,
        "num_heads": heads,
        "mlp_ratio": (hidden + 0.5) / width,  # of which timm takes the whole part
        "qk_norm": config.qk_norm,
        "scale_attn_norm": config.attention_norm,
        "scale_mlp_norm": config.mlp_norm,
        "init_values": config.layer_scale,
        "class_token": config.class_token,
        "pos_embed": "none" if config.positions == "none" else "learn",
        "no_embed_class": config.positions == "patches",
        "reg_tokens": config.register_tokens,
        "pre_norm": config.pre_norm,
        "final_norm": config.final_norm != "none",
        "fc_norm": config.final_norm == "after_pooling",
        "pool_include_prefix": config.pool_prefix,
        "embed_layer": _patch_embed,
        "norm_layer": partial(LayerNorm if config.norm == "layer_norm" else RmsNorm, eps=config.layer_norm_eps),
        "act_layer": _ACTIVATIONS[config.activation],
    }
    if config.gated_mlp:
        arguments["mlp_layer"] = _gated_mlp
    if config.rotary is not None:
        arguments["attn_layer"] = _RotaryAttention
    return arguments


def _patch_embed(**arguments: Any) -> PatchEmbed:
    """With a bias, which timm leaves out in front of a norm: there it is 0."""
    return PatchEmbed(**arguments | {"bias": True})


def _gated_mlp(in_features: int, hidden_features: int, **others: Any) -> GluMlp:
    """As wide after the gate as another MLP would be; the gate's half comes first."""
    return GluMlp(in_features, 2 * hidden_features, gate_last=False, **others)


def _registered(config: HydraConfig, pretrained: bool, arguments: dict[str, Any]) -> HydraViT:
    if pretrained:
        raise BadInput(
            "timm has no pretrained weights for HydraViT.", "Load a checkpoint with hydra_export.load_checkpoint(path)."
        )
    for ours, theirs in (("num_classes", "num_classes"), ("image_size", "img_size"), ("channels", "in_chans")):
        if (value := arguments.pop(theirs, None)) is not None:
            config = msgspec.structs.replace(config, **{ours: tuple(value) if isinstance(value, list) else value})
    for unused in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        arguments.pop(unused, None)
    model = HydraViT(config, **arguments)
    data = imagenet(config.image_size)
    model.pretrained_cfg = model.default_cfg = {  # type: ignore[assignment]
        "architecture": "hydravit",
        "input_size": (config.channels, *config.image_shape),
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
