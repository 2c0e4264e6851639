"""Mixtures: their moments, their conditioning and their denoiser, against what torch says."""

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from appa_prob.operators import Dense, Diagonal, Isotropic, Operator
from appa_prob.samplers import (
    Denoiser,
    GaussianDenoiser,
    GaussianLikelihood,
    Mixture,
    MixtureDenoiser,
    RectifiedSchedule,
    VESchedule,
    VPSchedule,
)

K, N = 3, 4
SCHEDULES = [VESchedule(1e-2, 1e2), VPSchedule(), RectifiedSchedule()]


def parts(kind: str) -> tuple[Tensor, Tensor, Operator]:
    g = torch.Generator().manual_seed(0)
    means = 3 * torch.randn(K, N, generator=g).double()
    F = torch.randn(K, N, N, generator=g).double()
    covariances: dict[str, Operator] = {
        "isotropic": Isotropic(torch.tensor(0.5).double(), N),
        "isotropic batch": Isotropic(torch.tensor([0.5, 1.0, 2.0]).double(), N),
        "diagonal": Diagonal(0.1 + torch.rand(K, N, generator=g).double(), event_ndim=1),
        "dense": Dense(F @ F.mT / N + 0.1 * torch.eye(N).double(), symmetric=True),
    }
    return torch.tensor([0.2, 0.5, 0.3]).double(), means, covariances[kind]


def reference(law: Mixture) -> MixtureSameFamily:
    """The same law by torch, from dense covariances."""
    covariances = law.covariances.to_dense().expand(*law.means.shape, N)
    components = MultivariateNormal(law.means, covariances)
    return MixtureSameFamily(Categorical(logits=law.log_weights), components)


KINDS = ["isotropic", "isotropic batch", "diagonal", "dense"]


@pytest.mark.parametrize("kind", KINDS)
def test_density_and_moments_are_those_of_torch(kind: str) -> None:
    law = MixtureDenoiser(*parts(kind), VESchedule()).law
    expected = reference(law)
    x = 3 * torch.randn(5, N).double()
    torch.testing.assert_close(law.log_prob(x), expected.log_prob(x))  # type: ignore[no-untyped-call]
    torch.testing.assert_close(law.mean, expected.mean)
    torch.testing.assert_close(law.covariance.diagonal(), expected.variance)
    dense = law.covariance.to_dense()
    torch.testing.assert_close(dense.diagonal(), expected.variance)
    torch.testing.assert_close(dense, dense.mT)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_moments(kind: str) -> None:
    law = MixtureDenoiser(*parts(kind), VESchedule()).law
    g = torch.Generator().manual_seed(1)
    # Moments of the mixture itself, and of draws from the covariance operator alone: bounds of 6
    # standard errors, from the samples' own fourth moments.
    assert law.sample((), g).shape == (N,)
    for x in (law.sample((20000,), g) - law.mean, law.covariance.sample((20000,), g)):
        assert x.shape == (20000, N)
        assert (x.mean(0).abs() < 6 * x.std(0) / len(x) ** 0.5).all()
        products = x.unsqueeze(1) * x.unsqueeze(2)
        error = 6 * products.std(0) / len(x) ** 0.5
        assert ((products.mean(0) - law.covariance.to_dense()).abs() < error).all()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_the_posterior_is_that_of_tweedie(kind: str, schedule) -> None:  # type: ignore[no-untyped-def]
    d = MixtureDenoiser(*parts(kind), schedule)
    t = torch.tensor([0.2, 0.5, 0.6, 0.9]).double()  # as many as the event has elements
    alpha, sigma = d.scales(t)
    x_t = alpha * d.law.sample((N,)) + sigma * torch.randn(N, N).double()
    exact, tweedie = d.posterior(x_t, t), Denoiser.posterior(d, x_t, t)
    torch.testing.assert_close(exact.mean, tweedie.mean)
    torch.testing.assert_close(exact.covariance.to_dense(), tweedie.covariance.to_dense())
    v = torch.randn(7, N, N).double()
    torch.testing.assert_close(exact.covariance(v), tweedie.covariance(v))
    # The score of the noisy marginal, by autograd through torch's own density.
    i = 2
    noisy = reference(
        Mixture(
            d.law.log_weights,
            alpha[i] * d.means,
            Dense(
                alpha[i] ** 2 * d.law.covariances.to_dense() + sigma[i] ** 2 * torch.eye(N),
                symmetric=True,
            ),
        )
    )
    x = x_t[i].clone().requires_grad_()
    (score,) = torch.autograd.grad(noisy.log_prob(x), x)  # type: ignore[no-untyped-call]
    expected = (x_t[i] + sigma[i] ** 2 * score) / alpha[i]
    torch.testing.assert_close(d(x_t, t)[i], expected)


