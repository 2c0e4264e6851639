"""Parameters beside fields: joint posteriors against exact ones, calibration, diagnostics.

Plates hold independent copies of a problem, which are sampled at once; a correct sampler fails a
test here once in 10^4 seeds, and all are seeded.
"""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.mcmc.util import summary
from torch import Tensor

from appa_prob.conditioning import condition
from appa_prob.diffusion_prior import DiffusionPrior
from appa_prob.gibbs import gibbs
from appa_prob.monte_carlo_em import monte_carlo_em
from appa_prob.operators import Dense
from appa_prob.samplers import DPMSolver, GaussianDenoiser, VESchedule
from appa_prob.samplers.testing import sbc

F64 = torch.float64
N = 3
V = torch.tensor([[1.0, 0.6, 0.2], [0.6, 1.5, 0.5], [0.2, 0.5, 0.8]], dtype=F64)
A = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.0, 1.0]], dtype=F64)


COVARIANCE = Dense(V, symmetric=True)


def prior(steps: int = 20) -> DiffusionPrior:
    denoiser = GaussianDenoiser(torch.zeros(N, dtype=F64), COVARIANCE, VESchedule(3e-2, 30.0))
    return DiffusionPrior(denoiser, DPMSolver(steps), dtype=F64)


def biased(y: Tensor) -> None:
    """Copies of one problem: an instrument with a bias."""
    with pyro.plate("copies", len(y)):
        bias = pyro.sample("bias", dist.Normal(y.new_zeros(()), 0.5))
        x = pyro.sample("x", prior())
        pyro.sample("y", dist.Normal(x @ A.mT + bias[..., None], 0.7).to_event(1), obs=y)


def noisy(y: Tensor) -> None:
    """Problems with errors of unknown size."""
    with pyro.plate("problems", len(y)):
        scale = pyro.sample("scale", dist.LogNormal(y.new_zeros(()), 0.5))
        x = pyro.sample("x", prior())
        wide = torch.cat((x, -x), -1)  # each is seen twice
        pyro.sample("y", dist.Normal(wide, scale[..., None]).to_event(1), obs=y)


def test_a_bias_and_a_field_have_their_exact_joint_posterior() -> None:
    y = torch.tensor([1.5, 0.5, 2.5], dtype=F64)
    pyro.set_rng_seed(0)
    found = gibbs(biased, y.expand(48, N), num_samples=30, warmup_steps=12, transitions=2)
    state = torch.cat((found["x"], found["bias"][..., None]), -1)
    assert state.shape == (30, 48, N + 1)
    # The joint prior and what is seen of it.
    joint = torch.zeros(N + 1, N + 1, dtype=F64)
    joint[:N, :N], joint[N, N] = V, 0.25
    H = torch.cat((A, torch.ones(N, 1, dtype=F64)), -1)
    gain = torch.linalg.solve(H @ joint @ H.mT + 0.49 * torch.eye(N), H @ joint).mT
    mean, covariance = gain @ y, joint - gain @ H @ joint
    # Copies are independent: the spread of what is found in each tells the error of the average.
    centred = state - mean
    products = torch.einsum("...i,...j->...ij", centred, centred).flatten(-2)
    for numbers, expected in ((centred, torch.zeros(4)), (products, covariance.flatten())):
        each = numbers.mean(0)
        error = each.std(0) / 48**0.5
        assert bool(((each.mean(0) - expected).abs() < 5 * error + 0.01).all())
        assert float(error.max()) < 0.25
    # Convergence as Pyro diagnoses it, with copies as chains.
    table = summary({"bias": found["bias"].mT}, group_by_chain=True)["bias"]
    assert float(table["r_hat"]) < 1.15 and float(table["n_eff"]) > 200


def draw_scale_and_field(n: int, g: torch.Generator) -> Tensor:
    scale = (0.5 * torch.randn(n, 1, generator=g, dtype=F64)).exp()
    return torch.cat((scale, COVARIANCE.sample((n,), g)), -1)


def observe_twice(state: Tensor, g: torch.Generator) -> Tensor:
    wide = torch.cat((state[:, 1:], -state[:, 1:]), -1)
    y: Tensor = wide + state[:, :1] * torch.randn(wide.shape, generator=g, dtype=F64)
    return y


