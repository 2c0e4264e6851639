"""Diffusion priors as distributions of Pyro."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.infer.inspect import get_model_relations
from pyro.optim import ClippedAdam
from torch import Tensor

from appa_prob import DiffusionPrior
from appa_prob.operators import Dense, Isotropic
from appa_prob.samplers import (
    DDPM,
    Denoiser,
    DPMSolver,
    GaussianDenoiser,
    MixtureDenoiser,
    VESchedule,
)

SCHEDULE = VESchedule(1e-2, 1e3)
MEAN = torch.tensor([1.0, -1.0]).double()
COVARIANCE = torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double()


class Opaque(Denoiser):
    """A denoiser of which nothing is known but what it denoises."""

    def __init__(self, inner: Denoiser) -> None:
        super().__init__(inner.event_shape, inner.schedule)
        self.inner = inner

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        mean: Tensor = self.inner(x_t, t)
        return mean


def gaussian(mean: Tensor = MEAN) -> GaussianDenoiser:
    return GaussianDenoiser(mean, Dense(COVARIANCE, symmetric=True), SCHEDULE)


def prior(denoiser: Denoiser | None = None, exact: int = 512, probes: int = 8) -> DiffusionPrior:
    denoiser = gaussian() if denoiser is None else denoiser
    return DiffusionPrior(denoiser, DPMSolver(24), exact=exact, probes=probes, dtype=torch.float64)


def program(y: Tensor | None = None) -> Tensor:
    x: Tensor = pyro.sample("x", prior())
    pyro.sample("y", dist.Normal(x.sum(-1), 0.5), obs=y)
    return x


def test_samples_and_shapes() -> None:
    pyro.set_rng_seed(0)
    law = prior()
    x = law.sample((2000,))
    # 5 standard errors, and the error of the integrator.
    assert bool(((x.mean(0) - MEAN).abs() < 5 * COVARIANCE.diagonal().sqrt() / 44 + 0.02).all())
    torch.testing.assert_close(x.mT.cov(), COVARIANCE, rtol=0.15, atol=0.15)
    assert law.batch_shape == () and law.event_shape == (2,) and law.event_dim == 1
    wide = law.expand((3, 1)).expand((3, 5))
    assert wide.sample((4,)).shape == (4, 3, 5, 2)
    assert wide.log_prob(torch.zeros(2).double()).shape == (3, 5)
    several: Any = law.expand((3,))
    assert several.to_event(1).sample().shape == (3, 2)
    assert several.to_event(1).log_prob(torch.zeros(3, 2).double()).shape == ()
    assert prior().sample().dtype == torch.float64
    pyro.set_rng_seed(1)
    first = law.sample()
    pyro.set_rng_seed(1)
    assert torch.equal(first, law.sample())


def test_densities_are_exact_where_the_law_is_known_and_by_the_flow_elsewhere() -> None:
    x = torch.randn(3, 2).double().requires_grad_()
    expected = dist.MultivariateNormal(MEAN, COVARIANCE).log_prob(x)
    found = prior().log_prob(x)
    flow = prior(Opaque(gaussian())).log_prob(x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(flow, expected, rtol=1e-2, atol=1e-2)
    gradients = [torch.autograd.grad(one.sum(), x)[0] for one in (expected, found, flow)]
    torch.testing.assert_close(gradients[1], gradients[0])
    torch.testing.assert_close(gradients[2], gradients[0], rtol=1e-3, atol=1e-3)


def test_large_events_have_estimated_densities() -> None:
    """Hutchinson's estimate is another number each time, and right on average."""
    law, x = prior(Opaque(gaussian()), exact=1, probes=2), torch.zeros(60, 2).double()
    found = law.log_prob(x)
    expected = dist.MultivariateNormal(MEAN, COVARIANCE).log_prob(x[0])
    assert found.std() > 0
    assert (found.mean() - expected).abs() < 5 * found.std() / math.sqrt(60) + 0.02


def test_mixtures_know_their_density() -> None:
    means = torch.tensor([[-2.0, 0.0], [2.0, 0.0]]).double()
    V = Isotropic(torch.tensor(0.25).double(), 2)
    law = prior(MixtureDenoiser(torch.ones(2).double(), means, V, SCHEDULE))
    x = torch.randn(5, 2).double()
    parts = dist.MultivariateNormal(means, 0.25 * torch.eye(2).double()).log_prob(x[:, None])
    torch.testing.assert_close(law.log_prob(x), parts.logsumexp(-1) - math.log(2))


