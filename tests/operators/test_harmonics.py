"""Spherical harmonics, where torch-harmonics is installed."""

import importlib.util
import math
import sys

import pytest
import torch

from appa_prob.operators import SphereLaplacian, SphericalHarmonics
from appa_prob.operators.harmonics import Nodes, torch_harmonics
from appa_prob.operators.testing import check_operator

F64 = torch.float64
needed = pytest.mark.skipif(
    importlib.util.find_spec("torch_harmonics") is None, reason="torch-harmonics isn't installed"
)
NODES: list[Nodes] = ["equiangular", "legendre-gauss", "lobatto"]


def harmonics(
    degree: int, rows: int, columns: int, nodes: Nodes, leading: int = 2
) -> SphericalHarmonics:
    return SphericalHarmonics(degree, (rows, columns), nodes, leading, dtype=F64)


@needed
@pytest.mark.parametrize("nodes", NODES)
def test_contract(nodes: Nodes) -> None:
    A = harmonics(2, 6, 7, nodes)
    check_operator(A)
    check_operator(A.T)
    check_operator(A.analysis)


@needed
@pytest.mark.parametrize("nodes", NODES)
def test_harmonics_are_orthonormal_and_complete(nodes: Nodes) -> None:
    A = harmonics(4, 12, 12, nodes, 1)
    Y, c = A.to_dense(), torch.randn(3, *A.in_shape, dtype=F64)
    torch.testing.assert_close(
        Y.mT @ (A.weights.diagonal()[:, None] * Y), torch.eye(25, dtype=F64)
    )
    torch.testing.assert_close(A.analysis(A(c)), c)
    assert float(A.weights.diagonal().sum()) == pytest.approx(4 * math.pi)
    total = Y.square().sum(1)  # the addition theorem
    torch.testing.assert_close(total, torch.full_like(total, 25 / (4 * math.pi)))


@needed
def test_high_degrees_are_exact_and_soon_made() -> None:
    A = harmonics(100, 128, 256, "legendre-gauss", 1)
    c = torch.randn(2, *A.in_shape, dtype=F64)
    torch.testing.assert_close(A.analysis(A(c)), c)


@needed
def test_first_harmonics_are_the_known_ones() -> None:
    A = harmonics(1, 6, 8, "equiangular", 1)
    phi, lam = A.latitude.deg2rad()[:, None], torch.arange(8, dtype=F64) * (math.pi / 4)
    one = torch.ones(6, 8, dtype=F64)
    known = [one / 3**0.5, phi.sin() * one, phi.cos() * lam.cos(), phi.cos() * lam.sin()]
    scale = (3 / (4 * math.pi)) ** 0.5
    expected = torch.stack([scale * field.reshape(-1) for field in known], dim=1)
    torch.testing.assert_close(A.to_dense(), expected)


@needed
def test_analysis_is_that_of_the_library() -> None:
    A, x = harmonics(5, 16, 32, "legendre-gauss", 1), torch.randn(1, 16, 32, dtype=F64)
    library = torch_harmonics()
    transform = library.RealSHT(16, 32, lmax=6, mmax=6, grid="legendre-gauss", csphase=False)
    c, found = transform(x)[0], A.analysis(x)[0]
    for order in range(6):
        start = order**2
        torch.testing.assert_close(found[start], c[order, 0].real)
        pairs = found[start + 1 : start + 2 * order + 1].reshape(-1, 2)
        expected = 2**0.5 * torch.stack((c[order].real, -c[order].imag), dim=-1)[1 : order + 1]
        torch.testing.assert_close(pairs, expected)


@needed
def test_harmonics_are_eigenfunctions_of_the_laplacian() -> None:
    A = harmonics(3, 90, 180, "equiangular", 1)
    c = torch.randn(1, 16, dtype=F64)
    values = torch.tensor([-n * (n + 1.0) for n in range(4) for _ in range(2 * n + 1)]).double()
    L = SphereLaplacian(A.latitude, 180, 1, radius=1.0)
    expected = A(values * c)
    square = A.weights((L(A(c)) - expected).square()).sum()
    assert float(square.sqrt()) < 3e-3 * float(A.weights(expected.square()).sum().sqrt())


def test_grids_too_coarse_are_refused() -> None:
    with pytest.raises(ValueError, match="7 or more columns for a degree of 3"):
        SphericalHarmonics(3, (6, 6))
    with pytest.raises(ValueError, match="expected nodes equiangular"):
        SphericalHarmonics(1, (6, 6), "gauss")  # type: ignore[arg-type]


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_harmonics", None)
    with pytest.raises(ImportError, match=r"pip install 'appa-prob\[harmonics\]'"):
        SphericalHarmonics(1, (4, 4))
