"""The architecture of a universal model in numbers: no tensors, no torch."""

# N tokens, D width of subnetwork k
from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from hydra_export.errors import BadInput

_MOST_SHOWN = 4  # head counts in an example
# No ViT known is near these; far above them a typing error would only exhaust the memory.
_LARGEST = {
    "heads": 256,
    "head_dim": 1024,
    "depth": 256,
    "patch_size": 1024,
    "image_size": 8192,
    "num_classes": 1_000_000,
}


class HydraConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The architecture of a universal model (HydraViT, section 3).

    Attributes:
        heads: attention heads of the universal model; subnetwork k has the first k.
        head_dim: channels per head; subnetwork k is ``k * head_dim`` wide.
        patch_size, image_size: pixels, both square.
        num_classes: 0 for a backbone that returns the normalised class token.
        mlp_ratio: hidden over outer width of the MLP.
        layer_scale: initial value of timm's LayerScale, None without.
        separate_classifiers: the head counts with a classifier of their own; empty where all share one.
        layer_norm_eps: what LayerNorm adds to the variance: 1e-6 in timm, 1e-12 in transformers' ViTs.
    """

    heads: int
    head_dim: int = 64
    depth: int = 12
    patch_size: int = 16
    image_size: int = 224
    channels: int = 3
    num_classes: int = 1000
    mlp_ratio: float = 4.0
    layer_scale: float | None = None
    separate_classifiers: tuple[int, ...] = ()
    layer_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        for name, largest in _LARGEST.items():
            value = getattr(self, name)
            smallest = 0 if name == "num_classes" else 1
            if not smallest <= value <= largest:
                raise BadInput(f"Model {name} is {value}.", f"Give {smallest} to {largest}.")
        if self.channels not in (1, 3):
            raise BadInput(f"Model channels is {self.channels}.", "Give 1 (grey) or 3 (RGB).")
        if self.image_size % self.patch_size:
            raise BadInput(
                f"Image size {self.image_size} is not a multiple of patch size {self.patch_size}.",
                "Choose sizes that divide.",
            )
        if not 0 < self.mlp_ratio <= 64 or (self.head_dim * self.mlp_ratio) % 1:
            raise BadInput(
                f"MLP ratio {self.mlp_ratio} with head_dim {self.head_dim} gives no whole number of channels per head.",
                "Choose a ratio for which head_dim * mlp_ratio is a whole number.",
            )
        if self.layer_scale is not None and not math.isfinite(self.layer_scale):
            raise BadInput(f"LayerScale starts at {self.layer_scale}.", "Give a finite number.")
        if not 1e-12 <= self.layer_norm_eps <= 1e-3:
            raise BadInput(f"Model layer_norm_eps is {self.layer_norm_eps}.", "Give 1e-12 to 0.001.")
        own = self.separate_classifiers
        if own and not self.num_classes:
            raise BadInput("Separate classifiers are listed for a model without classes.", "Give num_classes.")
        if list(own) != sorted({k for k in own if 1 <= k <= self.heads}):
            raise BadInput(
                f"Separate classifiers are listed for heads {list(own)}.",
                f"List head counts from 1 to {self.heads} once each, in ascending order.",
            )

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before those of the patches: the class token."""
        return 1

    @property
    def num_patches(self) -> int:
        """Patches of an image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_tokens(self) -> int:
        """Prefix tokens and patches."""
        return self.num_prefix_tokens + self.num_patches

    @property
    def hidden_per_head(self) -> int:
        """MLP channels that one head adds."""
        return int(self.head_dim * self.mlp_ratio)

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
    def output(self) -> str:
        """What the graphs call their output: a backbone has no logits."""
        return "logits" if self.num_classes else "features"

    def num_outputs(self, heads: int) -> int:
        """Numbers per image that subnetwork *heads* returns: one per class, or its width without a classifier."""
        return self.num_classes or self.width(heads)

    def classifier(self, heads: int) -> str:
        """Name prefix of the classifier that subnetwork *heads* uses."""
        if not self.separate_classifiers:
            return "head"
        if heads not in self.separate_classifiers:
            listed = ",".join(map(str, self.separate_classifiers))
            raise BadInput(
                f"The model has no classifier for heads {heads}.", f"It has separate ones: give `heads={listed}`."
            )
        return f"head.k{heads}"

    def num_params(self, heads: int) -> int:
        """Parameters of the dense subnetwork *heads* (for ViT-B/16: PAPER table, DeiT's own numbers)."""
        D, hidden = self.width(heads), heads * self.hidden_per_head
        embedding = D * self.channels * self.patch_size**2 + D + D + self.num_tokens * D
        block = 4 * D + 4 * D * D + 4 * D + 2 * D * hidden + hidden + D + (2 * D if self.layer_scale else 0)
        return embedding + self.depth * block + 2 * D + self.num_classes * (D + 1 if self.num_classes else 0)

    def macs(self, heads: int) -> int:
        """Multiply-accumulates of one image through subnetwork *heads*: all products, attention's included."""
        N, D, hidden = self.num_tokens, self.width(heads), heads * self.hidden_per_head
        embedding = self.num_patches * D * self.channels * self.patch_size**2
        block = N * (4 * D * D + 2 * D * hidden) + 2 * N * N * D
        return embedding + self.depth * block + D * self.num_classes


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
    remedy = f"Give head counts from 1 to {largest}, each once, separated by commas, or 'all': `{argument}={listed}`."
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
            raise BadInput(f"`{argument}`: {k} is out of range.", remedy or f"Give head counts from 1 to {largest}.")
    if len(set(heads)) != len(heads):
        twice = next(k for k in heads if list(heads).count(k) > 1)
        raise BadInput(f"`{argument}`: {twice} is listed twice.", remedy or "List each head count once.")
    return tuple(sorted(heads))


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
