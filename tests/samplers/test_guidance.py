"""Guidance by likelihoods, in batches, nested, moved and refused."""

import pytest
import torch
from torch import Tensor

from appa_prob.operators import GMRES, Dense, Diagonal, Isotropic, Mask, Nonlinear
from appa_prob.samplers import (
    DPS,
    MMPS,
    Denoiser,
    Gaussian,
    GaussianDenoiser,
    GaussianLikelihood,
    Guidance,
    VESchedule,
)

A = Mask(torch.tensor([True, False, True, False]))
Y = torch.tensor([1.0, -2.0])


def prior(dtype: torch.dtype = torch.float32) -> GaussianDenoiser:
    F = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    return GaussianDenoiser(
        torch.zeros(4, dtype=dtype), Dense(F @ F.mT, symmetric=True), VESchedule()
    )


def test_dps_is_a_step_along_the_gradient_of_the_norm() -> None:
    d = prior(torch.float64)
    likelihood = GaussianLikelihood(A, Y.double(), 0.1)
    x_t, t = torch.randn(4).double().requires_grad_(), torch.tensor(0.4).double()
    norm = (Y - A(d(x_t, t))).norm()
    (gradient,) = torch.autograd.grad(norm, x_t)
    _, sigma = d.schedule(t)
    expected = d(x_t, t) - 0.7 * sigma**2 * gradient
    torch.testing.assert_close(DPS(d, likelihood, zeta=0.7)(x_t.detach(), t), expected.detach())


