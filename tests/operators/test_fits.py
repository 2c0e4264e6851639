"""Covariances fitted to samples are those under which the samples are likeliest."""

import pytest
import torch
from torch import Tensor

from appa_prob.operators import (
    ConvergenceWarning,
    Dense,
    Factored,
    Kronecker,
    LowRankPlusDiagonal,
    Operator,
)

F64 = torch.float64


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=F64)


def log_likelihood(V: Operator, x: Tensor) -> Tensor:
    """The mean log-density of samples, up to a constant."""
    return -0.5 * ((x * V.solve(x)).flatten(1).sum(1).mean() + V.logdet())


def truth(n: int = 12, rank: int = 2) -> LowRankPlusDiagonal:
    return LowRankPlusDiagonal(noise(rank, n), noise(n).square() + 0.2)


def test_factor_analysis_ends_where_the_likelihood_is_stationary() -> None:
    x = truth().sample((500,))
    x = x - x.mean(0)
    V = LowRankPlusDiagonal.fit(x, 2, tolerance=1e-12, max_iterations=20000)
    F, d = V.factor.clone().requires_grad_(), V.variances.clone().requires_grad_()
    value = log_likelihood(LowRankPlusDiagonal(F, d), x)
    for gradient in torch.autograd.grad(value, (F, d)):
        assert float(gradient.abs().max()) < 1e-4
    assert value > log_likelihood(truth(), x)


def test_each_iteration_of_em_makes_the_samples_likelier() -> None:
    x = truth().sample((60,))
    x = x - x.mean(0)
    values = []
    with pytest.warns(ConvergenceWarning, match="still grows by more than 0.0e"):
        for k in (1, 2, 3, 5, 10, 30):
            V = LowRankPlusDiagonal.fit(x, 2, max_iterations=k, tolerance=0.0)
            values.append(log_likelihood(V, x))
    assert bool((torch.stack(values).diff() > 0).all())


def test_factor_analysis_finds_the_truth() -> None:
    """With N = 40,000 samples entries have standard errors of some 0.5% of the variances."""
    V = truth(8)
    fit = LowRankPlusDiagonal.fit(V.sample((40000,)), 2)
    scale = V.diagonal().sqrt()
    gap = (fit.to_dense() - V.to_dense()).abs() / torch.outer(scale, scale)
    assert float(gap.max()) < 0.05
    torch.testing.assert_close(fit.variances, V.variances, rtol=0.2, atol=0.05)


def test_what_one_element_has_alone_is_no_factor() -> None:
    common, alone = torch.randn(20000, 1, dtype=F64), noise(20000, 5)
    alone[:, 0] *= 10
    fit = LowRankPlusDiagonal.fit(common + alone, 1)
    torch.testing.assert_close(fit.factor.abs(), torch.ones(1, 5, dtype=F64), rtol=0, atol=0.2)
    torch.testing.assert_close(
        fit.factor.abs()[:, 1:], torch.ones(1, 4).double(), rtol=0, atol=0.1
    )


def test_fewer_samples_than_elements_are_enough_for_factors() -> None:
    V = truth(300)
    fit = LowRankPlusDiagonal.fit(V.sample((100,)).reshape(100, 20, 15), 2)
    assert fit.factor.shape == (2, 20, 15) and bool((fit.variances > 0).all())
    error = (fit.to_dense() - V.to_dense()).norm() / V.to_dense().norm()
    assert error < 0.35
    single = LowRankPlusDiagonal.fit(V.sample((100,)).float(), 2)
    assert single.dtype == torch.float32


def test_factor_analysis_refuses_what_it_cannot_fit() -> None:
    with pytest.raises(ValueError, match="rank between 1 and 3"):
        LowRankPlusDiagonal.fit(noise(10, 3), 4)
    with pytest.raises(ValueError, match="2 samples or more"):
        LowRankPlusDiagonal.fit(noise(1, 3), 1)
    with pytest.raises(ValueError, match="constant ones; leave them out"):
        LowRankPlusDiagonal.fit(noise(10, 3) * torch.tensor([1.0, 0.0, 1.0]), 1)


def separable(*lengths: int) -> Kronecker:
    factors = [noise(n, n) for n in lengths]
    return Kronecker(
        [Dense(A @ A.mT / len(A) + torch.eye(len(A)).double(), symmetric=True) for A in factors]
    )


def test_separable_covariances_are_found() -> None:
    """With N = 20,000 samples entries have standard errors below 1% of the variances."""
    V = separable(3, 4, 2)
    fit = Kronecker.fit(V.sample((20000,)))
    scale = V.diagonal().sqrt()
    gap = (fit.to_dense() - V.to_dense()).abs() / torch.outer(scale, scale)
    assert float(gap.max()) < 0.05
    for factor in fit.factors[1:]:
        torch.testing.assert_close(factor.diagonal().mean(), torch.tensor(1.0, dtype=F64))


def test_the_separable_fit_is_where_the_likelihood_is_stationary() -> None:
    x = separable(3, 4).sample((20,))
    x = x - x.mean(0)
    fit = Kronecker.fit(x, tolerance=1e-10)
    roots = [f.factor.clone().requires_grad_() for f in fit.factors if isinstance(f, Factored)]
    value = log_likelihood(Kronecker([Factored(L) for L in roots]), x)
    for gradient in torch.autograd.grad(value, roots):
        assert float(gradient.abs().max()) < 1e-6
    for _ in range(5):
        other = [L.detach() + 0.01 * noise(*L.shape).tril() for L in roots]
        assert log_likelihood(Kronecker([Factored(L) for L in other]), x) < value


def test_a_few_samples_are_enough_for_separable_factors() -> None:
    V = separable(10, 12)
    x, M = V.sample((8,)), V.to_dense()
    fit = Kronecker.fit(x, mean=torch.zeros(10, 12, dtype=F64))
    sample = x.flatten(1).mT @ x.flatten(1) / 8
    assert (fit.to_dense() - M).norm() < 0.4 * (sample - M).norm()
    alone = Kronecker.fit(V.sample((2000,)), [2])
    assert len(alone.factors) == 1 and alone.factors[0].in_shape == (10, 12)


def test_shrinkage_makes_poor_samples_enough() -> None:
    x = noise(2, 6, 1)
    with pytest.raises(ValueError, match=r"factor 0 of 6 x 6 is positive.*2 samples.*shrinkage"):
        Kronecker.fit(x)
    fit = Kronecker.fit(x, shrinkage=(0.3, 0.0))
    assert bool((torch.linalg.eigvalsh(fit.to_dense()) > 0).all())


def test_separable_fits_refuse_what_makes_no_sense() -> None:
    x = noise(5, 2, 3)
    with pytest.raises(ValueError, match=r"add up to 2, those of events of shape \(2, 3\)"):
        Kronecker.fit(x, [1])
    with pytest.raises(ValueError, match=r"shrinkage in \[0, 1\] for each of 2 factors"):
        Kronecker.fit(x, shrinkage=2.0)
    with pytest.warns(ConvergenceWarning, match="factors still change by"):
        Kronecker.fit(x, max_iterations=1)
