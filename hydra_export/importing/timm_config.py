"""What timm's module of a ViT computes, as our configuration says it, or why that cannot be said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from timm.layers.activations import GELU, GELUTanh, QuickGELU, Swish
from timm.layers.attention import Attention, AttentionRope
from timm.layers.attention_pool import AttentionPoolLatent
from timm.layers.layer_scale import LayerScale
from timm.layers.mlp import GluMlp, Mlp, SwiGLU
from timm.layers.norm import LayerNorm, RmsNorm
from timm.layers.patch_embed import PatchEmbed
from timm.layers.pos_embed_sincos import RotaryEmbeddingCat, RotaryEmbeddingDinoV3
from timm.models import is_model_in_modules
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva, EvaAttention, EvaBlock
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from hydra_export.architecture import Activation, FinalNorm, HydraConfig, Norm, Pooling, Positions, Rotary
from hydra_export.errors import BadInput
from hydra_export.importing.canonical import Layout
from hydra_export.importing.shapes import ONLY

MODULES = ("vision_transformer", "deit", "eva", "model")  # timm's with ViTs of ours, and hydra_export.model
# Of timm's modules with transformers of other kinds, what they have that subnetworks do not support.
_OTHERS = {
    "beit": "relative positions",
    "vision_transformer_relpos": "relative positions",
    "vision_transformer_hybrid": "a convolutional stem",
    **dict.fromkeys(
        ("swin_transformer", "swin_transformer_v2", "pvt_v2", "twins", "hiera", "mvitv2"), "several stages"
    ),
}
_KINDS = (VisionTransformer, VisionTransformerDistilled, Eva)
_POOLING: dict[str, Pooling] = {"token": "token", "avg": "avg", "max": "max", "avgmax": "avgmax", "map": "attention"}
_ACTIVATIONS: dict[type, Activation] = {
    GELUTanh: "gelu_tanh", QuickGELU: "quick_gelu", nn.ReLU: "relu", nn.SiLU: "silu", Swish: "silu"
}  # fmt: skip


def check_name(name: str) -> None:
    """Refuses what timm does not know as a ViT of ours.

    Raises:
        BadInput: with the reason.
    """
    if not is_model_in_modules(name, MODULES):
        had = next((what for module, what in _OTHERS.items() if is_model_in_modules(name, (module,))), "")
        raise BadInput(f"{name} has {had}." if had else f"{name} is not a Vision Transformer.", ONLY)


def of_module(module: nn.Module, who: str) -> tuple[HydraConfig, Layout]:
    """The configuration, and what the names of its tensors do not say.

    Raises:
        BadInput: subnetworks do not support it; *who* is what the module is called.
    """
    if problem := next(_differences(module), ""):
        raise BadInput(f"{who} has {problem}.", ONLY)
    vit: Any = module
    attn, mlp = vit.blocks[0].attn, vit.blocks[0].mlp
    rope, embed = getattr(vit, "rope", None), vit.patch_embed
    positions: Positions = "none" if vit.pos_embed is None else "patches" if vit.no_embed_class else "all"
    before, after = (not isinstance(getattr(vit, name), nn.Identity) for name in ("norm", "fc_norm"))
    final_norm: FinalNorm = "after_pooling" if after else "before_pooling" if before else "none"
    norm: Norm = "rms_norm" if isinstance(vit.blocks[0].norm1, RmsNorm) else "layer_norm"
    config = HydraConfig(
        heads=attn.num_heads,
        head_dim=attn.head_dim,
        depth=len(vit.blocks),
        patch_size=embed.patch_size[0],
        image_size=embed.img_size[0] if len(set(embed.img_size)) == 1 else tuple(embed.img_size),
        channels=embed.proj.in_channels,
        num_classes=vit.num_classes,
        mlp_ratio=mlp.fc2.in_features / vit.embed_dim,
        layer_scale=_layer_scale(vit.blocks[0]),
        layer_norm_eps=vit.blocks[0].norm1.eps,
        class_token=vit.cls_token is not None,
        distillation_token=getattr(vit, "dist_token", None) is not None,
        register_tokens=0 if vit.reg_token is None else vit.reg_token.shape[1],
        positions=positions,
        rotary=None if rope is None else _rotary(rope),
        pre_norm=not isinstance(vit.norm_pre, nn.Identity),
        norm=norm,
        final_norm=final_norm,
        pooling=_POOLING[vit.global_pool],
        # Eva pools by attention over all tokens, but takes the mean of patches alone.
        pool_prefix=getattr(vit, "pool_include_prefix", vit.global_pool == "map") and vit.num_prefix_tokens > 0,
        activation=_activation(mlp.act) or "gelu",  # another is refused
        gated_mlp=isinstance(mlp, (GluMlp, SwiGLU)),
        qk_norm=not isinstance(attn.q_norm, nn.Identity),
        attention_norm=not isinstance(attn.norm, nn.Identity),
        mlp_norm=not isinstance(mlp.norm, nn.Identity),
    )
    interleaved = rope is not None and not attn.rotate_half
    return config, Layout(isinstance(mlp, GluMlp) and mlp.gate_last, attn.head_dim if interleaved else 0)


def _differences(module: Any) -> Iterator[str]:
    """Features of *module* that subnetworks do not support."""
    if type(module) not in _KINDS:
        yield f"a class of its own, {type(module).__name__}"
        return
    if not module.blocks:
        yield "no blocks"
        return
    if module.global_pool not in _POOLING:
        yield f"{module.global_pool or 'no'} pooling"
    embed = module.patch_embed
    if type(embed) is not PatchEmbed or not isinstance(embed.norm, nn.Identity):
        yield "a patch embedding other than one convolution"
    elif embed.dynamic_img_pad:
        yield "images that are padded to whole patches"
    elif len(set(embed.patch_size)) != 1:
        yield "patches that are not square"
    if not isinstance(getattr(module, "patch_drop", None), (nn.Identity, type(None))):
        yield "a layer patch_drop"
    if not all(isinstance(head, (nn.Linear, nn.Identity)) for head in _heads(module)):
        yield "a classifier that is not a Linear"
    if (rope := getattr(module, "rope", None)) is not None:
        if type(rope) not in (RotaryEmbeddingCat, RotaryEmbeddingDinoV3):
            yield f"rotary positions of another kind, {type(rope).__name__}"
        elif getattr(rope, "normalize_coords", "separate") != "separate" or getattr(rope, "in_pixels", False):
            yield "rotary positions of another grid"
    for block in module.blocks:
        yield from _differences_of_block(block)
    kinds = {(type(norm), norm.eps) for norm in _norms(module)}
    if not {kind for kind, _ in kinds} <= {LayerNorm, nn.LayerNorm} and not {kind for kind, _ in kinds} <= {RmsNorm}:
        yield f"norms of other kinds, {', '.join(sorted({kind.__name__ for kind, _ in kinds}))}"
    elif len({eps for _, eps in kinds}) > 1:
        yield "norms of different epsilons"
    if (pool := getattr(module, "attn_pool", None)) is not None:
        yield from _differences_of_pool(pool, module)


def _differences_of_block(block: Any) -> Iterator[str]:
    if type(block) not in (Block, EvaBlock) or type(block.attn) not in (Attention, AttentionRope, EvaAttention):
        yield "blocks of another kind"
        return
    attn, mlp = block.attn, block.mlp
    if type(mlp) not in (Mlp, GluMlp, SwiGLU):
        yield f"an MLP of another kind, {type(mlp).__name__}"
        return
    if attn.num_heads * attn.head_dim != attn.proj.out_features or attn.scale != attn.head_dim**-0.5:
        yield "attention of another width or scale"
    if getattr(attn, "num_kv_heads", attn.num_heads) != attn.num_heads:
        yield "fewer heads of keys than of queries"
    if getattr(attn, "gate", None) is not None:
        yield "gated attention"
    if not _activation(mlp.act):
        yield f"the activation {type(mlp.act).__name__}"
    scales = [getattr(block, name, None) for name in ("ls1", "ls2")]
    if not all(isinstance(scale, (nn.Identity, LayerScale, type(None))) for scale in scales):
        yield "another LayerScale"


def _differences_of_pool(pool: Any, module: Any) -> Iterator[str]:
    attn, mlp = module.blocks[0].attn, module.blocks[0].mlp
    if type(pool) is not AttentionPoolLatent or pool.latent_len != 1 or pool.pos_embed is not None or pool.mlp is None:
        yield "another attention pooling"
    elif pool.num_heads != attn.num_heads:
        yield f"attention pooling of {pool.num_heads} heads, where its blocks have {attn.num_heads}"
    elif not isinstance(pool.q, nn.Linear) or not isinstance(pool.q_norm, nn.Identity):
        yield "attention pooling without a Linear for the query, or with qk-norm"
    elif pool.mlp.fc1.out_features != mlp.fc2.in_features or _activation(pool.mlp.act) != _activation(mlp.act):
        yield "attention pooling with another MLP than its blocks have"


def _heads(module: Any) -> Iterator[nn.Module]:
    yield module.head
    if isinstance(module, VisionTransformerDistilled):
        yield module.head_dist


def _norms(module: Any) -> Iterator[Any]:
    places = [module.norm_pre, module.norm, module.fc_norm]
    for block in module.blocks:
        if type(block) in (Block, EvaBlock):
            attn = block.attn
            places += [block.norm1, block.norm2, attn.q_norm, attn.k_norm, attn.norm, getattr(block.mlp, "norm", None)]
    if (pool := getattr(module, "attn_pool", None)) is not None:
        places.append(pool.norm)
    yield from (norm for norm in places if norm is not None and not isinstance(norm, nn.Identity))


def _layer_scale(block: Any) -> float | None:
    if getattr(block, "gamma_1", None) is not None:
        return float(block.init_values)
    scale = getattr(block, "ls1", None)
    return float(scale.init_values or 1e-5) if isinstance(scale, LayerScale) else None


def _activation(act: nn.Module) -> Activation | None:
    if type(act) in (nn.GELU, GELU):
        return "gelu_tanh" if getattr(act, "approximate", "none") == "tanh" else "gelu"
    return _ACTIVATIONS.get(type(act))


def _rotary(rope: Any) -> Rotary:
    centered = isinstance(rope, RotaryEmbeddingDinoV3)
    reference = getattr(rope, "ref_feat_shape", None)
    return Rotary(
        grid="centered" if centered else "index",
        temperature=float(rope.temperature),
        offset=float(rope.grid_offset),
        reference=tuple(reference) if reference else None,
        columns_first=rope.grid_indexing == "xy",
    )
