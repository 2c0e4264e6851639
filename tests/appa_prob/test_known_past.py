"""Trajectories whose first states are known: exact for Gaussian priors, and without seams."""

from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor

from appa_prob.appa import Appa
from appa_prob.known_past import KnownPast, know_past
from appa_prob.operators import CG, Isotropic, Slice
from appa_prob.reanalysis import SamplerConfig
from appa_prob.samplers import (
    MMPS,
    DPMSolverSDE,
    GaussianDenoiser,
    GaussianLikelihood,
    VESchedule,
    WindowedDenoiser,
    ratio_times,
)
from appa_prob.samplers.testing import affine_law
from appa_prob.trajectory_prior import TrajectoryCovariance

WINDOW, KNOWN, STATE = 5, 2, (2, 1, 4)
SIZE = 8
WINDOW_SHAPE = (WINDOW, *STATE)
STEPS = 80
SCHEDULE = VESchedule(1e-3, 1e2)


@pytest.fixture(scope="module")
def prior() -> TrajectoryCovariance:
    """Waves that travel, and that forget where they were in some states."""
    generator = torch.Generator().manual_seed(0)
    z = torch.zeros(1500, *STATE, dtype=torch.float64)
    noise = torch.randn(z.shape, generator=generator, dtype=torch.float64)
    for i in range(1, len(z)):
        moved = z[i - 1].roll(1, -1)
        z[i] = 0.6 * moved + 0.3 * moved.flip(0) * torch.tensor([1.0, -1.0]).reshape(2, 1, 1)
        z[i] += 0.5 * (noise[i] + noise[i].roll(1, -1))
    return TrajectoryCovariance.fit(z, WINDOW)


def denoiser(prior: TrajectoryCovariance) -> GaussianDenoiser:
    return GaussianDenoiser(torch.zeros(prior.in_shape).double(), prior, SCHEDULE)


@pytest.mark.parametrize("known", [1, 2, 4])
def test_it_is_exact_for_a_gaussian_prior(prior: TrajectoryCovariance, known: int) -> None:
    past = torch.randn(3, known, *STATE).double()
    x_t, t = torch.randn(3, WINDOW, *STATE).double(), torch.tensor([0.3, 0.5, 0.8]).double()
    error = 0.1
    found = KnownPast(denoiser(prior), past, prior, error)(x_t, t)
    V, H = prior.to_dense(), torch.eye(WINDOW * SIZE).double()
    for i in range(3):
        A = torch.cat((H, H[: known * SIZE]))
        y = torch.cat((x_t[i].flatten(), past[i].flatten()))
        sigma = SCHEDULE.sigma(t[i])
        noise = torch.cat((sigma.square().expand(len(H)), torch.full((known * SIZE,), error**2)))
        expected = V @ A.mT @ torch.linalg.solve(A @ V @ A.mT + torch.diag(noise), y)
        torch.testing.assert_close(found[i].flatten(), expected, rtol=1e-6, atol=1e-8)
    one = KnownPast(denoiser(prior), past, prior, error)(x_t, t[1])
    torch.testing.assert_close(one[1], found[1])


def test_states_beyond_the_window_are_left_to_the_denoiser(prior: TrajectoryCovariance) -> None:
    long = WindowedDenoiser(denoiser(prior), length=9, stride=2)
    past = torch.randn(2, KNOWN, *STATE).double()
    x_t, t = torch.randn(2, 9, *STATE).double(), torch.tensor(0.5).double()
    found = KnownPast(long, past, prior, 1e-2)(x_t, t)
    torch.testing.assert_close(found[:, WINDOW:], long(x_t, t)[:, WINDOW:])
    assert (found[:, :WINDOW] - long(x_t, t)[:, :WINDOW]).abs().max() > 0.1


def chain(prior: TrajectoryCovariance, blocks: int) -> tuple[Tensor, Tensor]:
    """The exact covariances of each new state with itself and with the one before it, of a
    trajectory drawn block by block from the Gaussian prior; without Monte Carlo, since a block is
    an affine map of its noise and of the states that it overlaps."""
    sampler = DPMSolverSDE(ratio_times(SCHEDULE, STEPS))
    first = affine_law(sampler, denoiser(prior))[1]
    known, fresh = KNOWN * SIZE, (WINDOW - KNOWN) * SIZE
    zero = torch.zeros(KNOWN, *STATE).double()
    noise = affine_law(sampler, KnownPast(denoiser(prior), zero, prior, 1e-3))[1][known:, known:]
    units = torch.eye(known).double().reshape(known, KNOWN, *STATE)
    with torch.no_grad():
        guided = KnownPast(denoiser(prior), units, prior, 1e-3)
        still = torch.zeros(known, WINDOW, *STATE).double()
        *_, last = sampler.run(guided, sampler.init(guided, still), torch.zeros_like)
        map = last.x_t.flatten(1)[:, known:].mT
    variances = list(first.diagonal().reshape(WINDOW, SIZE))
    lagged = list(first.diagonal(SIZE).reshape(WINDOW - 1, SIZE))
    past = first[-known:, -known:]
    for _ in range(blocks):
        joint = torch.zeros(known + fresh, known + fresh).double()
        joint[:known, :known] = past
        joint[known:, :known] = map @ past
        joint[:known, known:] = joint[known:, :known].mT
        joint[known:, known:] = map @ past @ map.mT + noise
        variances += list(joint.diagonal().reshape(-1, SIZE)[KNOWN:])
        lagged += list(joint.diagonal(SIZE).reshape(-1, SIZE)[KNOWN - 1 :])
        past = joint[-known:, -known:]
    return torch.stack(variances), torch.stack(lagged)