@pytest.mark.parametrize("integrator", [DPMSolver(16), DDPM(16)], ids=["flow", "stochastic"])
def test_samples_are_differentiable_with_respect_to_the_denoiser(integrator: DPMSolver) -> None:
    mean = MEAN.clone().requires_grad_()
    law = DiffusionPrior(gaussian(mean), integrator, dtype=torch.float64)
    assert law.has_rsample
    (gradient,) = torch.autograd.grad(law.rsample((8,)).mean(0).sum(), mean)
    # Samples move with the mean, but for the noise that the first step starts from.
    torch.testing.assert_close(gradient, torch.ones(2).double(), rtol=0.02, atol=0.02)
    assert not law.sample().requires_grad


def test_handlers_of_pyro() -> None:
    trace: Any = poutine.trace(program).get_trace()
    trace.compute_log_prob()
    x = trace.nodes["x"]["value"]
    expected = dist.MultivariateNormal(MEAN, COVARIANCE).log_prob(x)
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], expected)
    replayed: Any = poutine.trace(poutine.replay(program, trace)).get_trace()
    assert torch.equal(replayed.nodes["x"]["value"], x)
    fixed = poutine.condition(program, {"x": torch.zeros(2).double()})
    assert torch.equal(fixed(), torch.zeros(2).double())
    for handler, factor in ((poutine.scale(scale=0.5), 0.5), (poutine.mask(mask=False), 0.0)):
        changed: Any = poutine.trace(handler(poutine.replay(program, trace))).get_trace()
        changed.compute_log_prob()
        torch.testing.assert_close(changed.nodes["x"]["log_prob"], factor * expected)


def test_algorithms_of_pyro_run_on_programs_with_diffusion_priors() -> None:
    """The posterior of NUTS is that of Kalman, and other algorithms run."""
    pyro.set_rng_seed(0)
    y = torch.tensor(3.0).double()
    drawn = Predictive(program, num_samples=5)()
    assert drawn["x"].shape == (5, 2) and drawn["y"].shape == (5,)
    mcmc = MCMC(
        NUTS(program, max_tree_depth=4), num_samples=120, warmup_steps=60, disable_progbar=True
    )
    mcmc.run(y)
    found = mcmc.get_samples()["x"]
    gain = COVARIANCE.sum(0) / (COVARIANCE.sum() + 0.25)
    mean = MEAN + gain * (y - MEAN.sum())
    posterior = COVARIANCE - torch.outer(gain, COVARIANCE.sum(0))
    # 5 standard errors of at least 30 effective samples.
    assert bool(((found.mean(0) - mean).abs() < 5 * (posterior.diagonal() / 30).sqrt()).all())
    assert Predictive(program, mcmc.get_samples())()["y"].shape == (120,)
    pyro.clear_param_store()
    svi = SVI(program, AutoNormal(program), ClippedAdam({"lr": 0.05}), Trace_ELBO())
    losses = [svi.step(y) for _ in range(30)]
    assert sum(losses[-5:]) < sum(losses[:5])
    particles = Trace_ELBO(num_particles=4, vectorize_particles=True)
    assert math.isfinite(SVI(program, AutoNormal(program), ClippedAdam({}), particles).step(y))


def test_pyro_sees_what_depends_on_what() -> None:
    relations = get_model_relations(program, model_args=(torch.tensor(3.0).double(),))
    assert relations["sample_sample"] == {"x": [], "y": ["x"]}
    assert relations["observed"] == ["y"]


def test_pyro_draws_the_graph_of_a_program() -> None:
    """With a plate, a deterministic site and a law of ours; the source of the picture."""
    pytest.importorskip("graphviz")

    def counts(y: Tensor) -> None:
        scale = pyro.sample("scale", dist.LogNormal(torch.zeros(()).double(), 1.0))
        x = pyro.sample("field", prior())
        pyro.deterministic("total", x.sum(-1))
        with pyro.plate("places", 2):
            pyro.sample("y", dist.Normal(x, scale), obs=y)

    graph = pyro.render_model(
        counts, (torch.ones(2).double(),), render_distributions=True, render_deterministic=True
    )
    lines = {line.strip() for line in graph.source.splitlines()}
    assert {"field -> y", "scale -> y", "field -> total"} <= lines
    assert "field [label=field fillcolor=white shape=ellipse style=filled]" in lines
    assert "y [label=y fillcolor=gray shape=ellipse style=filled]" in lines
    assert "subgraph cluster_places {" in lines
    assert any("field ~ DiffusionPrior" in line for line in lines)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"events of shape \(2,\), those of the denoiser"):
        DiffusionPrior(gaussian(), event_shape=(3,))
    with pytest.raises(ValueError, match="support"):
        prior().log_prob(torch.full((2,), torch.nan).double())
    with pytest.raises(ValueError, match="broadcast"):
        prior().expand((3,)).expand((4,))
