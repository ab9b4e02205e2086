"""The architecture of a universal model in numbers: no tensors, no torch."""

# N tokens, D width of subnetwork k
from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import msgspec

from hydra_export.errors import BadInput
from hydra_export.image_size import ImageSize, as_shape, as_size

_MOST_SHOWN = 4  # head counts in an example
# No ViT known is near these; far above them a typing error would only exhaust the memory.
_LARGEST = {
    "heads": 256,
    "head_dim": 1024,
    "depth": 256,
    "patch_size": 1024,
    "image_size": 8192,
    "num_classes": 1_000_000,
    "projection": 1_000_000,
    "channels": 4,
    "register_tokens": 256,
}
_MAY_BE_0 = ("num_classes", "projection", "register_tokens")


Positions = Literal["all", "patches", "none"]
Norm = Literal["layer_norm", "rms_norm"]
FinalNorm = Literal["before_pooling", "after_pooling", "none"]
Pooling = Literal["token", "avg", "max", "avgmax", "token_avg", "attention", "none"]
Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"]


class Rotary(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rotary positions: queries and keys of patches are rotated by angles that grow with their row and column.

    Attributes:
        grid: ``index``: rows and columns are counted from 0 (EVA-02); ``centered``: they run from -1 to 1 (DINOv3).
        temperature: the longest period over the shortest.
        offset: added to rows and columns first.
        reference: rows and columns of the grid that positions are scaled to; None for no scaling.
        columns_first: the first half of the angles is for columns.
    """

    grid: Literal["index", "centered"] = "index"
    temperature: float = 10000.0
    offset: float = 0.0
    reference: tuple[int, int] | None = None
    columns_first: bool = False

    def __post_init__(self) -> None:
        if not 1 < self.temperature <= 1e9 or not abs(self.offset) <= 1e6:
            raise BadInput(
                f"Rotary positions have temperature {self.temperature} and offset {self.offset}.",
                "Use a temperature above 1 and an offset within 1e6.",
            )
        if self.reference is not None and not all(1 <= side <= _LARGEST["image_size"] for side in self.reference):
            raise BadInput(f"Rotary positions refer to a grid of {self.reference}.", "Use rows and columns above 0.")


class HydraConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The architecture of a universal model (HydraViT, section 3).

    Attributes:
        heads: attention heads of the universal model; subnetwork k has the first k.
        head_dim: channels per head; subnetwork k is ``k * head_dim`` wide.
        patch_size: pixels, square.
        image_size: pixels: the side, or height and width; incomplete patches at the right and bottom are not read.
        num_classes: 0 for a backbone that returns features.
        projection: for a model without classes, output channels of a Linear after the pooled features, the same at
            every head count (CLIP's visual projection); 0 for none.
        mlp_ratio: hidden over outer width of the MLP; for a gated one, the width after the gate.
        layer_scale: initial value of timm's LayerScale, None for none.
        separate_classifiers: the head counts with a classifier of their own; empty if all share one.
        layer_norm_eps: what norms add to the variance: 1e-6 in timm, 1e-12 in transformers' ViTs.
        class_token, distillation_token, register_tokens: the tokens before those of the patches, in this order.
        positions: the tokens that learned positions are added to.
        rotary: rotary positions, None for none.
        pre_norm: a norm of the tokens before the blocks (CLIP).
        norm: the kind of all norms.
        final_norm: where the last norm is.
        pooling: how the tokens become one vector: the class token, a mean or maximum over patches, half the sum of
            both, attention with a learned query (SigLIP), or ``none``: the patch tokens are the output. ``token_avg``:
            the class token and the mean over patches have a classifier each, and their sum is the logits (DINOv2 in
            transformers). A distilled model (``token`` and a distillation token) takes the mean of both tokens' logits.
        pool_prefix: whether the tokens before the patches are pooled too.
        activation: the MLP's activation.
        gated_mlp: the MLP multiplies the activation of one Linear by another Linear (SwiGLU).
        qk_norm, attention_norm, mlp_norm: norms of each head's queries and keys, before the attention's last Linear,
            and before the MLP's.
    """

    heads: int
    head_dim: int = 64
    depth: int = 12
    patch_size: int = 16
    image_size: ImageSize = 224
    channels: int = 3
    num_classes: int = 1000
    projection: int = 0
    mlp_ratio: float = 4.0
    layer_scale: float | None = None
    separate_classifiers: tuple[int, ...] = ()
    layer_norm_eps: float = 1e-6
    class_token: bool = True
    distillation_token: bool = False
    register_tokens: int = 0
    positions: Positions = "all"
    rotary: Rotary | None = None
    pre_norm: bool = False
    norm: Norm = "layer_norm"
    final_norm: FinalNorm = "before_pooling"
    pooling: Pooling = "token"
    pool_prefix: bool = False
    activation: Activation = "gelu"
    gated_mlp: bool = False
    qk_norm: bool = False
    attention_norm: bool = False
    mlp_norm: bool = False

    def __post_init__(self) -> None:
        sizes = {name: getattr(self, name) for name in _LARGEST if name != "image_size"}
        for name, value, largest in (
            *((name, value, _LARGEST[name]) for name, value in sizes.items()),
            *(("image_size", side, _LARGEST["image_size"]) for side in self.image_shape),
        ):
            smallest = 0 if name in _MAY_BE_0 else 1
            if not smallest <= value <= largest:
                raise BadInput(f"Model {name} is {value}.", f"Use {smallest} to {largest}.")
        msgspec.structs.force_setattr(self, "image_size", as_size(*self.image_shape))  # equal models are equal
        if min(self.image_shape) < self.patch_size:
            raise BadInput(
                f"Images of {self.image_text} are smaller than the patches, {self.patch_size}.", "Use larger ones."
            )
        hidden = self.width(self.heads) * self.mlp_ratio
        if not 0 < self.mlp_ratio <= 64 or abs(hidden - round(hidden)) > 1e-6 or hidden < self.heads:
            raise BadInput(
                f"MLP ratio {self.mlp_ratio} at width {self.width(self.heads)} is not a whole number of channels.",
                "Choose a ratio whose product with the width is a whole number, at least one per head.",
            )
        if self.layer_scale is not None and not math.isfinite(self.layer_scale):
            raise BadInput(f"LayerScale starts at {self.layer_scale}.", "Use a finite number.")
        if not 1e-12 <= self.layer_norm_eps <= 1e-3:
            raise BadInput(f"Model layer_norm_eps is {self.layer_norm_eps}.", "Use 1e-12 to 0.001.")
        self._check_tokens()
        own = self.separate_classifiers
        if own and not self.num_classes:
            raise BadInput("separate_classifiers is set, but the model has no classes.", "Set num_classes.")
        if list(own) != sorted({k for k in own if 1 <= k <= self.heads}):
            raise BadInput(
                f"Separate classifiers are listed for heads {list(own)}.",
                f"List head counts from 1 to {self.heads} once each, in ascending order.",
            )

    def _check_tokens(self) -> None:
        """Refuses choices that contradict each other."""
        if self.pooling in ("token", "token_avg") and not self.class_token:
            raise BadInput(
                f"Model pooling is {self.pooling}, but it has no class token.", "Use pooling avg, or set class_token."
            )
        if self.pooling == "token_avg" and not self.num_classes:
            raise BadInput(
                "Model pooling is token_avg, but it has no classifier.", "Use pooling token, or set num_classes."
            )
        if self.distillation_token and self.pooling != "token":
            raise BadInput(f"Pooling {self.pooling} does not work for a distilled model.", "Use pooling token.")
        if self.final_norm == "after_pooling" and len(self.classifier_names) > 1:
            raise BadInput(
                "A model with two classifiers cannot have its norm after pooling.", "Use final_norm before_pooling."
            )
        if self.distillation_token and self.positions == "none":
            raise BadInput("A distilled model needs learned positions.", "Use positions all or patches.")
        if self.distillation_token and self.register_tokens:
            raise BadInput("A distilled model cannot have register tokens.", "Choose one of the two.")
        if self.projection and self.num_classes:
            raise BadInput(
                f"The model has both {self.num_classes} classes and a projection to {self.projection} channels.",
                "Set one of them to 0.",
            )
        if self.pooling == "none" and self.num_classes:
            raise BadInput("A model without pooling cannot have a classifier.", "Set num_classes to 0, or use pooling.")
        if self.pooling == "none" and self.projection:
            raise BadInput("A model without pooling cannot have a projection.", "Set projection to 0, or use pooling.")
        if self.pooling in ("token", "token_avg", "none") and self.pool_prefix:
            raise BadInput(f"Model pool_prefix does not work with pooling {self.pooling}.", "Leave it out.")
        if self.pooling == "none" and self.final_norm == "after_pooling":
            raise BadInput("A model without pooling cannot have a norm after it.", "Use final_norm before_pooling.")
        if self.rotary is not None and self.head_dim % 4:
            raise BadInput(f"Rotary positions do not work with head_dim {self.head_dim}.", "Use a multiple of 4.")

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of images, in pixels."""
        return as_shape(self.image_size)

    @property
    def image_text(self) -> str:
        """The image size as people write it: ``224x224``, height first."""
        return "{}x{}".format(*self.image_shape)

    @property
    def resolution(self) -> int:
        """The side of images in pixels; of those that are not square, of a square with as many pixels."""
        return round(math.sqrt(math.prod(self.image_shape)))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width = self.image_shape
        return height // self.patch_size, width // self.patch_size

    @property
    def prefix_tokens(self) -> dict[str, int]:
        """The parameters that are tokens before those of the patches, by timm's names, and how many each holds."""
        counts = {
            "cls_token": int(self.class_token),
            "dist_token": int(self.distillation_token),
            "reg_token": self.register_tokens,
        }
        return {name: count for name, count in counts.items() if count}

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before those of the patches."""
        return sum(self.prefix_tokens.values())

    @property
    def num_patches(self) -> int:
        """Patches of an image."""
        return math.prod(self.grid)

    @property
    def num_tokens(self) -> int:
        """Prefix tokens and patches."""
        return self.num_prefix_tokens + self.num_patches

    @property
    def num_positions(self) -> int:
        """Tokens with a learned position."""
        return {"all": self.num_tokens, "patches": self.num_patches, "none": 0}[self.positions]

    @property
    def num_read_tokens(self) -> int | None:
        """Tokens, the first ones, that are read after the last block; None for all."""
        return 1 + self.distillation_token if self.pooling == "token" else None

    @property
    def num_pooled_tokens(self) -> int:
        """Tokens that a mean, a maximum or attention pools."""
        return self.num_tokens if self.pool_prefix else self.num_patches

    def hidden(self, heads: int) -> int:
        """MLP channels of subnetwork *heads*."""
        return int(heads * self.hidden_per_head)

    @property
    def hidden_per_head(self) -> Fraction:
        """MLP channels that one head adds, on average: subnetwork k has this times k, rounded down."""
        return Fraction(round(self.width(self.heads) * self.mlp_ratio), self.heads)

    @property
    def attention_scale(self) -> float:
        """What attention multiplies the products of queries and keys by."""
        return float(self.head_dim**-0.5)

    def is_plain(self, trained_heads: Sequence[int]) -> bool:
        """Whether a model of these *trained_heads* is an ordinary ViT: its full width alone was trained."""
        return tuple(trained_heads) == (self.heads,)

    def width(self, heads: int) -> int:
        """Embedding channels of subnetwork *heads*."""
        return heads * self.head_dim

    @property
    def num_outputs(self) -> int:
        """Classes, or channels of the projection: the rows of ``head``; 0 without either."""
        return self.num_classes or self.projection

    @property
    def output(self) -> str:
        """What the graphs call their output: a backbone has no logits."""
        if self.pooling == "none":
            return "patch_tokens"
        return "logits" if self.num_classes else "features"

    @property
    def output_text(self) -> str:
        """The output as people write it: ``patch tokens``, or ``512 features`` of a projection."""
        text = self.output.replace("_", " ")
        return f"{self.projection} {text}" if self.projection else text

    def output_shape(self, heads: int) -> tuple[int, ...]:
        """Of what subnetwork *heads* returns of one image: logits, features, or a vector for each patch."""
        vector = (self.num_outputs or self.width(heads),)
        return (self.num_patches, *vector) if self.pooling == "none" else vector

    @property
    def classifier_names(self) -> tuple[str, ...]:
        """timm's names, of a projection too; of two, the output is the mean of a distilled model's, else their sum."""
        second = "head_dist" if self.distillation_token else "head_patches"
        return ("head", second)[: 1 + (self.distillation_token or self.pooling == "token_avg")]

    @property
    def logits_share(self) -> float:
        """What each classifier's logits, or each projection, is multiplied by before they are summed."""
        return 0.5 if self.distillation_token else 1.0

    def classifiers(self, heads: int) -> tuple[str, ...]:
        """Name prefixes of the classifiers that subnetwork *heads* uses: one, or two of a distilled model."""
        names = self.classifier_names
        if not self.separate_classifiers:
            return names
        if heads not in self.separate_classifiers:
            listed = ",".join(map(str, self.separate_classifiers))
            raise BadInput(
                f"The model has no classifier for heads {heads}.", f"Choose from its separate ones: `heads={listed}`."
            )
        return tuple(f"{name}.k{heads}" for name in names)


def parse_heads(text: str, largest: int, usual: Sequence[int] = (), argument: str = "heads") -> tuple[int, ...]:
    """Head counts from a command-line list: ``3,6,12`` or ``all``, ascending, each in 1..*largest*.

    Args:
        usual: what messages give as an example; by default the largest and half of it.
        argument: whose value it is.
    """
    if text.strip() == "all":
        return tuple(range(1, largest + 1))
    example = usual if 0 < len(usual) <= _MOST_SHOWN else sorted({max(1, largest // 2), largest})
    listed = ",".join(map(str, example))
    remedy = f"Use head counts from 1 to {largest}, each once, separated by commas, or 'all': `{argument}={listed}`."
    heads: list[int] = []
    for part in text.split(","):
        # int() would take '1_2', '+3' and digits of other scripts.
        if not (part.strip().isascii() and part.strip().isdigit() and len(part.strip()) < 6):
            raise BadInput(f"`{argument}` {_shown(text)}: {_shown(part)} is not a head count.", remedy)
        heads.append(int(part))
    return check_heads(heads, largest, remedy, argument)


def check_heads(heads: Sequence[int], largest: int, remedy: str = "", argument: str = "heads") -> tuple[int, ...]:
    """*heads* in ascending order; refuses an empty list, duplicates and counts outside 1..*largest*."""
    if not heads:
        raise BadInput("No head count was given.", remedy)
    for k in heads:
        if not 1 <= k <= largest:
            raise BadInput(f"`{argument}`: {k} is out of range.", remedy or f"Use head counts from 1 to {largest}.")
    if len(set(heads)) != len(heads):
        twice = next(k for k in heads if list(heads).count(k) > 1)
        raise BadInput(f"`{argument}`: {twice} is listed twice.", remedy or "List each head count once.")
    return tuple(sorted(heads))


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
