"""timm's optimisers over a universal model: over whole parameters, or over the shells that a step uses."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

import torch
from timm.optim import (  # type: ignore[attr-defined]
    create_optimizer_v2,
    param_groups_layer_decay,
    param_groups_weight_decay,
)
from torch import Tensor
from torch.optim import Optimizer

from hydra_export.errors import BadInput
from hydra_export.model import HydraViT
from hydra_export.network import Cut
from hydra_export.train import sampling
from hydra_export.train.config import TrainConfig

# Their update of an element depends on that element's own gradients alone, so shells may be updated apart.
_DRAWS = 4000
_ELEMENTWISE = {"adam", "adamw", "adamax", "lion", "nadam", "nadamw", "sgd", "nesterov", "momentum", "rmsprop"}


class Updates(Protocol):
    """What turns the gradients of a step into new weights of the model."""

    optimizer: Optimizer

    def take(self, gradients: Mapping[str, Tensor], heads: Collection[int]) -> None:
        """Gives the optimiser the *gradients* of a step on *heads*, each of the largest subnetwork's size."""

    def give(self, heads: Collection[int]) -> None:
        """Puts what the optimiser changed after a step on *heads* into the model."""

    def refresh(self) -> None:
        """Takes over weights that were loaded into the model."""


def get(config: TrainConfig, model: HydraViT, num_processes: int = 1) -> Updates:
    """The optimiser of *config* over the parameters of *model*, which *num_processes* train together."""
    return ActiveSlices(config, model, num_processes) if config.active_slices else WholeParameters(config, model)


class WholeParameters:
    """The optimiser sees the universal model's parameters; the gradient of what a step did not use is zero.

    Momentum and weight decay therefore move every weight at every step.
    """

    def __init__(self, config: TrainConfig, model: HydraViT) -> None:
        self._parameters, self._cuts = dict(model.named_parameters()), model.cuts
        self.optimizer = _optimizer(config, _groups(config, model))

    def take(self, gradients: Mapping[str, Tensor], heads: Collection[int]) -> None:
        """See Updates."""
        largest = max(heads)
        for name, parameter in self._parameters.items():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            else:
                parameter.grad.zero_()
            if name in gradients:
                place = self._cuts[name].first(parameter.grad, largest)
                place.copy_(gradients[name].view(place.shape))

    def give(self, heads: Collection[int]) -> None:
        """Nothing to do: the optimiser changed the parameters themselves."""

    def refresh(self) -> None:
        """Nothing to do."""


class ActiveSlices:
    """The optimiser sees one vector per shell between trained head counts, and a step gives it those that it used.

    Optimisers leave alone what has no gradient, and count steps for each vector: a weight that a step did not use costs
    nothing and keeps its value and its moments.
    """

    def __init__(self, config: TrainConfig, model: HydraViT, num_processes: int = 1) -> None:
        if config.optimizer not in _ELEMENTWISE:
            raise BadInput(
                f"Optimiser {config.optimizer} needs whole parameters.",
                f"Set active_slices to false, or choose from {', '.join(sorted(_ELEMENTWISE))}.",
            )
        self._parameters, self._cuts = dict(model.named_parameters()), model.cuts
        self._shells: list[_ParameterShell] = []
        names = {id(parameter): name for name, parameter in self._parameters.items()}
        groups: list[dict[str, Any]] = []
        draw = sampling.of_all(config, num_processes)
        drawn = [draw(step) for step in range(_DRAWS)]
        for group in _groups(config, model):
            shells = self._shells_of([names[id(parameter)] for parameter in group["params"]], config.trained_heads)
            self._shells += shells
            groups += [_scaled(group, shell, drawn) for shell in shells]
        self.optimizer = _optimizer(config, groups)

    def _shells_of(self, names: list[str], heads: tuple[int, ...]) -> list[_ParameterShell]:
        shared = [name for name in names if self._cuts[name].owner is None]
        shells = [
            _ParameterShell(self._parameters, self._cuts, shared, low, high)
            for low, high in zip((0, *heads), heads, strict=False)
        ]
        own = {name: self._cuts[name].owner for name in names}
        for k in sorted({owner for owner in own.values() if owner is not None}):
            mine = [name for name in names if own[name] == k]
            shells.append(_ParameterShell(self._parameters, self._cuts, mine, 0, k, owner=k))
        return [shell for shell in shells if shell.vector.numel()]

    def take(self, gradients: Mapping[str, Tensor], heads: Collection[int]) -> None:
        """See Updates."""
        for shell in self._shells:
            shell.take(gradients, heads)

    @torch.no_grad()
    def give(self, heads: Collection[int]) -> None:
        """See Updates."""
        for shell in self._shells:
            shell.give(heads)

    @torch.no_grad()
    def refresh(self) -> None:
        """See Updates."""
        for shell in self._shells:
            shell.refresh()


