"""The description of an imported ViT, and the assumptions behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from hydra_export.architecture import HydraConfig
from hydra_export.preprocess import Preprocessing

HEAD_WIDTH = "head width"
POOLING = "pooling"
ACTIVATION = "activation"
EPSILON = "LayerNorm epsilon"
IMAGE_SIZE = "image size"
NORMS = "norms"
POSITIONS = "positions"
ROTARY = "rotary positions"
PREPROCESSING = "preprocessing"


@dataclass(frozen=True)
class Original:
    """timm's own module, and its tensors under its names: the import must compute the same."""

    module: nn.Module
    state: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class ImportedModel:
    """A ViT as it was imported.

    Attributes:
        state: in our form (see ``canonical``).
        preprocessing: None if the checkpoint does not state it.
        unusable: why the stated preprocessing is not supported; empty otherwise.
        labels: one per class; empty where unknown.
        assumed: one sentence per assumption, its subject before a colon.
        universal: trained as a HydraViT, at unstated head counts; other models were trained at full width only.
        original: what it was, if timm has a name for it.
    """

    config: HydraConfig
    state: dict[str, Tensor]
    preprocessing: Preprocessing | None = None
    unusable: str = ""
    labels: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    universal: bool = False
    original: Original | None = None


def without(assumed: Iterable[str], *subjects: str) -> tuple[str, ...]:
    """*assumed* without the assumptions about *subjects*."""
    return tuple(line for line in assumed if line.partition(":")[0] not in subjects)
