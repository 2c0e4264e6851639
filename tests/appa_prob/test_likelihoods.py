"""Likelihoods: densities, Fisher's information, and what guidance makes of them."""

import math
from typing import Any

import gpytorch
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from appa_prob.bounded_normal import CensoredNormal, TruncatedNormal
from appa_prob.information import information
from appa_prob.likelihoods import (
    Bernoulli,
    Censored,
    GaussianLikelihood,
    Joint,
    Laplace,
    LogNormal,
    MapLikelihood,
    Missing,
    NegativeBinomial,
    Poisson,
    StudentT,
    Truncated,
)
from appa_prob.operators import Dense, Identity, Isotropic, Nonlinear
from appa_prob.samplers import MMPS, GaussianDenoiser, VESchedule

A = Dense(torch.tensor([[1.0, 0.5], [-0.5, 2.0], [0.3, 0.3]]).double())
H = Nonlinear(lambda x: torch.tanh(x @ A.to_dense().mT), 2, 3)
SCALES = torch.tensor([0.5, 1.0, 2.0]).double()
COUNTS = torch.arange(0.0, 400.0).double()
LINE = torch.linspace(-60.0, 60.0, 200_001, dtype=torch.float64)
POSITIVE = torch.linspace(-12.0, 12.0, 100_001, dtype=torch.float64).exp()

# Likelihoods, and the values that numbers of each may have: all of them, or a fine grid.
CASES = [
    (GaussianLikelihood(H, SCALES), LINE),
    (StudentT(H, SCALES, df=5.0), torch.sinh(LINE / 6)),
    (Laplace(H, SCALES), LINE),
    (LogNormal(H, SCALES), POSITIVE),
    (Poisson(H, exposure=3.0), COUNTS),
    (NegativeBinomial(H, 4.0, exposure=SCALES), COUNTS),
    (Bernoulli(H), torch.tensor([0.0, 1.0]).double()),
    (Censored(H, SCALES, -0.5, 0.7), torch.linspace(-0.5, 0.7, 100_001, dtype=torch.float64)),
    (Censored(H, SCALES, upper=0.2), torch.linspace(-20.0, 0.2, 200_001, dtype=torch.float64)),
    (Truncated(H, SCALES, -0.5, 0.7), torch.linspace(-0.5, 0.7, 100_001, dtype=torch.float64)),
    (Truncated(H, SCALES, lower=0.2), torch.linspace(0.2, 20.0, 200_001, dtype=torch.float64)),
]
IDS = [f"{type(case).__name__}-{i}" for i, (case, _) in enumerate(CASES)]


def weights(likelihood: MapLikelihood, y: Tensor) -> Tensor:
    """What an integral over an observation weighs its values by: atoms have a weight of 1."""
    if y[1] == 1.0:
        return torch.ones_like(y)
    gaps = y.diff()
    w = (torch.cat((gaps, gaps[-1:])) + torch.cat((gaps[:1], gaps))) / 2
    w[0], w[-1] = gaps[0] / 2, gaps[-1] / 2
    if isinstance(likelihood, Censored):
        # The ends have a probability, where the interval next to them has half of its weight.
        for end, bound in ((0, likelihood.lower), (-1, likelihood.upper)):
            if math.isfinite(float(bound)):
                w[end] = 1.0
    return w


