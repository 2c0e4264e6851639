"""Covariances solve, have determinants and diagonals, and are usable in distributions."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from appa_prob.operators import (
    BlockDiagonal,
    Dense,
    Diagonal,
    Eigenbasis,
    Ensemble,
    Factored,
    Identity,
    InnovationCovariance,
    Isotropic,
    KernelCovariance,
    LowRankPlusDiagonal,
    Operator,
    SphereMatern,
    Stationary,
    TweedieCovariance,
)

F64 = torch.float64
Case = tuple[Operator, Tensor]
EYE = torch.eye(6, dtype=F64)


def block_diag(*blocks: Tensor) -> Tensor:
    matrix: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return matrix


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=F64)


def definite(*batch: int) -> Tensor:
    factor = noise(*batch, 6, 6)
    return factor @ factor.mT / 6 + EYE / 2


def isotropic() -> Case:
    return Isotropic(2.0, 6).to(F64), 2 * EYE


def batched_isotropic() -> Case:
    c = torch.tensor([0.5, 3.0], dtype=F64)
    return Isotropic(c, (2, 3)), c[:, None, None] * EYE


def diagonal() -> Case:
    d = noise(2, 3).square() + 0.1
    return Diagonal(d), torch.diag(d.flatten())


def low_rank() -> Case:
    F, d = noise(2, 6), noise(6).square() + 0.1
    return LowRankPlusDiagonal(F, d), F.mT @ F + torch.diag(d)


def eigenbasis() -> Case:
    Q, values = torch.linalg.qr(noise(6, 4)).Q, noise(4).square() + 0.1
    M = (Q * values) @ Q.mT + 0.3 * (EYE - Q @ Q.mT)
    return Eigenbasis(Dense(Q), values, 0.3), M


def complete_eigenbasis() -> Case:
    Q, values = torch.linalg.qr(noise(6, 6)).Q, noise(2, 6).square() + 0.1
    return Eigenbasis(Dense(Q), values), (Q * values[:, None]) @ Q.mT


def dense() -> Case:
    M = definite(2)
    return Dense(M, (2, 3), symmetric=True), M


def multiple() -> Case:
    M, c = definite(), torch.tensor([[[0.5]], [[2.0]]], dtype=F64)
    return Dense(M, symmetric=True) * c, M * c


def blocks() -> Case:
    F, d = noise(1, 4), noise(4).square() + 0.1
    A = BlockDiagonal([LowRankPlusDiagonal(F, d), Isotropic(3.0, (1, 2))])
    return A, block_diag(F.mT @ F + torch.diag(d), 3 * EYE[:2, :2])


def total() -> Case:
    M, d = definite(), noise(6).square()
    return Dense(M, symmetric=True) + 2.0 * Diagonal(d), M + 2 * torch.diag(d)


def batched_blocks() -> Case:
    d, c = noise(2, 1, 4).square() + 0.1, noise(3).square() + 0.1
    A = BlockDiagonal([Diagonal(d, event_ndim=1), Isotropic(c, 2)])
    return A, torch.diag_embed(torch.cat((d.expand(2, 3, 4), c[:, None].expand(2, 3, 2)), -1))


def batched_total() -> Case:
    F, d, e = noise(2, 6), noise(6).square() + 0.1, noise(2, 1, 6).square()
    A = LowRankPlusDiagonal(F, d) + Diagonal(e, event_ndim=1)
    return A, F.mT @ F + torch.diag_embed(d + e)


def innovation() -> Case:
    H, V, r = noise(6, 8), noise(8).square(), noise(6).square() + 0.1
    S = InnovationCovariance(Dense(H), Diagonal(V), Diagonal(r))
    return S, (H * V) @ H.mT + torch.diag(r)


def batched_low_rank() -> Case:
    F, d = noise(3, 2, 6), noise(6).square() + 0.1
    return LowRankPlusDiagonal(F, d, event_ndim=1), F.mT @ F + torch.diag(d)


def factored() -> Case:
    M = definite(2)
    return Factored.of(Dense(M, (2, 3), symmetric=True)), M


def stationary() -> Case:
    r = torch.tensor([0, 1, 1, 1, 2**0.5, 2**0.5], dtype=F64)  # rows of 3 around a torus of 2 x 3
    lag = [[(j // 3 - i // 3) % 2 * 3 + (j % 3 - i % 3) % 3 for j in range(6)] for i in range(6)]
    M = torch.exp(-r)[torch.tensor([0, 1, 2, 3, 4, 5])][torch.tensor(lag)]
    return Stationary.of(lambda r: torch.exp(-r), (2, 3), dtype=F64), M


def padded_stationary() -> Case:
    place = torch.arange(6, dtype=F64) / 2
    V = Stationary.of(lambda r: torch.exp(-r.square()), 6, spacing=0.5, periodic=False, dtype=F64)
    return V, torch.exp(-(place[:, None] - place).square())


def kernel() -> Case:
    places, k = noise(6, 2) * 40, SphereMatern(2000.0, nu=0.5, distance="great-circle")
    return KernelCovariance(k, places), k(places, places)


def kernel_of_gpytorch() -> Case:
    import gpytorch

    matern = gpytorch.kernels.MaternKernel(nu=1.5, ard_num_dims=3)
    points = noise(6, 3)
    V = KernelCovariance(gpytorch.kernels.ScaleKernel(matern), points, (2, 3)).to(F64)
    width = torch.nn.functional.softplus(torch.zeros((), dtype=F64))  # where both parameters start
    u = 3**0.5 * torch.cdist(points, points) / width
    return V, width * (1 + u) * torch.exp(-u)


def ensemble() -> Case:
    F, d, place = noise(3, 2, 3), noise(2, 3).square() + 0.1, torch.arange(3, dtype=F64)
    rho = torch.exp(-(place[:, None] - place).abs())
    M = (F.flatten(1).mT @ F.flatten(1)) * rho.repeat(2, 2) + torch.diag(d.flatten())
    return Ensemble(F, d, Dense(rho, symmetric=True)), M


def tweedie() -> Case:
    C = definite()
    gain = 2 * C @ torch.linalg.inv(4 * C + 9 * EYE)
    V = TweedieCovariance(
        lambda x, t: x @ gain.mT, noise(6), torch.tensor(0.5, dtype=F64), 2.0, 3.0
    )
    return V, C - 2 * gain @ C


CASES: list[Callable[[], Case]] = [
    isotropic,
    batched_isotropic,
    diagonal,
    low_rank,
    eigenbasis,
    complete_eigenbasis,
    dense,
    multiple,
    blocks,
    batched_blocks,
    total,
    batched_total,
    innovation,
    tweedie,
    batched_low_rank,
    factored,
    stationary,
    padded_stationary,
    kernel,
    kernel_of_gpytorch,
    ensemble,
]


@pytest.mark.parametrize("make", CASES)
def test_solve_logdet_and_diagonal_match_the_matrix(make: Callable[[], Case]) -> None:
    A, M = make()
    b = noise(3, *A.batch_shape, *A.in_shape)
    columns = b.reshape(3, *A.batch_shape, 6, 1)
    torch.testing.assert_close(A.to_dense(), M.expand(A.shape))
    torch.testing.assert_close(
        A.solve(b).reshape(columns.shape),
        torch.linalg.solve(M.expand(columns.shape[:-2] + M.shape[-2:]), columns),
    )
    torch.testing.assert_close(A.logdet(), torch.linalg.slogdet(M)[1])
    torch.testing.assert_close(A.diagonal(), M.diagonal(dim1=-2, dim2=-1))
    x = torch.linalg.solve(A, columns[0])
    torch.testing.assert_close(M @ x, columns[0])


@pytest.mark.parametrize("make", CASES)
def test_samples_have_the_covariance(make: Callable[[], Case]) -> None:
    """An entry of the sample covariance of n draws has the variance (M_ii M_jj + M_ij^2) / n, and
    is nearly normal. Beyond 6 standard deviations: 2e-9 for each of fewer than 300 entries."""
    A, M = make()
    n = 20000
    x = A.sample((n,), torch.Generator().manual_seed(1)).reshape(n, *A.batch_shape, 6)
    d = M.diagonal(dim1=-2, dim2=-1)
    spread = (d[..., :, None] * d[..., None, :] + M.square()).div(n).sqrt()
    estimate = torch.einsum("n...i,n...j->...ij", x, x) / n
    assert bool(((estimate - M).abs() < 6 * spread).all())
    assert bool((x.mean(0).abs() < 6 * (d / n).sqrt()).all())
    assert bool((spread < 0.05 * d.max()).all())


@pytest.mark.parametrize("make", CASES)
def test_samples_repeat_with_their_generator(make: Callable[[], Case]) -> None:
    A, _ = make()
    draws = [A.sample((2, 3), torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert draws[0].shape == (2, 3, *A.batch_shape, *A.in_shape) and draws[0].dtype == F64


@pytest.mark.parametrize("make", [batched_isotropic, multiple, batched_blocks, batched_total])
def test_batch_entries_are_sampled_independently(make: Callable[[], Case]) -> None:
    """Correlations of n independent draws: 6 standard deviations of 1 / sqrt(n)."""
    A, _ = make()
    n = 20000
    x = A.sample((n,)).reshape(n, -1, 6)
    for i in range(1, x.shape[1]):
        correlation = torch.cat((x[:, 0], x[:, i]), -1).mT.corrcoef()[:6, 6:]
        assert bool((correlation.abs() < 6 / n**0.5).all())


def test_singular_covariances_are_sampled() -> None:
    H = Dense(noise(2, 6))
    x = (H.T @ H).sample((1000,))
    null = torch.linalg.svd(H.matrix)[2][2:]
    torch.testing.assert_close(x @ null.mT, torch.zeros(1000, 4, dtype=F64), rtol=0, atol=1e-6)
    projected = x @ torch.linalg.pinv(H.matrix)
    torch.testing.assert_close(projected.mT.cov(), torch.eye(2, dtype=F64), rtol=0, atol=0.3)
    assert (H.T @ H + Identity(6)).sample((5,)).shape == (5, 6)


def test_sums_with_negative_terms_are_sampled_as_a_whole() -> None:
    A = Dense(definite(), symmetric=True)
    x = (A - 0.4 * Identity(6)).sample((20000,))
    M = A.matrix - 0.4 * EYE
    torch.testing.assert_close(x.mT @ x / 20000, M, rtol=0, atol=0.1 * float(M.max()))
    with pytest.raises(ValueError, match="positive semi-definite"):
        (A - 100.0 * Identity(6)).sample()


def normal(mean: Tensor, covariance: Operator) -> Any:
    from gpytorch.distributions import MultivariateNormal  # after linear_operator, quietly

    return MultivariateNormal(mean, covariance)


@pytest.mark.parametrize("make", CASES)
def test_log_densities_match_the_normal_distribution_of_torch(make: Callable[[], Case]) -> None:
    A, M = make()
    mean, x = noise(*A.batch_shape, 6), noise(*A.batch_shape, 6)
    twin: Any = torch.distributions.MultivariateNormal(mean, M)
    expected = twin.log_prob(x)
    torch.testing.assert_close(normal(mean, A).log_prob(x), expected)


@pytest.mark.parametrize("make", CASES)
def test_distributions_are_sampled_with_the_covariance(make: Callable[[], Case]) -> None:
    """To 6 standard deviations, as above."""
    A, M = make()
    mean = noise(*A.batch_shape, 6)
    x = normal(mean, A).rsample(torch.Size([20000])) - mean
    d = M.diagonal(dim1=-2, dim2=-1)
    spread = (d[..., :, None] * d[..., None, :] + M.square()).div(20000).sqrt()
    estimate = torch.einsum("n...i,n...j->...ij", x, x) / 20000
    assert bool(((estimate - M).abs() < 6 * spread).all())


def test_log_densities_have_gradients_in_the_variances() -> None:
    d, x = (noise(6).square() + 0.1).requires_grad_(), noise(6)
    log_prob = normal(torch.zeros(6, dtype=F64), Diagonal(d)).log_prob(x)
    (gradient,) = torch.autograd.grad(log_prob, d)
    torch.testing.assert_close(gradient, (x.square() / d - 1) / (2 * d))
