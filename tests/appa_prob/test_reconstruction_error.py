"""Errors of autoencoders: their law from data, and trajectories that have it."""

import numpy as np
import pytest
import torch

from appa_prob.grid import Grid
from appa_prob.operators import Mask
from appa_prob.reconstruction_error import ReconstructionError

ROWS = np.linspace(80.0, -80.0, 9).astype(np.float64)
GRID = Grid(ROWS, np.linspace(0.0, 337.5, 16).astype(np.float64))
POWER = torch.tensor([[0.2, 0.4, 0.2, 0.15], [0.0, 0.5, 0.4, 0.0]])


def law() -> ReconstructionError:
    g = torch.Generator().manual_seed(3)
    deviation = 0.5 + torch.rand(2, 9, 16, generator=g)
    return ReconstructionError(deviation, POWER, 0.8, torch.tensor(GRID.latitude).float(), 16)


def test_the_law_of_data_is_found() -> None:
    """Up to the share of white noise that falls on the same degrees, .01 of variance each."""
    e, _ = law().sample(3000, torch.Generator().manual_seed(0))
    found = ReconstructionError.fit(lambda: torch.split(e, 500), GRID)
    torch.testing.assert_close(found.deviation, law().deviation, rtol=0.15, atol=0.0)
    torch.testing.assert_close(found.power[:, :4], POWER, rtol=0.0, atol=0.03)
    assert found.memory == pytest.approx(0.8, abs=0.05)


def test_trajectories_in_pieces_have_no_seam() -> None:
    """Drawn state by state, and from the last state on: correlations are within 4 standard errors
    of .8 of the smooth part at the seam as elsewhere."""
    e, n, g = law(), 800, torch.Generator().manual_seed(0)
    drawn = [e.sample(1, g) for _ in range(n)]
    one, last = (torch.stack(part) for part in zip(*drawn, strict=True))
    two = torch.stack([e.sample(1, g, before)[0] for before in last])
    w = torch.cat((one, two), 1) / e.deviation
    smooth = POWER.sum(-1)
    at_seam = (w[:, 0] * w[:, 1]).mean((0, 2, 3))
    torch.testing.assert_close(at_seam, 0.8 * smooth, rtol=0.0, atol=0.03)
    torch.testing.assert_close(w.square().mean((0, 1, 3, 4)), torch.ones(2), rtol=0.0, atol=0.04)


def test_a_longer_trajectory_begins_as_a_shorter_one() -> None:
    short, long = (law().sample(k, torch.Generator().manual_seed(1))[0] for k in (2, 4))
    assert torch.equal(short, long[:2])


def test_trajectories_given_observations_have_the_exact_mean() -> None:
    """The mean of 120 draws, against the dense formula: within 5 standard errors."""
    e, length, g = law(), 2, torch.Generator().manual_seed(0)
    x = torch.zeros(length, 2, 9, 16)
    H = Mask(torch.rand(x.shape, generator=g) < 0.1)
    y, R = torch.randn(H.out_shape, generator=g), torch.full(H.out_shape, 0.1)
    scale = e.deviation.expand_as(x).reshape(-1)
    V = scale[:, None] * e.covariance(length).to_dense() * scale
    A = H.to_dense()
    K = V @ A.T @ torch.linalg.inv(A @ V @ A.T + 0.1 * torch.eye(len(y)))
    draws = torch.stack([e.complete(x, H, y, R, g)[0].reshape(-1) for _ in range(120)])
    left = (V - K @ A @ V).diagonal()
    assert ((draws.mean(0) - K @ y).abs() <= 5 * (left / 120).sqrt()).all()
    torch.testing.assert_close(draws.var(0).mean(), left.mean(), rtol=0.1, atol=0.0)


def test_the_smooth_part_of_a_known_error_is_drawn_given_it() -> None:
    """It correlates with the error as the law says: cov(smooth, w) = S, of unit share."""
    e, g = law(), torch.Generator().manual_seed(0)
    pairs = []
    for _ in range(100):
        error, true = e.sample(1, g)
        pairs.append((e.smooth_part(error[0], g), true))
    drawn, true = (torch.stack(p) for p in zip(*pairs, strict=True))
    share = POWER.sum(-1)
    torch.testing.assert_close(drawn.square().mean((0, 2, 3)), share, rtol=0.1, atol=0.0)
    apart = (drawn - true).square().mean((0, 2, 3))
    assert (apart < 1.2 * share).all() and apart[0] < 0.5 * share[0]


