r"""Mixtures of 25 Gaussians whose posteriors are known exactly, and how samples are scored.

The prior has components of unit covariance at :math:`(8i, 8j, 8i, 8j, \dots)`, :math:`i, j \in
\{-2, \dots, 2\}`; the map has random singular vectors, and singular values drawn from
:math:`[0, 1]`. Two laws are in use:

- ``random``: random weights and random noise, one problem of seed 27, scored by the largest of 100
  sliced 2-Wasserstein distances to 10,000 draws from the posterior (MCGDiff; its figures are those
  of a public benchmark, ``gabrielvc/benchopts_inverse_problem_diffusion_prior``);
- ``equal``: equal weights and noise of unit variance, averaged over problems, scored by the mean
  of 1,000 sliced 1-Wasserstein distances (TMPD).

A seed is not a problem: the component of the observed state is drawn by :func:`torch.multinomial`,
from exponential variates, which torch took from a generator of MKL from version 2.0 to 2.4, and
has taken from its own since (pytorch issue 132395). The public benchmark was run in March 2024.
:func:`published_component` draws what it drew, by the arithmetic of that generator, whose output
is that of MKL itself to all digits. With today's generator the observations of seed 27 are those
of other components: the scores of methods, and the floor, are others, see ``docs/accuracy.md``.

References:
    | Monte Carlo Guided Diffusion for Bayesian Linear Inverse Problems (Cardoso et al., 2023)
    | https://arxiv.org/abs/2308.07983

    | Tweedie Moment Projected Diffusions for Inverse Problems (Boys et al., 2023)
    | https://arxiv.org/abs/2310.06721
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from appa_prob.operators import Dense, Isotropic
from appa_prob.samplers import GaussianLikelihood, MixtureDenoiser, VESchedule

SCHEDULE = VESchedule(0.02, 300.0)


@dataclass
class Problem:
    """A prior, an observation, and draws from the posterior."""

    prior: MixtureDenoiser
    likelihood: GaussianLikelihood
    A: Tensor
    std: float
    reference: Tensor


def make(
    law: Literal["random", "equal"], m: int, n: int, seed: int, *, published: bool = True
) -> Problem:
    """Draws a problem, with the calls to the generator in the order of the public benchmark, and
    the component as torch drew it then, or as the torch that is installed does."""
    torch.manual_seed(seed)
    steps = range(-2, 3)
    means = torch.tensor([[-8.0 * i, -8.0 * j] * (n // 2) for i in steps for j in steps])
    weights = torch.randn(25) ** 2 if law == "random" else torch.ones(25)
    prior = mixture(weights.log(), means, torch.eye(n).expand(25, n, n))
    u, s, v = torch.linalg.svd(torch.randn(m, n), full_matrices=True)
    s = torch.sort(torch.rand_like(s), descending=True).values
    A = u @ (torch.diag(s) @ v[:m])
    x: Tensor
    if law == "random" and published:
        chosen = published_component(weights)
        x = prior.component_distribution.sample()[chosen]
    else:
        x = prior.sample()  # type: ignore[no-untyped-call]
    std = float(torch.rand(1)[0] * s.max()) if law == "random" else 1.0
    y = A @ x + torch.randn(m) * std
    one = torch.tensor(1.0).double()
    exact = MixtureDenoiser(weights.double(), means.double(), Isotropic(one, n), SCHEDULE)
    likelihood = GaussianLikelihood(Dense(A.double()), y.double(), std**2)
    state = torch.get_rng_state()
    posterior = exact.law.condition(likelihood)
    torch.set_rng_state(state)
    covariance = posterior.covariances.to_dense().float()
    reference: Tensor = mixture(
        posterior.log_weights.float(),
        posterior.means.float(),
        (covariance + covariance.mT) / 2,
    ).sample((10_000,))  # type: ignore[no-untyped-call]
    return Problem(exact, likelihood, A.double(), std, reference.double())


def published_component(weights: Tensor) -> int:
    r"""Draws a component as torch 2.0 to 2.4 do on processors of Intel's architecture.

    Exponential variates :math:`e_i = -\log u_i` come from the congruential generator MCG31 of
    MKL, :math:`u_i = s_i / m`, :math:`s_{i + 1} = 1132489760 \, s_i \bmod m`, :math:`m = 2^{31} -
    1`, that 32 bits of torch's generator seed; the largest :math:`w_i / e_i` wins.
    """
    state = torch.get_rng_state()
    bits = int(torch.empty((), dtype=torch.int64).random_(-(2**63), None))
    torch.set_rng_state(state)
    torch.rand(1)  # takes 32 bits too
    m = 2**31 - 1
    seed = ((bits % 2**64) >> 32) % m or 1
    uniform = []
    for _ in weights:
        uniform.append(seed / m)
        seed = 1132489760 * seed % m
    return int((weights / -torch.tensor(uniform, dtype=torch.float64).log()).argmax())


def mixture(log_weights: Tensor, means: Tensor, covariances: Tensor) -> MixtureSameFamily:
    """The mixture by torch, whose stream of random numbers is that of the public benchmark."""
    return MixtureSameFamily(
        Categorical(logits=log_weights), MultivariateNormal(means, covariances)
    )


@dataclass
class Slices:
    """Random directions, along which samples are compared with draws from the posterior."""

    law: Literal["random", "equal"]
    directions: Tensor
    reference: Tensor

    @classmethod
    def of(cls, law: Literal["random", "equal"], reference: Tensor, seed: int) -> Slices:
        """Draws directions and sorts the draws along each."""
        generator = torch.Generator().manual_seed(seed)
        shape = reference.shape[-1], 100 if law == "random" else 1000
        directions = torch.randn(shape, dtype=reference.dtype, generator=generator)
        directions = directions / directions.norm(dim=0)
        return cls(law, directions, (reference @ directions).sort(0).values)

    def score(self, x: Tensor) -> float:
        """The largest sliced W2, or the mean sliced W1."""
        ours = (x @ self.directions).sort(0).values
        gaps = self.reference - ours.repeat_interleave(len(self.reference) // len(x), 0)
        if self.law == "random":
            return float(gaps.square().mean(0).sqrt().max())
        return float(gaps.abs().mean())
