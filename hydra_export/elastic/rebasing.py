"""The change of basis: what is possible for an architecture, how it is made, and that the function is kept."""

# B batch, C channels, H height, W width, E width of a space, d width of a subnetwork, K outputs
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec
import torch
from torch import Tensor

from hydra_export.architecture import HydraConfig
from hydra_export.elastic import spaces
from hydra_export.elastic.basis import principal
from hydra_export.elastic.observation import Batch, Observation, observe
from hydra_export.elastic.spaces import LATENT, RESIDUAL, State
from hydra_export.errors import BadInput, CheckFailed
from hydra_export.model import HydraViT

How = Literal["sort", "rotate"]
# Of the full width's outputs, relative to the largest. float32's noise in ViTs is up to 1e-5, a wrong sign is about 1.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Rebased:
    """A model in another basis.

    Attributes:
        error: the largest difference of the full width's outputs from those before, over the largest of these.
        num_images: how many images heads, units and channels were judged by.
        energy: for each head count the share of the tokens' variance that its channels hold, before and after.
        notes: what was not possible, for the user to see.
    """

    config: HydraConfig
    state: State
    error: float
    num_images: int
    energy: tuple[dict[int, float], dict[int, float]]
    notes: tuple[str, ...] = ()


def rebased(model: HydraViT, batches: Iterable[Batch], how: How = "rotate") -> Rebased:
    """*model* in a basis in which its first heads, hidden units and channels matter most.

    Args:
        model: in eval mode, on any device.
        batches: normalised images and, where they are known, labels; each is seen once.
        how: whether channels are rotated, where that can be, or only sorted.

    Raises:
        BadInput: there are no images, or the model has separate classifiers or no single output vector.
        CheckFailed: the full width does not compute the same afterwards.
    """
    assert not model.training
    config = rebased_config(model.config)
    first: list[Tensor] = []

    def kept() -> Iterator[Batch]:
        for images_BCHW, labels_B in batches:
            first[:] = first or [images_BCHW[:8]]
            yield images_BCHW, labels_B

    seen = observe(model, kept())
    if not seen.num_images:
        raise BadInput("There are no images to rank heads and channels by.", "Pass images.")
    folded = spaces.folded(model.config, _projected(model))
    found = bases(model.config, folded, seen, how)
    state = spaces.changed(config, folded, found)
    energy = _energy(config, seen.covariances[RESIDUAL]), _energy(config, seen.covariances[RESIDUAL], found[RESIDUAL])
    error = _error(model, config, state, first[0])
    reason = cannot_rotate(config) if how == "rotate" else ""
    notes = (f"Its channels are sorted, not rotated: {reason}.",) if reason else ()
    return Rebased(config, state, error, seen.num_images, energy, notes)


def rebased_config(config: HydraConfig) -> HydraConfig:
    """What a model of *config* is in another basis: without LayerScale, and with a projection back of its features.

    Raises:
        BadInput: it has separate classifiers, or gives patch tokens.
    """
    if config.separate_classifiers:
        raise BadInput(
            f"The model has separate classifiers for heads {','.join(map(str, config.separate_classifiers))}: "
            "its narrower subnetworks are trained already.",
            "Pass a dense ViT.",
        )
    if config.pooling == "none":
        raise BadInput(
            "The model outputs patch tokens, whose length differs by head count.", "Pass a model that pools."
        )
    width = 0 if config.num_outputs else config.width(config.heads)
    return msgspec.structs.replace(config, layer_scale=None, projection=config.projection or width)


def cannot_rotate(config: HydraConfig) -> str:
    """Why the channels of such a model cannot be rotated without changing its function; "" where they can."""
    if config.pre_norm:
        return "no Linear follows the norm before its blocks to absorb the gains"
    if config.pooling in ("max", "avgmax"):
        return "the maximum over its tokens changes with the basis"
    return ""


def bases(config: HydraConfig, state: Mapping[str, Tensor], seen: Observation, how: How) -> dict[str, Tensor]:
    """By space, the basis in which its first entries matter most (see ``spaces.changed``)."""
    found = {}
    for space, importance in seen.importances.items():
        order = importance.argsort(descending=True, stable=True)
        if spaces.is_of_heads(space):
            order = (order[:, None] * config.head_dim + torch.arange(config.head_dim)).flatten()
        found[space] = order
    if how == "rotate":
        for space, covariance_EE in seen.covariances.items():
            if not (space == RESIDUAL and cannot_rotate(config)):
                found[space] = principal(covariance_EE, keeps_mean=config.norm == "layer_norm")
    if config.pooling == "attention":  # one vector: its direction first, so that every head count has all of it
        latent_E = state[LATENT].flatten().double()
        found[LATENT] = principal(torch.outer(latent_E, latent_E), keeps_mean=False)
    return found


def _projected(model: HydraViT) -> State:
    """The parameters of *model* on the CPU, with a projection that changes nothing where it has no classifier."""
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    config = rebased_config(model.config)
    if model.config.num_outputs:
        return state
    width, like = config.projection, state["patch_embed.proj.weight"]
    for name in config.classifier_names:
        state[f"{name}.weight"] = torch.eye(width, dtype=like.dtype)
        state[f"{name}.bias"] = like.new_zeros(width)
    return state


@torch.no_grad()
def _error(model: HydraViT, config: HydraConfig, state: State, images_BCHW: Tensor) -> float:
    """How far the full widths are apart on *images_BCHW*.

    Raises:
        CheckFailed: by more than rounding.
    """
    new = HydraViT(config, weight_init="skip", device="meta")
    new.load_state_dict(state, assign=True)
    before_BK, after_BK = model(images_BCHW), new.to(images_BCHW.device).eval()(images_BCHW)
    error = float((after_BK - before_BK).abs().max() / before_BK.abs().max())
    if not error <= _TOLERANCE:
        raise CheckFailed(
            f"In another basis the outputs of the full width differ by {error:.1e} of the largest, "
            f"more than {_TOLERANCE:g}.",
            "Please report this with the checkpoint's architecture.",
        )
    return error


def _energy(config: HydraConfig, covariance_EE: Tensor, basis: Tensor | None = None) -> dict[int, float]:
    """For each head count, the share of the variance that its norms see of the channels."""
    if basis is not None and basis.ndim == 1:
        covariance_EE = covariance_EE[basis][:, basis]
    elif basis is not None:
        covariance_EE = basis @ covariance_EE @ basis.T
    shares = {}
    for k in range(1, config.heads + 1):
        d = config.width(k)
        covariance_dd = covariance_EE[:d, :d]
        mean = covariance_dd.sum() / d if config.norm == "layer_norm" else 0.0  # which LayerNorm takes away
        shares[k] = float((covariance_dd.trace() - mean) / covariance_EE.trace())
    return shares