def test_blocks_leave_no_seam(prior: TrajectoryCovariance) -> None:
    variances, lagged = chain(prior, 20)
    exact = prior.to_dense()
    variance, lag = exact.diagonal()[:SIZE], exact.diagonal(SIZE)[:SIZE]
    assert lag.min() > 0.2 * variance.max()
    torch.testing.assert_close(variances, variance.expand_as(variances), rtol=0.02, atol=0)
    correlation = lagged / (variances[:-1] * variances[1:]).sqrt()
    exactly = lag / variance
    torch.testing.assert_close(correlation, exactly.expand_as(correlation), rtol=0.02, atol=0)


def test_models_without_a_prior_of_trajectories_are_guided(prior: TrajectoryCovariance) -> None:
    past, t = torch.randn(2, KNOWN, *STATE).double(), torch.tensor(0.6).double()
    x_t, long = 3 * torch.randn(2, WINDOW, *STATE).double(), denoiser(prior)
    plain = GaussianDenoiser(long.mean, Isotropic(torch.ones(()).double(), WINDOW_SHAPE), SCHEDULE)
    sampler = SamplerConfig(iterations=30)
    found = []
    for model in (long, plain):
        appa = cast(Appa, SimpleNamespace(denoiser=SimpleNamespace(prior=model)))
        found.append(know_past(appa, long, past, 0.3, sampler))
    assert isinstance(found[0], KnownPast) and isinstance(found[1], MMPS)
    torch.testing.assert_close(found[1](x_t, t), found[0](x_t, t), rtol=0, atol=5e-3)


def test_further_observations_are_exact_for_a_gaussian_prior(prior: TrajectoryCovariance) -> None:
    past, t = torch.randn(2, KNOWN, *STATE).double(), torch.tensor(0.5).double()
    x_t, error = torch.randn(2, WINDOW, *STATE).double(), 0.02
    seen = Slice(WINDOW_SHAPE, (3, 0, 0, 0), (5, 1, 1, 2))
    y = torch.randn(2, *seen.out_shape).double()
    known = KnownPast(denoiser(prior), past, prior, error)
    found = MMPS(known, GaussianLikelihood(seen, y, 0.1), CG(rtol=1e-8))(x_t, t)
    V, H = prior.to_dense(), torch.eye(WINDOW * SIZE).double()
    A = torch.cat((H, H[: KNOWN * SIZE], seen.to_dense()))
    sigma = SCHEDULE.sigma(t)
    variances = (sigma.square().item(), error**2, 0.1)
    counts = (len(H), KNOWN * SIZE, y[0].numel())
    noise = torch.cat([torch.full((n,), v) for n, v in zip(counts, variances, strict=True)])
    for i in range(2):
        values = torch.cat((x_t[i].flatten(), past[i].flatten(), y[i].flatten()))
        S = A @ V @ A.mT + torch.diag(noise.double())
        expected = V @ A.mT @ torch.linalg.solve(S, values)
        torch.testing.assert_close(found[i].flatten(), expected, rtol=0, atol=5e-3)
    left = known.posterior(x_t, t).covariance.to_dense()
    torch.testing.assert_close(left, left.mT)
    assert torch.linalg.eigvalsh(left).min() > 0


def test_another_past_moves_the_block(prior: TrajectoryCovariance) -> None:
    sampler = DPMSolverSDE(ratio_times(SCHEDULE, STEPS))
    past = 2 * torch.ones(1, KNOWN, *STATE).double()
    guided = KnownPast(denoiser(prior), past, prior, 1e-3)
    z = sampler(guided, sampler.noise(guided, (1,), dtype=torch.float64))
    torch.testing.assert_close(z[:, :KNOWN], past, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("past", "error", "message"),
    [
        ((5, *STATE), 0.1, "at most 4 known states"),
        ((2, 3, 1, 4), 0.1, "expected known states of shape"),
        ((2, *STATE), 0.0, "positive error"),
    ],
)
def test_bad_input_is_refused(
    prior: TrajectoryCovariance, past: tuple[int, ...], error: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        KnownPast(denoiser(prior), torch.zeros(past).double(), prior, error)