def test_one_component_is_a_gaussian() -> None:
    _, means, covariances = parts("dense")
    mixture = MixtureDenoiser(
        torch.ones(1), means[:1], Dense(covariances.to_dense()[:1], symmetric=True), VPSchedule()
    )
    gaussian = GaussianDenoiser(
        means[0], Dense(covariances.to_dense()[0], symmetric=True), VPSchedule()
    )
    x_t, t = torch.randn(5, N).double(), torch.tensor(0.3).double()
    one, other = mixture.posterior(x_t, t), gaussian.posterior(x_t, t)
    torch.testing.assert_close(one.mean, other.mean)
    torch.testing.assert_close(
        one.covariance.to_dense(), other.covariance.to_dense().expand(5, N, N)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_conditioning_is_bayes_rule(kind: str) -> None:
    law = MixtureDenoiser(*parts(kind), VESchedule()).law
    likelihood = GaussianLikelihood(Dense(torch.randn(2, N).double()), torch.ones(2).double(), 0.5)
    posterior = law.condition(likelihood)
    x = torch.randn(6, N).double()
    joint = law.log_prob(x) + likelihood.log_prob(x)
    evidence = joint - reference(posterior).log_prob(x)  # type: ignore[no-untyped-call]
    # log p(x) + log p(y | x) - log p(x | y) = log p(y), the same for each x.
    torch.testing.assert_close(evidence, evidence[:1].expand(6))
    torch.testing.assert_close(posterior.log_weights.exp().sum(), torch.tensor(1.0).double())


def test_given_and_conditioned_is_batched() -> None:
    d = MixtureDenoiser(*parts("dense"), VPSchedule())
    likelihood = GaussianLikelihood(Dense(torch.randn(2, N).double()), torch.ones(2).double(), 0.5)
    x_t, t = torch.randn(5, N).double(), torch.linspace(0.1, 0.9, 5).double()
    together = d.given(x_t, t).condition(likelihood)
    for i in range(5):
        alone = d.given(x_t[i], t[i]).condition(likelihood)
        torch.testing.assert_close(together.mean[i], alone.mean)
        torch.testing.assert_close(together.log_weights[i], alone.log_weights)


def test_events_of_any_shape_and_type() -> None:
    _, means, _ = parts("isotropic")
    flat = MixtureDenoiser(torch.ones(K), means, Isotropic(0.5, N), VESchedule())
    square = MixtureDenoiser(
        torch.ones(K), means.reshape(K, 2, 2), Isotropic(0.5, (2, 2)), VESchedule()
    )
    x_t, t = torch.randn(3, N).double(), torch.tensor(0.5).double()
    torch.testing.assert_close(square(x_t.reshape(3, 2, 2), t).flatten(1), flat(x_t, t))
    single = square.to(torch.float32)(x_t.float().reshape(3, 2, 2), t.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.flatten(1), flat(x_t, t).float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("weights", "means", "covariances", "message"),
    [
        (torch.ones(2), torch.zeros(3, 4), Isotropic(1.0, 4), "weights of shape"),
        (torch.ones(()), torch.zeros(3, 4), Isotropic(1.0, 4), "weights of shape"),
        (torch.tensor([1.0, -1.0]), torch.zeros(2, 4), Isotropic(1.0, 4), "weights >= 0"),
        (torch.zeros(2), torch.zeros(2, 4), Isotropic(1.0, 4), "not all 0"),
        (torch.ones(2), torch.zeros(2, 4), Isotropic(1.0, 3), "one covariance of events"),
        (torch.ones(2), torch.zeros(2, 4), Isotropic(torch.ones(3), 4), "or a batch of 2"),
        (torch.ones(1), torch.zeros(1, 2), Dense(-torch.eye(2), symmetric=True), "semi-definite"),
    ],
)
def test_bad_mixtures_are_refused(weights, means, covariances, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        MixtureDenoiser(weights, means, covariances, VESchedule())


def test_a_batch_of_observations_is_refused() -> None:
    law = MixtureDenoiser(*parts("dense"), VESchedule()).law
    likelihood = GaussianLikelihood(Isotropic(torch.tensor(1.0).double(), N), law.means, 0.5)
    with pytest.raises(ValueError, match="one observation"):
        law.condition(likelihood)
    with pytest.raises(ValueError, match="means of shape"):
        Mixture(law.log_weights, law.mean, law.covariances)
