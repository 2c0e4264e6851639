"""Localised ensembles: their rows, samples, and what localisation is for."""

import pytest
import torch
from torch import Tensor

from appa_prob.operators import (
    Dense,
    Ensemble,
    Factored,
    Gather,
    InnovationCovariance,
    Isotropic,
    LowRankPlusDiagonal,
    Stationary,
    WeightedGather,
    gaspari_cohn,
)

F64 = torch.float64


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=F64)


def periodic(length: float, n: int = 60) -> Stationary:
    return Stationary.of(lambda r: gaspari_cohn(r, length), n, dtype=F64)


def test_localisation_brings_a_small_ensemble_nearer_to_the_truth() -> None:
    truth = Stationary.of(lambda r: torch.exp(-r / 4), 60, dtype=F64)
    members = truth.sample((20,), torch.Generator().manual_seed(0))
    sample = LowRankPlusDiagonal((members - members.mean(0)) / 19**0.5, torch.zeros(60).double())
    localised = Ensemble.of(members, periodic(8.0))
    M = truth.to_dense()
    errors = [(A.to_dense() - M).norm() / M.norm() for A in (sample, localised)]
    assert errors[1] < 0.6 * errors[0]
    assert torch.linalg.matrix_rank(sample.to_dense()) == 19
    assert torch.linalg.matrix_rank(localised.to_dense()) == 60
    torch.testing.assert_close(sample.to_dense(), members.mT.cov())


def test_places_far_apart_are_uncorrelated_and_columns_keep_their_covariance() -> None:
    members = noise(10, 2, 60)
    V = Ensemble.of(members, periodic(5.0)).to_dense().reshape(2, 60, 2, 60)
    assert bool((V[:, 0, :, 10:51] == 0).all() | (V[:, 0, :, 10:51].abs() < 1e-12).all())
    torch.testing.assert_close(V[:, 7, :, 7], members[:, :, 7].mT.cov())


def test_samples_have_the_covariance() -> None:
    """As for all covariances, at 6 standard deviations, but with a correlation by FFT."""
    V = Ensemble.of(noise(4, 2, 5), periodic(1.2, 5), noise(2, 5).square())
    n, M = 20000, V.to_dense()
    x = V.sample((n,), torch.Generator().manual_seed(1)).flatten(1)
    d = M.diagonal()
    spread = (torch.outer(d, d) + M.square()).div(n).sqrt()
    assert bool(((x.mT @ x / n - M).abs() < 6 * spread).all())


def test_rows_and_products_with_observations_are_those_of_the_matrix() -> None:
    V = Ensemble(
        noise(6, 2, 4, 8),
        noise(2, 4, 8).square(),
        Stationary.of(lambda r: torch.exp(-r), (4, 8), dtype=F64),
    )
    M = V.to_dense()
    torch.testing.assert_close(V.rows(torch.tensor([3, 40])).flatten(1), M[[3, 40]])
    H = WeightedGather(torch.tensor([[0, 1], [40, 63]]), torch.rand(2, 2).double(), (2, 4, 8))
    torch.testing.assert_close(V.cross(H).flatten(1), H.to_dense() @ M)
    G = Gather(torch.tensor([5, 9]), (2, 4, 8)).to(F64)
    torch.testing.assert_close(V.cross(G).flatten(1), G.to_dense() @ M)
    low = LowRankPlusDiagonal(V.factor, V.variances)
    for A in (H, G):
        torch.testing.assert_close(low.cross(A).flatten(1), A.to_dense() @ low.to_dense())


def test_it_conditions_on_observations() -> None:
    V = Ensemble.of(noise(8, 60), periodic(6.0), torch.full((60,), 0.1, dtype=F64))
    H = Gather(torch.arange(0, 60, 5), 60).to(F64)
    S = InnovationCovariance(H, V, Isotropic(torch.tensor(0.1, dtype=F64), 12))
    b = noise(12)
    u = Factored.of(S).solve(b)
    torch.testing.assert_close(H(V(H.adjoint(u))) + 0.1 * u, b)


def test_mistakes_are_refused() -> None:
    rho, F, d = Dense(torch.eye(3), symmetric=True), torch.ones(2, 4, 3), torch.ones(4, 3)
    with pytest.raises(ValueError, match=r"factor of shape \(rank, \*event\)"):
        Ensemble(F[:, :3], d, rho)
    with pytest.raises(ValueError, match="one symmetric correlation of the last axes"):
        Ensemble(F, d, Dense(torch.eye(4), symmetric=True))
    with pytest.raises(ValueError, match="one symmetric correlation of the last axes"):
        Ensemble(F, d, Dense(torch.eye(3)))
    with pytest.raises(ValueError, match="variances >= 0"):
        Ensemble(F, -d, rho)
    with pytest.raises(ValueError, match="2 members or more, got 1"):
        Ensemble.of(F[:1], rho)
    with pytest.raises(TypeError, match=r"of the factor, torch.float64, got torch.float32"):
        Ensemble(F.double(), d.double(), rho)
