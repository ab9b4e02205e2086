"""What images say of a dense ViT: along which directions its tokens vary, and how much each head and unit matters."""

# B batch, C channels, H height, W width, N tokens, E width of a space, K outputs
from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hydra_export import network
from hydra_export.architecture import HydraConfig
from hydra_export.elastic import spaces
from hydra_export.model import HydraViT

BATCH = 8  # images at a time: all their activations and gradients are kept, 5 GB of a ViT-L
Batch = tuple[Tensor, Tensor | None]  # normalised images [B, C, H, W], and their labels [B] where these are known


@dataclass
class Observation:
    """Sums over the images that were seen.

    Attributes:
        num_images: how many these are.
        covariances: by space, float64 [E, E], of the vectors that its norms give before their gains; each norm has the
            same weight.
        importances: by space, float64, one per head or, in other spaces, one per entry: first-order Taylor importances
            (arXiv 1906.10771), the sum over images of |activation x gradient|, which is summed over tokens first.
    """

    num_images: int = 0
    covariances: dict[str, Tensor] = field(default_factory=dict)
    importances: dict[str, Tensor] = field(default_factory=dict)


def observe(model: HydraViT, batches: Iterable[Batch]) -> Observation:
    """Runs *batches* forward and backward through the full width of *model*, one after the other.

    Gradients are those of the labels' cross-entropy; of images without labels, of random sums of the outputs.
    """
    config, seen = model.config, Observation()
    generator = torch.Generator().manual_seed(0)
    with _frozen(model):
        for images_BCHW, labels_B in batches:
            watched: Any = _Watched(model)
            outputs = network.run(watched, config, images_BCHW.detach().requires_grad_(), config.heads)
            torch.autograd.backward(_loss(outputs, labels_B, generator))
            seen.num_images += len(images_BCHW)
            for space, normed_BNE in watched.normed:
                _add(seen.covariances, space, _covariance(normed_BNE) * len(images_BCHW))
            for space, active_BNE in watched.active:
                _add(seen.importances, space, _importance(active_BNE, space, config))
    return seen


@contextmanager
def _frozen(model: HydraViT) -> Iterator[None]:
    """Without gradients of parameters, which nobody reads."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_()


def _add(sums: dict[str, Tensor], space: str, value: Tensor) -> None:
    sums[space] = sums[space] + value if space in sums else value


@torch.no_grad()
def _covariance(normed_BNE: Tensor) -> Tensor:
    x = normed_BNE.flatten(0, -2).double()
    return (x.T @ x / len(x)).cpu()


@torch.no_grad()
def _importance(active_BNE: Tensor, space: str, config: HydraConfig) -> Tensor:
    assert active_BNE.grad is not None
    taylor_BE = (active_BNE * active_BNE.grad).sum(1)
    if spaces.is_of_heads(space):
        taylor_BE = taylor_BE.view(len(taylor_BE), -1, config.head_dim).sum(2)
    return taylor_BE.abs().sum(0).double().cpu()


def _loss(outputs: Tensor, labels_B: Tensor | None, generator: torch.Generator) -> Tensor:
    if labels_B is not None:
        return F.cross_entropy(outputs, labels_B, reduction="sum")
    outputs = outputs - outputs.mean(-1, keepdim=True)
    signs = torch.randint(0, 2, outputs.shape, generator=generator).to(outputs) * 2 - 1
    return (outputs * signs).sum()


class _Watched:
    """The operations of the full width, which keep what norms give and Linears read."""

    def __init__(self, model: HydraViT) -> None:
        self._operations: Any = model.operations(model.config.heads)
        self._config, self._spaces = model.config, spaces.spaces(model.config)
        self.normed: list[tuple[str, Tensor]] = []
        self.active: list[tuple[str, Tensor]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._operations, name)

    def norm(self, x: Tensor, place: str) -> Tensor:
        (space,) = self._spaces[f"{_name(place)}.weight"]
        result: Tensor = self._operations.norm(x, place)
        if spaces.is_stream(space) and place != "norm_pre":
            normalise = F.rms_norm if self._config.norm == "rms_norm" else F.layer_norm
            self.normed.append((space, normalise(x.detach(), x.shape[-1:], eps=self._config.layer_norm_eps)))
            self._keep(space, result)
        return result

    def linear(self, x: Tensor, place: str) -> Tensor:
        if place.endswith(("proj", "fc2")):
            self._keep(self._spaces[f"{_name(place)}.weight"][1], x)
        result: Tensor = self._operations.linear(x, place)
        return result

    def _keep(self, space: str, x: Tensor) -> None:
        x.retain_grad()
        self.active.append((space, x))


def _name(place: str) -> str:
    return place.replace("/", ".")
