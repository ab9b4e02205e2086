"""A torch module computed in float64, one layer's weights at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def layers_in_float64(model: nn.Module) -> Iterator[None]:
    """Each layer's own weights are float64 while it runs and what they were after.

    A layer inside *model* that has weights of its own may use those of its parts without running them, as timm's
    EvaAttention does: they are float64 with it.
    """
    narrow: dict[nn.Parameter, tuple[Tensor, nn.Module]] = {}

    def widen(layer: nn.Module, _inputs: object = None) -> None:
        for parameter in layer.parameters(recurse=layer is not model and has_weights(layer)):
            if parameter not in narrow:
                narrow[parameter] = parameter.data, layer
                parameter.data = parameter.data.double()

    def restore(layer: nn.Module, _inputs: object = None, _output: object = None) -> None:
        for parameter in [parameter for parameter, (_, owner) in narrow.items() if owner is layer]:
            parameter.data, _ = narrow.pop(parameter)

    def has_weights(layer: nn.Module) -> bool:
        return next(layer.parameters(recurse=False), None) is not None

    layers = [layer for layer in model.modules() if layer is not model and has_weights(layer)]
    handles = [layer.register_forward_pre_hook(widen) for layer in layers]
    handles += [layer.register_forward_hook(restore) for layer in layers]
    widen(model)
    try:
        yield
    finally:
        restore(model)
        for handle in handles:
            handle.remove()
