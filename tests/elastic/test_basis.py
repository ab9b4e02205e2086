"""Bases: orthogonal, sorted by variance, and what LayerNorm sees of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hydra_export.elastic.basis import helmert, principal

E = 12


def covariance(rank: int = E, seed: int = 0) -> Tensor:
    """Of vectors that vary along *rank* directions, the first ones most."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(E, rank, dtype=torch.float64, generator=generator) * torch.arange(rank, 0, -1)
    return directions @ directions.T


def centred(covariance_EE: Tensor) -> Tensor:
    centring = torch.eye(E, dtype=torch.float64) - 1 / E
    return centring @ covariance_EE @ centring


def test_helmerts_basis_is_orthonormal_and_nested() -> None:
    basis = helmert(E)
    torch.testing.assert_close(basis.T @ basis, torch.eye(E - 1, dtype=torch.float64), rtol=0, atol=1e-14)
    torch.testing.assert_close(basis.sum(0), torch.zeros(E - 1, dtype=torch.float64), rtol=0, atol=1e-14)
    for j in range(E - 1):
        assert not basis[j + 2 :, j].any()


@pytest.mark.parametrize("rank", [E, 3])
@pytest.mark.parametrize("keeps_mean", [True, False])
def test_a_basis_is_orthogonal_whatever_the_rank(rank: int, keeps_mean: bool) -> None:
    basis = principal(centred(covariance(rank)), keeps_mean=keeps_mean)
    torch.testing.assert_close(basis @ basis.T, torch.eye(E, dtype=torch.float64), rtol=0, atol=1e-13)


def test_a_basis_that_keeps_the_mean_commutes_with_layer_norm() -> None:
    basis = principal(centred(covariance()), keeps_mean=True)
    x = torch.randn(20, E, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    before = torch.nn.functional.layer_norm(x, (E,)) @ basis.T
    torch.testing.assert_close(torch.nn.functional.layer_norm(x @ basis.T, (E,)), before, rtol=0, atol=1e-12)


def test_the_first_channels_hold_the_largest_components() -> None:
    ours = covariance()
    largest = torch.linalg.eigvalsh(ours).flip(0)
    turned = principal(ours, keeps_mean=False) @ ours @ principal(ours, keeps_mean=False).T
    torch.testing.assert_close(turned.diagonal(), largest, rtol=1e-10, atol=1e-9)


def test_a_layer_norm_over_the_first_d_channels_sees_the_first_d_minus_1_components() -> None:
    ours = centred(covariance())
    basis, largest = principal(ours, keeps_mean=True), torch.linalg.eigvalsh(ours).flip(0)
    turned = basis @ ours @ basis.T
    for d in (2, 5, E):
        seen = turned[:d, :d].trace() - turned[:d, :d].sum() / d  # the mean over d channels is taken away
        torch.testing.assert_close(seen, largest[: d - 1].sum(), rtol=1e-10, atol=1e-9)
