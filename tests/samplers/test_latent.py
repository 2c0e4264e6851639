"""Latents: a likelihood through a decoder is the likelihood of the composed map."""

import pytest
import torch
from torch import Tensor

from appa_prob.operators import GMRES, Dense, Mask, Nonlinear
from appa_prob.samplers import (
    DPS,
    MMPS,
    DPMSolver,
    GaussianDenoiser,
    GaussianLikelihood,
    LatentLikelihood,
    LatentPosterior,
    VESchedule,
    ratio_times,
)
from appa_prob.samplers.testing import affine_law, diffused

EXACT = GMRES(rtol=1e-8, max_iterations=12)


def prior() -> GaussianDenoiser:
    F = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double()
    return GaussianDenoiser(torch.ones(3).double(), Dense(F @ F.mT, symmetric=True), VESchedule())


def decoder() -> Nonlinear:
    W = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)).double()
    return Nonlinear(lambda z: torch.tanh(z @ W.mT), (3,), (5,))


def observed(calls: list[int] | None = None) -> GaussianLikelihood:
    A = Mask(torch.tensor([True, False, True, True, False]))
    return GaussianLikelihood(A, torch.tensor([0.5, -0.2, 0.3]).double(), 0.1)


def test_it_is_the_likelihood_of_the_composed_map() -> None:
    z, likelihood = torch.randn(4, 3).double(), observed()
    latent = LatentLikelihood(likelihood, decoder())
    direct = GaussianLikelihood(likelihood.map @ decoder(), likelihood.y, 0.1)
    torch.testing.assert_close(latent.log_prob(z), direct.log_prob(z))
    (residual, H, R), expected = latent.linearize(z), direct.linearize(z)
    torch.testing.assert_close(residual, expected[0])
    torch.testing.assert_close(H.to_dense(), expected[1].to_dense())
    torch.testing.assert_close(R.to_dense(), expected[2].to_dense())
    x_t, t = torch.randn(4, 3).double(), torch.tensor([0.2, 0.4, 0.6, 0.8]).double()
    for guidance in (lambda d, y: MMPS(d, y, EXACT), DPS):
        posterior = LatentPosterior(prior(), decoder(), likelihood, guidance)
        torch.testing.assert_close(posterior(x_t, t), guidance(prior(), direct)(x_t, t))


def test_the_decoder_runs_once_for_a_guided_step() -> None:
    calls = list[Tensor]()
    inner = decoder()

    def counted(z: Tensor) -> Tensor:
        calls.append(z)
        return inner(z)

    likelihood = LatentLikelihood(observed(), Nonlinear(counted, (3,), (5,)))
    guided = MMPS(prior(), likelihood, GMRES(max_iterations=3, on_failure="ignore"))
    guided(torch.randn(4, 3).double(), torch.tensor(0.5).double())
    assert len(calls) == 1


def test_a_linear_decoder_gives_the_exact_law() -> None:
    W = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)).double()
    posterior = LatentPosterior(prior(), Dense(W), observed(), lambda d, y: MMPS(d, y, EXACT))
    H, y = observed().map.to_dense().double() @ W, observed().y  # type: ignore[attr-defined]
    m, V = prior().mean, prior().covariance.to_dense()
    gain = V @ H.mT @ torch.linalg.inv(H @ V @ H.mT + 0.1 * torch.eye(3))
    mean, covariance = m + gain @ (y - H @ m), V - gain @ H @ V
    sampler = DPMSolver(ratio_times(VESchedule(), 60, first=60.0, last=0.02))
    covariance = (covariance + covariance.mT) / 2
    start = diffused(mean, covariance, VESchedule(), sampler.times[0])
    found_mean, found = affine_law(sampler, posterior, start=start)
    torch.testing.assert_close(found_mean, mean, rtol=1e-2, atol=1e-2)
    end = covariance + 0.02**2 * torch.eye(3)
    torch.testing.assert_close(found, end, rtol=2e-2, atol=1e-2)
    torch.testing.assert_close(posterior.decode(mean), W @ mean)


def test_it_moves_and_refuses_other_decoders() -> None:
    single = LatentPosterior(prior(), decoder(), observed()).float()
    assert single.guided.likelihood.y.dtype == torch.float32
    with pytest.raises(ValueError, match="expected a decoder to states of shape"):
        LatentLikelihood(observed(), Dense(torch.eye(3)))