def test_the_covariance_is_a_product_of_time_and_space_and_white_noise() -> None:
    e, length = law(), 3
    lags = (torch.arange(length)[:, None] - torch.arange(length)).abs()
    expected = torch.kron((0.8**lags).contiguous(), e.smooth.to_dense().contiguous())
    expected = expected + torch.diag(e.white.flatten().repeat(length))
    V = e.covariance(length)
    torch.testing.assert_close(V.to_dense(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(V.diagonal(), expected.diagonal(), rtol=1e-4, atol=1e-5)


def small() -> ReconstructionError:
    g = torch.Generator().manual_seed(3)
    deviation = 0.5 + torch.rand(1, 3, 6, generator=g)
    power = torch.tensor([[0.3, 0.4, 0.2]])
    return ReconstructionError(deviation, power, 0.8, torch.tensor([60.0, 0.0, -60.0]), 6)


def test_what_is_known_before_is_taken_off_the_covariance() -> None:
    """The Schur complement of the smooth part of the state before."""
    e, length = small(), 3
    S = e.smooth.to_dense()
    lag = 0.8 ** torch.arange(1.0, length + 1)
    across = torch.kron(lag[:, None], S.contiguous())
    V = e.covariance(length).to_dense()
    # S has eigenvalues of zero: its range is what matters.
    expected = V - across @ torch.linalg.pinv(S, rtol=1e-4) @ across.mT
    found = e.covariance(length, known=0)
    torch.testing.assert_close(found.to_dense(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.diagonal(), expected.diagonal(), rtol=1e-4, atol=1e-4)
    late = e.covariance(2, known=1).to_dense()
    n = S.shape[0]
    torch.testing.assert_close(late, expected[n:, n:], rtol=1e-4, atol=1e-4)


def test_a_trajectory_goes_on_from_the_smooth_part_of_its_error() -> None:
    """Draws of a trajectory and of the smooth part of its second state, given that of the state
    before and observations: mean and covariance against dense matrices, 2,000 draws, within 5
    standard errors and what the solver leaves."""
    e, length, at, count = small(), 3, 1, 2000
    g = torch.Generator().manual_seed(0)
    x = torch.randn(length, *e.deviation.shape, generator=g)
    H = Mask(torch.rand(x.shape, generator=g) < 0.3)
    y, R = torch.randn(H.out_shape, generator=g), torch.full(H.out_shape, 0.2)
    before = e.smooth.sample((), g)
    n, scale = before.numel(), e.deviation.expand_as(x).reshape(-1)
    V, S = e.covariance(length, known=0).to_dense(), e.smooth.to_dense()
    # Of the errors and, behind them, of the smooth part of one state.
    smooth = V - torch.diag(e.white.flatten().repeat(length))
    row = smooth[n * at : n * at + n]
    prior = torch.cat((torch.cat((V, row)), torch.cat((row.mT, row[:, n * at : n * at + n]))), 1)
    unit = torch.cat((scale, torch.ones(n)))
    prior = unit[:, None] * prior * unit
    mean = torch.cat([0.8**k * before.flatten() for k in range(1, length + 1)])
    mean = torch.cat((x.flatten() + scale * mean, 0.8 ** (at + 1) * before.flatten()))
    A = torch.cat((H.to_dense(), torch.zeros(len(y), n)), 1)
    gain = prior @ A.mT @ torch.linalg.inv(A @ prior @ A.mT + 0.2 * torch.eye(len(y)))
    mean, covariance = mean + gain @ (y - A @ mean), prior - gain @ A @ prior
    draws = []
    for _ in range(count):
        one, part = e.complete(x, H, y, R, g, before=before, at=at)
        assert part is not None
        draws.append(torch.cat((one.flatten(), part.flatten())))
    found, deviation = torch.stack(draws), covariance.diagonal().clamp_min(1e-3).sqrt()
    assert ((found.mean(0) - mean).abs() <= (5 / count**0.5 + 0.02) * deviation).all()
    apart = (torch.cov(found.mT) - covariance) / deviation / deviation[:, None]
    assert apart.abs().max() < 5 * (2 / count) ** 0.5 + 0.02
    assert S.diagonal().mean() > 0.5
