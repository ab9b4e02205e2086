"""What is known of an imported ViT, and what had to be assumed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from hydra_export.architecture import HydraConfig
from hydra_export.preprocess import Preprocessing

HEAD_WIDTH = "head width"
POOLING = "pooling"
ACTIVATION = "activation"
EPSILON = "LayerNorm epsilon"
IMAGE_SIZE = "image size"
PREPROCESSING = "preprocessing"


@dataclass(frozen=True, kw_only=True)
class Described:
    """A ViT as it was imported.

    Attributes:
        state: under timm's names.
        preprocessing: None where nothing says how images are made ready.
        unusable: why what is said of that cannot be had here; empty otherwise.
        labels: one per class; empty where unknown.
        assumed: one sentence for each thing that nothing says, its subject before a colon.
        universal: it was trained as a HydraViT, at head counts that it does not say; others at their full width alone.
        module: timm's own module with these weights, where its name is known: the import must compute the same.
    """

    config: HydraConfig
    state: dict[str, Tensor]
    preprocessing: Preprocessing | None = None
    unusable: str = ""
    labels: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    universal: bool = False
    module: nn.Module | None = None


def without(assumed: Iterable[str], *subjects: str) -> tuple[str, ...]:
    """*assumed* less what was assumed of *subjects*."""
    return tuple(line for line in assumed if line.partition(":")[0] not in subjects)
