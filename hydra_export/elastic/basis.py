"""Orthogonal bases in which a vector's first entries hold its principal components."""

# E width, d width of a subnetwork, e = E - 1
from __future__ import annotations

import torch
from torch import Tensor


def principal(covariance_EE: Tensor, *, keeps_mean: bool) -> Tensor:
    """The orthogonal matrix [E, E], float64, whose first rows take the principal components.

    With *keeps_mean* it commutes with LayerNorm, as it takes a vector of equal entries to itself, and component j goes
    to a vector of Helmert's basis, which is 0 behind entry j + 1: a LayerNorm over the first d entries sees the first
    d - 1 components alone, as the others are equal entries there, which its mean takes away.

    Args:
        covariance_EE: float64, symmetric; of centred vectors where *keeps_mean*.
    """
    if not keeps_mean:
        return _components(covariance_EE)
    E = len(covariance_EE)
    helmert_Ee = helmert(E)
    components_ee = _components(helmert_Ee.T @ covariance_EE @ helmert_Ee)
    rotation_EE: Tensor = helmert_Ee @ components_ee @ helmert_Ee.T + 1 / E
    return rotation_EE


def _components(covariance_EE: Tensor) -> Tensor:
    """The principal components as rows, that of the largest variance first."""
    components_EE: Tensor = torch.linalg.eigh(covariance_EE).eigenvectors.flip(1).T
    return components_EE


def helmert(E: int) -> Tensor:
    """Helmert's basis [E, e], e = E - 1, of the vectors whose entries sum to 0: column j is 0 behind entry j + 1."""
    columns_e = torch.arange(1, E, dtype=torch.float64)
    basis_Ee = torch.ones(E, E - 1, dtype=torch.float64).triu()
    basis_Ee[torch.arange(1, E), torch.arange(E - 1)] = -columns_e
    return basis_Ee / (columns_e * (columns_e + 1)).sqrt()