class _ParameterShell:
    """The elements of some parameters that subnetwork *high* uses and *low* does not, as one vector."""

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        cut_by_name: Mapping[str, Cut],
        names: list[str],
        low: int,
        high: int,
        owner: int | None = None,
    ) -> None:
        self._cuts, self._high, self._owner = cut_by_name, high, owner
        self._blocks = [(name, spans) for name in names for spans in cut_by_name[name].shell(low, high)]
        self._places = [cut_by_name[name].block(parameters[name].detach(), spans) for name, spans in self._blocks]
        self.vector = torch.nn.Parameter(torch.cat([place.reshape(-1) for place in self._places] or [torch.empty(0)]))
        self._parts = self._split(self.vector.detach())
        self._gradient = torch.empty_like(self.vector)
        self._gradient_parts = self._split(self._gradient)

    def _split(self, vector: Tensor) -> list[Tensor]:
        sizes = [place.numel() for place in self._places]
        return [part.view(place.shape) for part, place in zip(torch.split(vector, sizes), self._places, strict=True)]

    def used(self, heads: Collection[int]) -> bool:
        return self._owner in heads if self._owner is not None else self._high <= max(heads)

    def take(self, gradients: Mapping[str, Tensor], heads: Collection[int]) -> None:
        if not self.used(heads):
            self.vector.grad = None
            return
        blocks = [self._cuts[name].block(gradients[name], spans) for name, spans in self._blocks]
        torch._foreach_copy_(self._gradient_parts, blocks)
        self.vector.grad = self._gradient

    def give(self, heads: Collection[int]) -> None:
        if self.used(heads):
            torch._foreach_copy_(self._places, self._parts)

    def refresh(self) -> None:
        torch._foreach_copy_(self._parts, self._places)


def _scaled(group: dict[str, Any], shell: _ParameterShell, drawn: list[tuple[int, ...]]) -> dict[str, Any]:
    """The group of *shell*, its learning rate raised by one over the root of the share of steps that use it.

    Over whole parameters Adam divides by the root of a mean of squares that counts unused steps as zero, and so makes
    longer steps where few are made: without that, outer shells learn too slowly.
    """
    share = max(sum(map(shell.used, drawn)), 1) / len(drawn)
    return {**group, "params": [shell.vector], "lr_scale": group.get("lr_scale", 1.0) * share**-0.5}


def _groups(config: TrainConfig, model: HydraViT) -> list[dict[str, Any]]:
    """timm's parameter groups: norms, biases and tokens do not decay, and with layer decay each layer is its own."""
    how: dict[str, Any] = {"weight_decay": config.weight_decay, "no_weight_decay_list": model.no_weight_decay()}
    if config.layer_decay < 1:
        return list(param_groups_layer_decay(model, layer_decay=config.layer_decay, **how))
    return list(param_groups_weight_decay(model, **how))


def _optimizer(config: TrainConfig, groups: list[dict[str, Any]]) -> Optimizer:
    arguments: dict[str, Any] = (
        {"betas": config.betas} if "ada" in config.optimizer or "lion" in config.optimizer else {}
    )
    if config.optimizer in ("adam", "adamw") and groups[0]["params"][0].device.type in ("cpu", "cuda"):
        arguments["fused"] = True
    try:
        return create_optimizer_v2(groups, config.optimizer, lr=config.lr, weight_decay=0.0, **arguments)
    except (AssertionError, KeyError, TypeError, ValueError) as error:  # whatever a name that timm does not know raises
        raise BadInput(
            f"Optimiser {config.optimizer} cannot be made: {error}.", "Use the name of an optimiser in timm."
        ) from error