def test_the_program_of_an_unknown_noise_scale_is_calibrated() -> None:
    """Ranks of the scale and of the field, of 256 problems at once: p > 10^-4 by the chi-square
    test of 8 bins, for the least of four and corrected for their number, which a right sampler
    fails once in 10^4 seeds."""

    def posterior(y: Tensor, draws: int, g: torch.Generator) -> Tensor:
        pyro.set_rng_seed(0)
        found = gibbs(noisy, y, num_samples=2 * draws, warmup_steps=10)
        return torch.cat((found["scale"][..., None], found["x"]), -1)[1::2]

    found = sbc(draw_scale_and_field, observe_twice, posterior, trials=256, draws=15)
    assert found.ranks.shape == (256, 4)
    assert found.pvalue(bins=8) > 1e-4


def test_a_scale_that_is_half_of_what_it_is_on_average_is_seen() -> None:
    """By the same test of the field, as is a program without a parameter for what is unknown."""

    def held(y: Tensor) -> None:
        with pyro.plate("problems", len(y)):
            x = pyro.sample("x", prior())
            wide = torch.cat((x, -x), -1)
            pyro.sample("y", dist.Normal(wide, 0.5).to_event(1), obs=y)

    def posterior(y: Tensor, draws: int, g: torch.Generator) -> Tensor:
        pyro.set_rng_seed(0)
        x = condition(held, y, num_samples=draws)["x"]
        return torch.cat((torch.ones_like(x[..., :1]), x), -1)

    found = sbc(
        draw_scale_and_field,
        observe_twice,
        posterior,
        trials=256,
        draws=15,
        statistic=lambda state: state[..., 1:],
    )
    assert found.pvalue(bins=8) < 1e-6


def test_the_mode_of_a_noise_scale() -> None:
    """Against the marginal density of the scale, on a grid."""
    y = torch.tensor([[2.0, 1.0, -0.5, -0.8, -2.0, 1.2]], dtype=F64)
    scale = torch.linspace(0.1, 3, 2000, dtype=F64)
    H = torch.cat((torch.eye(N, dtype=F64), -torch.eye(N, dtype=F64)))
    S = H @ V @ H.mT + scale.square()[:, None, None] * torch.eye(6, dtype=F64)
    law = dist.MultivariateNormal(torch.zeros(6, dtype=F64), S)
    density = law.log_prob(y) + dist.LogNormal(scale.new_zeros(()), 0.5).log_prob(scale)
    pyro.set_rng_seed(0)
    found = monte_carlo_em(noisy, y, num_steps=40, num_samples=16)["scale"]
    assert found.shape == (1,)
    assert float(found) == pytest.approx(float(scale[density.argmax()]), rel=0.06)


def test_chains_and_deterministic_sites() -> None:
    def model(y: Tensor) -> None:
        bias = pyro.sample("bias", dist.Normal(y.new_zeros(()), 2.0))
        x = pyro.sample("x", prior(4))
        seen = pyro.deterministic("seen", x + bias[..., None])
        pyro.sample("y", dist.Normal(seen, 0.5).to_event(1), obs=y)

    y = torch.ones(N, dtype=F64)
    found = gibbs(model, y, num_samples=3, warmup_steps=2, num_chains=2, group_by_chain=True)
    assert {k: tuple(v.shape) for k, v in found.items()} == {
        "x": (2, 3, N),
        "seen": (2, 3, N),
        "bias": (2, 3),
    }
    torch.testing.assert_close(found["seen"], found["x"] + found["bias"][..., None])
    assert not torch.equal(found["bias"][0], found["bias"][1])


def test_bad_programs_are_refused_by_name() -> None:
    def known(y: Tensor) -> None:
        x = pyro.sample("x", prior())
        pyro.sample("y", dist.Normal(x, 0.5).to_event(1), obs=y)

    def discrete(y: Tensor) -> None:
        sign = pyro.sample("sign", dist.Bernoulli(torch.tensor(0.5, dtype=F64)))
        x = pyro.sample("x", prior())
        pyro.sample("y", dist.Normal(x * sign, 0.5).to_event(1), obs=y)

    def without(y: Tensor) -> None:
        bias = pyro.sample("bias", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(bias.expand(N), 0.5).to_event(1), obs=y)

    y = torch.ones(N, dtype=F64)
    with pytest.raises(ValueError, match=r"latent sites beside its DiffusionPrior, got none"):
        gibbs(known, y)
    with pytest.raises(ValueError, match=r"site 'sign' is discrete and latent"):
        gibbs(discrete, y)
    with pytest.raises(ValueError, match=r"expected a program with a DiffusionPrior site"):
        monte_carlo_em(without, y)
    with pytest.raises(ValueError, match=r"at least one of samples, got 0"):
        gibbs(biased, y.expand(2, N), num_samples=0)
    with pytest.raises(ValueError, match=r"expected steps and samples, got 0 and 4"):
        monte_carlo_em(biased, y.expand(2, N), num_steps=0)
