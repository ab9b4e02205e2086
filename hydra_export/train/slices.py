"""Copies of what a training step uses of a universal model."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from hydra_export.network import Cut


def leaves(parameters: Mapping[str, Tensor], cuts: Mapping[str, Cut], heads: Collection[int]) -> dict[str, Tensor]:
    """Copies of all that a step on *heads* uses, cut to the largest: what autograd sees of the universal model.

    Gradients then have the size of that subnetwork. Slicing inside the graph instead would fill and add a gradient of
    the universal model's size for each parameter.
    """
    largest, found = max(heads), {}
    for name, parameter in parameters.items():
        cut = cuts[name]
        if cut.used_by(heads):
            whole = cut.first(parameter.detach(), largest).clone(memory_format=torch.contiguous_format)
            found[name] = (whole.flatten(0, 1) if cut.stacked else whole).requires_grad_()
    return found
