"""The one description of a subnetwork: its program, and how its parameters are cut."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
import torch

from hydra_export import network
from hydra_export.architecture import HydraConfig
from hydra_export.model import HydraViT
from hydra_export.network import Cut, Operations
from tests.conftest import perturbed
from tests.variants import VARIANTS


class Tokens(Operations[int]):
    """Computes how many tokens of each image there are, and notes the weights that are asked for."""

    def __init__(self, config: HydraConfig) -> None:
        self.config = config
        self.layers: list[str] = []

    def _weights(self, place: str) -> None:
        self.layers.append(place.replace("/", "."))

    def embed(self, image: int) -> int:
        self.layers += ["patch_embed", "tokens"]
        return self.config.num_tokens

    def norm(self, x: int, place: str) -> int:
        self._weights(place)
        return x

    def head_norm(self, x: int, place: str) -> int:
        return self.norm(x, place)

    def rotate(self, x: int, place: str) -> int:
        assert x == self.config.num_tokens
        self.layers += ["rope.cos", "rope.sin"]
        return x

    def linear(self, x: int, place: str) -> int:
        self._weights(place)
        return x

    def qkv(self, query: int, x: int, place: str) -> tuple[int, int, int]:
        return self.linear(query, f"{place}/q"), self.linear(x, f"{place}/k"), self.linear(x, f"{place}/v")

    def attention(self, qkv: tuple[int, int, int], place: str, num_queries: int) -> int:
        keys = self.config.num_pooled_tokens if place == "attn_pool" else self.config.num_tokens
        assert qkv == (num_queries, keys, keys)
        return num_queries

    def activation(self, x: int, place: str) -> int:
        return x

    def product(self, x: int, y: int, place: str) -> int:
        assert x == y
        return x

    def residual(self, x: int, y: int, place: str) -> int:
        assert x == y
        return x

    def select(self, x: int, span: tuple[int, int], place: str) -> int:
        assert 0 <= span[0] < span[1] <= x
        return span[1] - span[0]

    def pool(self, x: int, kind: str, place: str) -> int:
        assert x > 1
        return 1

    def latent(self, x: int, place: str) -> int:
        self._weights(place)
        return 1

    def features(self, x: int, place: str) -> int:
        assert x == 1
        return x

    def classifier(self, features: Sequence[tuple[int, str]]) -> int:
        for _, weights in features:
            self._weights(weights)
        return features[0][0]

    def patch_tokens(self, x: int) -> int:
        return x


@pytest.mark.parametrize("changes", [{}, {"num_classes": 0, "depth": 1}, {"depth": 3, "layer_scale": 0.5}])
def test_a_subnetwork_uses_every_weight_of_its_normalised_form_once(
    tiny_config: HydraConfig, changes: dict[str, float]
) -> None:
    config = msgspec.structs.replace(tiny_config, **changes)
    ops = Tokens(config)
    assert network.run(ops, config, 0, 3) == 1
    assert ops.layers == _layers(config, 3)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_uses_every_weight_of_its_normalised_form(name: str) -> None:
    config = VARIANTS[name]
    ops = Tokens(config)
    assert network.run(ops, config, 0, 2) == (config.num_patches if config.pooling == "none" else 1)
    used = [layer for layer in ops.layers if not layer.startswith("rope.") and layer != "tokens"]
    assert len(used) == len(set(used))
    assert set(used) == {layer for layer in _layers(config, 2) if not layer.startswith("rope.") and layer != "tokens"}
    assert (config.rotary is not None) == ("rope.cos" in ops.layers) == ("rope.cos" in _layers(config, 2))


def _layers(config: HydraConfig, heads: int) -> list[str]:
    names = HydraViT(config).weights(heads)
    return list(dict.fromkeys(name.removesuffix(".weight").removesuffix(".bias") for name in names))


@pytest.mark.parametrize("fixture", ["tiny_config", "scaled_config"])
def test_every_parameter_has_a_cut_and_it_is_what_the_dense_subnetwork_has(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    model = perturbed(request.getfixturevalue(fixture))
    parameters = dict(model.named_parameters())
    assert model.cuts.keys() == parameters.keys()
    dense = dict(model.subnetwork(2).named_parameters())
    for name, cut in model.cuts.items():
        if cut.used_by((2,)):
            first = cut.first(parameters[name], 2)
            expected = dense[name.replace("head.k2", "head")]
            assert torch.equal(first.flatten(0, 1) if cut.stacked > 1 else first, expected), name


def test_a_classifier_of_its_own_is_in_the_shell_of_its_head_count_alone() -> None:
    cut = Cut((0, 0), owner=3)
    assert [list(cut.shell(low, high)) for low, high in ((0, 2), (2, 4), (4, 6))] == [[], [((2, 4), (2, 4))], []]
    assert (cut.used_by((1, 3)), cut.used_by((1, 4))) == (True, False)


def test_a_vector_along_an_axis_grows_as_that_axis_does() -> None:
    cut = Cut((32, 8), owner=2)
    assert (cut.along(0), cut.along(1)) == (Cut((32,), owner=2), Cut((8,), owner=2))
    assert cut.shape((128, 32), ((1, 2), (0, 3))) == (32, 24)