@pytest.mark.parametrize("method", [DPS, MMPS])
def test_members_do_not_depend_on_each_other(method: type[Guidance]) -> None:
    nonlinear = A @ Nonlinear(torch.sinh, 4, 4)
    d = method(prior(), GaussianLikelihood(nonlinear, Y, 0.1))
    x_t, t = torch.randn(4, 4), torch.tensor([0.1, 0.4, 0.5, 0.9])
    together = d(x_t, t)
    alone = torch.stack([d(x, s) for x, s in zip(x_t, t, strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_mmps_through_a_nonlinear_map_is_gauss_newton() -> None:
    d = prior(torch.float64)
    likelihood = GaussianLikelihood(A @ Nonlinear(torch.sinh, 4, 4), Y.double(), 0.1)
    x_t, t = torch.randn(4).double(), torch.tensor(0.4).double()
    posterior = d.posterior(x_t, t)
    V, mean = posterior.covariance.to_dense(), posterior.mean
    H = torch.diag(mean.cosh())[[0, 2]]
    gain = V @ H.mT @ torch.linalg.inv(H @ V @ H.mT + 0.1 * torch.eye(2))
    expected = mean + gain @ (Y - mean.sinh()[[0, 2]])
    guided = MMPS(d, likelihood, GMRES(rtol=1e-12))
    torch.testing.assert_close(guided(x_t, t), expected, rtol=1e-8, atol=1e-10)


def test_dps_guides_what_mmps_guided() -> None:
    inner = MMPS(prior(), GaussianLikelihood(A, Y, 0.1), GMRES())
    other = Mask(torch.tensor([False, True, False, False]))
    outer = DPS(inner, GaussianLikelihood(other, torch.tensor([3.0]), 0.1))
    x_t, t = torch.randn(5, 4), torch.tensor(0.5)
    before, after = inner(x_t, t), outer(x_t, t)
    assert ((after[:, 1] - 3).abs() < (before[:, 1] - 3).abs()).all()


def test_a_guided_denoiser_evaluates_its_prior_once() -> None:
    count = 0

    class Counting(GaussianDenoiser):
        def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
            nonlocal count
            count += 1
            return super().forward(x_t, t)

        def posterior(self, x_t: Tensor, t: Tensor) -> Gaussian:
            return Denoiser.posterior(self, x_t, t)

    d = Counting(torch.zeros(4), Isotropic(torch.tensor(1.0), 4), VESchedule())
    MMPS(d, GaussianLikelihood(A, Y, 0.1))(torch.randn(3, 4), torch.tensor(0.5))
    assert count == 1


def test_log_prob_is_that_of_torch(generator: torch.Generator) -> None:
    F = torch.randn(2, 2, generator=generator, device=generator.device).double()
    R = F @ F.mT + torch.eye(2, device=F.device)
    x = torch.randn(5, 4, generator=generator, device=F.device).double()
    y = Y.to(F)
    H = A.to(F.device)
    expected = torch.distributions.MultivariateNormal(H(x), R).log_prob(y)  # type: ignore[no-untyped-call]
    likelihood = GaussianLikelihood(H, y, Dense(R, symmetric=True))
    torch.testing.assert_close(likelihood.log_prob(x), expected)
    variances = torch.tensor([0.5, 2.0], device=F.device).double()
    expected = torch.distributions.MultivariateNormal(H(x), torch.diag(variances)).log_prob(y)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(GaussianLikelihood(H, y, variances).log_prob(x), expected)


def test_likelihoods_move_with_their_guidance() -> None:
    guided = MMPS(prior(), GaussianLikelihood(A, Y, torch.tensor([0.1, 0.2])))
    x_t, t = torch.randn(4), torch.tensor(0.5)
    single = guided(x_t, t)
    double = guided.to(torch.float64)(x_t.double(), t.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((A, torch.zeros(3), 0.1), "expected an observation y"),
        ((A, torch.tensor([1.0, float("nan")]), 0.1), "1 of 2 that are not"),
        ((A, Y, 0.0), "variances of errors > 0"),
        ((A, Y, -1.0), "variances of errors > 0"),
        ((A, Y, float("nan")), "variances of errors > 0"),
        ((A, Y, torch.ones(3)), "variances of shape"),
        ((A, Y, Diagonal(torch.ones(3))), "covariance of observations"),
    ],
)
def test_bad_likelihoods_are_refused(arguments, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        GaussianLikelihood(*arguments)


def test_batches_of_observations_that_states_do_not_fit_are_refused() -> None:
    """One state for each observation, or batches of them; others are refused at the boundary."""
    likelihood = GaussianLikelihood(A, torch.zeros(3, *A.out_shape).double(), 0.1)
    for batch in ((), (1,), (3,), (5, 3)):
        x = torch.zeros(*batch, *A.in_shape).double()
        expected = (3,) if batch in ((), (1,)) else batch
        assert likelihood.log_prob(x).shape == expected
        assert likelihood.linearize(x)[0].shape == (*expected, *A.out_shape)
    x = torch.zeros(4, *A.in_shape).double()
    message = r"the batch \(3,\) of the observations, .* got the batch \(4,\); draw noise of shape"
    with pytest.raises(ValueError, match=message):
        likelihood.log_prob(x)
    with pytest.raises(ValueError, match=message):
        likelihood.linearize(x)


def test_bad_guidance_is_refused() -> None:
    wrong = GaussianLikelihood(Mask(torch.tensor([True, False])), torch.zeros(1), 0.1)
    with pytest.raises(ValueError, match="likelihood of states"):
        MMPS(prior(), wrong)
    with pytest.raises(ValueError, match="zeta"):
        DPS(prior(), GaussianLikelihood(A, Y, 0.1), zeta=float("nan"))
    with pytest.raises(TypeError, match="expected a Denoiser as the prior, got Linear"):
        MMPS(torch.nn.Linear(4, 4), GaussianLikelihood(A, Y, 0.1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"expected a likelihood, got Tensor without \['y'"):
        MMPS(prior(), Y)  # type: ignore[arg-type]


def test_guidance_shows_what_it_is_made_of() -> None:
    shown = repr(MMPS(prior(), GaussianLikelihood(A, Y, 0.1)))
    for part in ("GaussianLikelihood(Mask((4,) -> (2,))", "GMRES(", "GaussianDenoiser((4,), VE"):
        assert part in shown
