"""A torch module computed in float64, one layer's weights at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def layers_in_float64(model: nn.Module) -> Iterator[None]:
    """Each layer's own weights are float64 while it runs and what they were after."""
    narrow: dict[nn.Parameter, Tensor] = {}

    def widen(layer: nn.Module, _inputs: object = None) -> None:
        for parameter in layer.parameters(recurse=False):
            narrow[parameter] = parameter.data
            parameter.data = parameter.data.double()

    def restore(layer: nn.Module, _inputs: object = None, _output: object = None) -> None:
        for parameter in layer.parameters(recurse=False):
            parameter.data = narrow.pop(parameter)

    layers = [layer for layer in model.modules() if layer is not model]
    handles = [layer.register_forward_pre_hook(widen) for layer in layers]
    handles += [layer.register_forward_hook(restore) for layer in layers]
    widen(model)
    try:
        yield
    finally:
        restore(model)
        for handle in handles:
            handle.remove()
