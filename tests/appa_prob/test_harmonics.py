"""Spherical harmonics: orthonormal, complete up to their degree, fitted by area."""

import numpy as np
import pytest
import torch

from appa_prob.grid import Grid
from appa_prob.harmonics import Harmonics

DEGREE = 6
NODES, GAUSS = np.polynomial.legendre.leggauss(12)
GRID = Grid(np.rad2deg(np.arcsin(NODES)), np.linspace(0.0, 345.0, 24))
AREAS = torch.as_tensor(np.outer(GRID.weights, np.ones(24)) / (12 * 24)).float()


@pytest.fixture(scope="module")
def harmonics() -> Harmonics:
    return Harmonics(GRID, DEGREE)


@pytest.fixture(scope="module")
def functions(harmonics: Harmonics) -> torch.Tensor:
    """All harmonics on the grid, with shape (K, H, W)."""
    return harmonics.synthesis(torch.eye((DEGREE + 1) ** 2))


def test_they_are_orthonormal_under_gaussian_quadrature(functions: torch.Tensor) -> None:
    weights = torch.as_tensor(np.outer(GAUSS / 2, np.full(24, 1 / 24))).float()
    gram = torch.einsum("khw,hw,lhw->kl", functions, weights, functions)
    assert torch.allclose(gram, torch.eye(len(functions)), atol=1e-5)


def test_addition_theorem(functions: torch.Tensor) -> None:
    total = functions.square().sum(0)
    assert torch.allclose(total, torch.full_like(total, (DEGREE + 1) ** 2), rtol=1e-4)


def test_first_degrees_are_the_known_ones() -> None:
    basis = Harmonics(GRID, 1).synthesis(torch.eye(4))
    phi, lam = np.deg2rad(np.meshgrid(GRID.latitude, GRID.longitude, indexing="ij"))
    known = [np.ones_like(phi), 3**0.5 * np.sin(phi)]
    known += [3**0.5 * np.cos(phi) * np.cos(lam), 3**0.5 * np.cos(phi) * np.sin(lam)]
    for wanted in torch.as_tensor(np.stack(known)).float():
        errors = [min((wanted - f).abs().max(), (wanted + f).abs().max()) for f in basis]
        assert min(errors) < 1e-5


def test_smooth_fields_survive(harmonics: Harmonics) -> None:
    c = torch.randn(2, 3, (DEGREE + 1) ** 2)
    x = harmonics.synthesis(c)
    assert x.shape == (2, 3, 12, 24)
    assert torch.allclose(harmonics.analysis(x), c, atol=1e-4)


def test_others_are_fitted_by_least_squares_over_the_area(
    harmonics: Harmonics, functions: torch.Tensor
) -> None:
    x = torch.randn(12, 24)
    rest = x - harmonics.synthesis(harmonics.analysis(x))
    assert rest.abs().max() > 0.1
    assert torch.einsum("khw,hw,hw->k", functions, AREAS, rest).abs().max() < 1e-5
