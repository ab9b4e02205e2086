"""Which Linears read a norm, and what of its affine goes into them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from torch import Tensor

from hydra_export import network
from hydra_export.architecture import HydraConfig
from hydra_export.network import Operations, Span
from hydra_export.normalised import Weight

Places = dict[str, tuple[str, ...]]


@lru_cache(maxsize=16)
def readers(config: HydraConfig, heads: int) -> Places:
    """By the places of norms that Linears alone read, at *heads*: the names of those."""
    trace = _Readers()
    trace.returned(network.run(trace, config, "", heads))
    return {place: tuple(names) for place, names in trace.read.items() if place and place not in trace.else_where}


class Folded:
    """The affines of norms and the biases of Linears of subnetwork *heads*: what can be is in the Linears.

    Args:
        weights: the normalised form.
    """

    def __init__(self, config: HydraConfig, weights: Mapping[str, Weight], heads: int) -> None:
        self.weights, self.heads = weights, heads
        self._readers = readers(config, heads)
        self._norms = {name: place for place, names in self._readers.items() for name in names}

    def affine(self, place: str) -> tuple[Tensor | None, Tensor | None]:
        """What the norm at *place* multiplies by and adds, [D] each; None where that is nothing."""
        gamma, beta = self._first(f"{_dotted(place)}.weight"), self._first(f"{_dotted(place)}.bias")
        if place in self._readers or (beta is not None and not beta.any()):
            beta = None
        return (None if gamma is None or bool((gamma == 1).all()) else gamma), beta

    def bias(self, name: str) -> Tensor:
        """Of the Linear *name*, [O], with what the norm that it reads adds to its inputs."""
        bias = self._first(f"{name}.bias")
        assert bias is not None
        if name not in self._norms:
            return bias
        beta = self._first(f"{_dotted(self._norms[name])}.bias")
        if beta is None or not beta.any():
            return bias
        weight = self._first(f"{name}.weight")
        assert weight is not None
        return (bias.double() + weight.double() @ beta.double()).float()

    def _first(self, name: str) -> Tensor | None:
        weight = self.weights.get(name)
        return None if weight is None else weight.first(self.heads).detach()


def _dotted(place: str) -> str:
    return place.replace("/", ".")


class _Readers(Operations[str]):
    """A value is the place of the norm that it is the output of, or ""."""

    def __init__(self) -> None:
        self.read: dict[str, list[str]] = {}
        self.else_where: set[str] = set()

    def _used(self, *values: str) -> str:
        self.else_where.update(values)
        return ""

    def embed(self, image: str) -> str:
        return ""

    def norm(self, x: str, place: str) -> str:
        self._used(x)
        return place

    def linear(self, x: str, place: str) -> str:
        return self._read(x, _dotted(place))

    def _read(self, x: str, name: str) -> str:
        self.read.setdefault(x, []).append(name)
        return ""

    def qkv(self, query: str, x: str, place: str) -> tuple[str, str, str]:
        return self.linear(query, f"{place}/q"), self.linear(x, f"{place}/k"), self.linear(x, f"{place}/v")

    def head_norm(self, x: str, place: str) -> str:
        return self._used(x)

    def rotate(self, x: str, place: str) -> str:
        return self._used(x)

    def attention(self, qkv: tuple[str, str, str], place: str, num_queries: int) -> str:
        return self._used(*qkv)

    def activation(self, x: str, place: str) -> str:
        return self._used(x)

    def product(self, x: str, y: str, place: str) -> str:
        return self._used(x, y)

    def residual(self, x: str, y: str, place: str) -> str:
        return self._used(x, y)

    def select(self, x: str, span: Span, place: str) -> str:
        return x

    def pool(self, x: str, kind: str, place: str) -> str:
        """A mean of numbers that each have something added has that added too."""
        return x if kind == "avg" else self._used(x)

    def latent(self, x: str, place: str) -> str:
        return ""

    def features(self, x: str, place: str) -> str:
        return x

    def classifier(self, features: Sequence[tuple[str, str]]) -> str:
        for x, name in features:
            self._read(x, name)
        return ""

    def patch_tokens(self, x: str) -> str:
        return self._used(x)

    def returned(self, x: str) -> None:
        """*x* is what the network gives."""
        self._used(x)
