"""The Gaussian of trajectories, against processes whose covariance is known."""

import math

import pytest
import torch
from torch import Tensor

from appa_prob.operators.testing import check_operator
from appa_prob.trajectory_prior import TrajectoryCovariance

WINDOW, CHANNELS, COLUMNS = 3, 2, 4
TURN = torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=torch.float64)
MEMORY, NOISE, SPEED = (0.5, 0.8), (1.0, 0.4), (1, -1)


def waves(length: int) -> Tensor:
    """Two waves that travel apart, mixed over two channels, with shape (L, C, 1, W).

    Wave i follows y_l(x) = MEMORY[i] y_(l-1)(x - SPEED[i]) + NOISE[i] e_l(x).
    """
    generator = torch.Generator().manual_seed(0)
    e = torch.randn(length, CHANNELS, COLUMNS, generator=generator, dtype=torch.float64)
    series = []
    for i in range(CHANNELS):
        y = e[0, i] * NOISE[i] / math.sqrt(1 - MEMORY[i] ** 2)
        steps = [y]
        for shock in e[1:, i]:
            steps.append(MEMORY[i] * steps[-1].roll(SPEED[i]) + NOISE[i] * shock)
        series.append(torch.stack(steps))
    return (torch.stack(series, -1) @ TURN.T).mT.unsqueeze(2)


def known_covariance() -> Tensor:
    """The covariance of a window of :func:`waves`, with shape (W C X, W C X)."""
    size = (WINDOW, CHANNELS, COLUMNS)
    waves = torch.zeros(*size, *size, dtype=torch.float64)
    for i in range(CHANNELS):
        variance = NOISE[i] ** 2 / (1 - MEMORY[i] ** 2)
        for later in range(WINDOW):
            for earlier in range(later + 1):
                lag = later - earlier
                for x in range(COLUMNS):
                    y = (x + lag * SPEED[i]) % COLUMNS
                    waves[later, i, y, earlier, i, x] = variance * MEMORY[i] ** lag
                    waves[earlier, i, x, later, i, y] = variance * MEMORY[i] ** lag
    mixed = torch.einsum("ci,aixbjy,dj->acxbdy", TURN, waves, TURN)
    return mixed.reshape(math.prod(size), math.prod(size))


@pytest.fixture
def covariance(device: torch.device) -> TrajectoryCovariance:
    """One fitted to white noise with a red tail, on a grid with more than one latitude."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(60, 2, 3, 6, generator=generator, dtype=torch.float64)
    z[1:] += 0.7 * z[:-1].roll(1, -1)
    return TrajectoryCovariance.fit(z.to(device), window=3)


def test_basis_is_orthogonal(covariance: TrajectoryCovariance) -> None:
    Q = covariance.basis.to_dense()
    assert Q.shape == (108, 108) and Q.dtype == torch.float64
    eye = torch.eye(108, dtype=Q.dtype, device=Q.device)
    assert torch.allclose(Q.mT @ Q, eye, atol=1e-10)
    assert torch.allclose(Q @ Q.mT, eye, atol=1e-10)


def test_contract(covariance: TrajectoryCovariance, generator: torch.Generator) -> None:
    check_operator(covariance.basis, generator=generator)
    Q = covariance.basis.to_dense()
    dense = Q @ torch.diag(covariance.eigenvalues.flatten()) @ Q.mT
    check_operator(covariance, dense, generator=generator)


def test_eigenvalues_are_those_of_the_matrix(covariance: TrajectoryCovariance) -> None:
    expected = torch.linalg.eigvalsh(covariance.to_dense())
    assert torch.allclose(covariance.eigenvalues.flatten().sort()[0], expected, atol=1e-10)
    x = torch.randn_like(covariance.eigenvalues).reshape(covariance.in_shape)
    assert torch.allclose(covariance.solve(covariance(x)), x, atol=1e-8)
    assert torch.allclose(covariance.logdet(), expected.log().sum(), atol=1e-8)


def test_covariance_is_blind_to_longitude(covariance: TrajectoryCovariance) -> None:
    x = torch.randn(5, *covariance.in_shape, dtype=torch.float64, device=covariance.device)
    assert torch.allclose(covariance(x.roll(2, -1)), covariance(x).roll(2, -1), atol=1e-10)


def test_covariance_of_one_state_is_the_empirical_one() -> None:
    z = waves(50)
    covariance = TrajectoryCovariance.fit(z, window=1).to_dense()
    turns = torch.cat([z.roll(k, -1) for k in range(COLUMNS)]).flatten(1)
    assert torch.allclose(covariance, turns.mT @ turns / len(turns), atol=1e-10)


def test_known_covariance_is_recovered() -> None:
    z = waves(20_000)
    fitted = TrajectoryCovariance.fit(z, WINDOW).to_dense()
    expected = known_covariance()
    scale = float(expected.diagonal().max())
    assert (fitted - expected).abs().max() < 0.05 * scale
    windows = torch.stack([z[k : len(z) - WINDOW + k + 1] for k in range(WINDOW)], 1).flatten(1)
    empirical = windows.mT @ windows / len(windows)
    assert (fitted - empirical).abs().max() < 0.06 * scale
    # The direction in which waves travel matters: in the mirror they would go the other way.
    mirror = z.flip(-1)
    assert (TrajectoryCovariance.fit(mirror, WINDOW).to_dense() - expected).abs().max() > scale / 4


def test_samples_have_the_covariance(
    covariance: TrajectoryCovariance, generator: torch.Generator
) -> None:
    x = covariance.sample((40_000,), generator=generator).flatten(1)
    dense = covariance.to_dense()
    deviation = torch.outer(dense.diagonal(), dense.diagonal()).sqrt() * (2 / len(x)) ** 0.5
    assert ((x.mT @ x / len(x) - dense).abs() < 5.5 * deviation).all()


def test_what_is_stored_restores_it(covariance: TrajectoryCovariance) -> None:
    stored = (torch.view_as_real(t).clone() for t in (covariance.basis.space, covariance.lags))
    space, lags = (torch.view_as_complex(t) for t in stored)
    again = TrajectoryCovariance(space, lags, covariance.basis.grid)
    assert torch.equal(again.to_dense(), covariance.to_dense())


def test_floor() -> None:
    z = waves(100)
    z[:, 1] = 0.0
    covariance = TrajectoryCovariance.fit(z, WINDOW)
    assert float(covariance.eigenvalues.min()) == pytest.approx(1e-6)
    assert torch.linalg.eigvalsh(covariance.to_dense()).min() > 0.9e-6


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 3 latents, the window, got 3"):
        TrajectoryCovariance.fit(torch.randn(3, 2, 1, 4), window=3)
    with pytest.raises(ValueError, match="even grid"):
        TrajectoryCovariance.fit(torch.randn(30, 2, 1, 5), window=3)