@pytest.mark.parametrize(("likelihood", "values"), CASES, ids=IDS)
def test_densities_integrate_to_one_and_the_information_is_that_of_autograd(
    likelihood: MapLikelihood, values: Tensor
) -> None:
    """W = E[(d log p / dh)^2], by a sum over all observations."""
    w = weights(likelihood, values)
    point = torch.tensor([0.3, -0.8, 0.6]).double().expand(len(values), 3).clone()
    y = values[:, None].expand(-1, 3)
    density = likelihood.law(point.requires_grad_()).log_prob(y)
    (score,) = torch.autograd.grad(density.sum(), point)
    p = density.detach().exp() * w[:, None]
    torch.testing.assert_close(p.sum(0), torch.ones(3).double(), rtol=0, atol=2e-3)
    found = fisher(likelihood, point[0].detach(), y[len(y) // 3])
    torch.testing.assert_close(found, (p * score.square()).sum(0), rtol=5e-3, atol=1e-5)


def fisher(likelihood: MapLikelihood, h: Tensor, y: Tensor) -> Tensor:
    """The diagonal of the information about h, from the linearisation with the identity."""
    direct = likelihood.to(torch.float64)
    direct.map = Identity(3)
    _, J, R = direct.given(y).linearize(h)
    return J.to_dense().to(h).diagonal().square() / R.to_dense().to(h).diagonal()


@pytest.mark.parametrize(("likelihood", "values"), CASES, ids=IDS)
def test_the_linearisation_has_the_score_and_the_information_through_the_map(
    likelihood: MapLikelihood, values: Tensor
) -> None:
    x = torch.randn(4, 2).double()
    y = likelihood(x[0]).sample()
    observed = likelihood.given(y)
    residual, J, R = observed.linearize(x)
    point = x.clone().requires_grad_()
    (score,) = torch.autograd.grad(observed.log_prob(point).sum(), point)
    torch.testing.assert_close(J.adjoint(R.solve(residual)), score)
    _, D = H.linearize(x)
    W = torch.stack([fisher(likelihood, H(one), y) for one in x])
    dense = J.to_dense()
    found = dense.mT @ torch.linalg.solve(R.to_dense().to(dense), dense)
    torch.testing.assert_close(found, D.to_dense().mT @ (W[..., None] * D.to_dense()))


def test_they_are_distributions_of_pyro() -> None:
    x = torch.zeros(2).double()

    def model() -> None:
        for i, (likelihood, _) in enumerate(CASES):
            pyro.sample(f"y{i}", likelihood(x))

    trace = pyro.poutine.trace(model).get_trace()
    trace.compute_log_prob()
    for i, (likelihood, _) in enumerate(CASES):
        node: Any = trace.nodes[f"y{i}"]
        assert node["fn"].event_shape == (3,)
        expected = likelihood.given(node["value"]).log_prob(x)
        torch.testing.assert_close(node["log_prob"], expected)


@pytest.mark.parametrize(
    "law",
    [
        CensoredNormal(torch.tensor([0.0, 9.0]).double(), 1.0, -0.5, 1.0),
        TruncatedNormal(torch.tensor([0.0, 9.0]).double(), 1.0, -0.5, 1.0),
    ],
    ids=["censored", "truncated"],
)
def test_samples_of_bounded_laws_have_their_means(law: dist.TorchDistribution) -> None:
    y = law.sample((20_000,))
    values = torch.linspace(-0.5, 1.0, 20_001, dtype=torch.float64)[:, None]
    w = weights(Censored(Identity(2), 1.0, -0.5, 1.0), values[:, 0])[:, None]
    if isinstance(law, TruncatedNormal):
        w = weights(Truncated(Identity(2), 1.0), values[:, 0])[:, None]
    mean = (law.log_prob(values.expand(-1, 2)).exp() * w * values).sum(0)
    # 5 standard errors: a right law fails once in 10^6 seeds.
    assert bool(((y.mean(0) - mean).abs() < 5 * y.std(0) / 20_000**0.5 + 1e-4).all())


def test_laws_far_from_their_interval_keep_their_digits() -> None:
    """Beyond all probability of one type of numbers, densities and scores are still right."""
    loc = torch.tensor([-60.0, 61.0]).double().requires_grad_()
    law = TruncatedNormal(loc, 1.0, 0.0, 1.0)
    density = law.log_prob(torch.tensor([0.1, 0.9]).double())
    (score,) = torch.autograd.grad(density.sum(), loc)
    # Near the nearest end it is exponential with the rate 60 + 1/60, to first order.
    expected = math.log(60.0) - 60.0 * 0.1
    assert bool((density - expected).abs().max() < 0.02)
    torch.testing.assert_close(score[0], -score[1])
    assert bool(information(law)["loc"].isfinite().all())


@pytest.mark.parametrize(("likelihood", "values"), CASES, ids=IDS)
def test_missing_numbers_are_left_out(likelihood: MapLikelihood, values: Tensor) -> None:
    x = torch.randn(4, 2).double()
    y = likelihood(x[0]).sample()
    law = likelihood.law(H(x))
    y[1] = torch.nan
    missing = Missing(likelihood)
    expected = law.log_prob(torch.where(y.isnan(), law.sample()[0], y))[:, [0, 2]].sum(-1)
    torch.testing.assert_close(missing(x).log_prob(y), expected)
    residual, J, _ = missing.given(y).linearize(x)
    assert not residual[:, 1].any() and not J.to_dense()[:, 1].any()
    assert residual[:, [0, 2]].any()
    with pytest.raises(ValueError, match=r"NaN; wrap the likelihood in Missing|Mask or Gather"):
        likelihood.given(y)


def gaussian(mean: Tensor, covariance: Tensor, y: Tensor) -> Tensor:
    law: Any = torch.distributions.MultivariateNormal(mean, covariance)
    density: Tensor = law.log_prob(y)
    return density


def test_correlated_errors_are_the_lazy_gaussian_of_gpytorch() -> None:
    V = torch.tensor([[1.0, 0.6, 0.2], [0.6, 1.5, 0.0], [0.2, 0.0, 0.7]]).double()
    R = Dense(V, symmetric=True)
    likelihood = GaussianLikelihood(H, R)
    x, y = torch.randn(4, 2).double(), torch.randn(3).double()
    law = likelihood(x)
    assert isinstance(law, gpytorch.distributions.MultivariateNormal)
    assert law.lazy_covariance_matrix is R
    exact = gaussian(H(x), V, y)
    torch.testing.assert_close(law.log_prob(y), exact)
    torch.testing.assert_close(likelihood.given(y).log_prob(x), exact)
    y[1] = torch.nan
    seen = Missing(likelihood).given(y)
    kept = torch.tensor([0, 2])
    marginal = gaussian(H(x)[:, kept], V[kept][:, kept], y[kept])
    torch.testing.assert_close(seen.log_prob(x), marginal)
    grid = GaussianLikelihood(
        Identity((2, 2)), Dense(torch.eye(4), (2, 2), (2, 2), symmetric=True)
    )
    assert grid(torch.zeros(5, 2, 2)).sample().shape == (5, 2, 2)


def test_diagonal_covariances_are_independent_errors() -> None:
    law = GaussianLikelihood(Identity(2), Isotropic(4.0, 2))(torch.zeros(2))
    assert isinstance(law, dist.Independent) and torch.equal(law.stddev, torch.full((2,), 2.0))


def test_joint_observations_are_independent() -> None:
    parts = {"a": Poisson(H), "b": GaussianLikelihood(H, SCALES), "c": Missing(Bernoulli(H))}
    joint, x = Joint(parts), torch.randn(4, 2).double()
    y = {"a": torch.ones(3), "b": torch.randn(3), "c": torch.tensor([1.0, torch.nan, 0.0])}
    y = {name: one.double() for name, one in y.items()}
    each = [likelihood.given(y[name]) for name, likelihood in parts.items()]
    expected = sum(one.log_prob(x) for one in each)
    torch.testing.assert_close(joint(x).log_prob(joint.pack(y)), expected)
    observed = joint.given(y)
    torch.testing.assert_close(observed.log_prob(x), expected)
    residual, J, R = observed.linearize(x)
    score = sum(J.adjoint(R.solve(r)) for r, J, R in (one.linearize(x) for one in each))
    torch.testing.assert_close(J.adjoint(R.solve(residual)), score)
    assert joint(x).sample().shape == (4, 9) and observed.y.shape == (9,)


def test_guidance_conditions_on_them() -> None:
    """Log-normal errors of the exponential of a state are Gaussian errors of the state."""
    prior = GaussianDenoiser(torch.zeros(3).double(), Isotropic(2.0, 3), VESchedule()).double()
    y = torch.tensor([0.3, 1.0, 4.0]).double()
    x_t, t = torch.randn(5, 3).double(), torch.tensor(0.4).double()
    found = MMPS(prior, LogNormal(Identity(3), SCALES).given(y))(x_t, t)
    expected = MMPS(prior, GaussianLikelihood(Identity(3), SCALES).given(y.log()))(x_t, t)
    torch.testing.assert_close(found, expected)
    single = MMPS(prior, Poisson(Identity(3), SCALES).given(y.round())).float()
    assert single(x_t.float(), t.float()).dtype == torch.float32


def test_linearisations_are_differentiable() -> None:
    x = torch.randn(2).double().requires_grad_()
    observed = Poisson(H).given(torch.tensor([1.0, 0.0, 3.0]).double())
    assert torch.autograd.gradcheck(lambda x: observed.linearize(x)[0], x)


def test_bad_input_is_refused() -> None:
    correlated = GaussianLikelihood(H, Dense(torch.eye(3).double(), symmetric=True))
    with pytest.raises(ValueError, match="expected a scale > 0"):
        StudentT(H, -1.0)
    with pytest.raises(ValueError, match=r"exposure of shape \(\) or \(3,\), got \(2,\)"):
        Poisson(H, torch.ones(2))
    with pytest.raises(ValueError, match=r"observation of shape \(\*, 3\), got \(2,\)"):
        Poisson(H).given(torch.ones(2))
    with pytest.raises(ValueError, match="support of Poisson"):
        Poisson(H).given(torch.tensor([0.5, 1.0, 1.0]))
    with pytest.raises(ValueError, match="covariance of observations of shape"):
        GaussianLikelihood(H, Isotropic(1.0, 2))
    with pytest.raises(ValueError, match="states of one shape"):
        Joint({"a": Poisson(Identity(2)), "b": Poisson(Identity(3))})
    with pytest.raises(TypeError, match=r"known Fisher information, got Weibull"):
        information(dist.Weibull(torch.ones(2), 1.0))
    with pytest.raises(ValueError, match="lower < upper"):
        TruncatedNormal(0.0, 1.0, 1.0, 0.0)
    with pytest.raises(TypeError, match="law of independent numbers"):
        Missing(correlated)(torch.zeros(2).double())
