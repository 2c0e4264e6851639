"""The climatology: what it recovers, and that it can be undone."""

import numpy as np
import pytest
import torch

from appa_prob.seasons import seasonal_basis
from appa_prob.statistics import Statistics

DAYS = np.datetime64("2001-03-01", "h") + np.arange(4 * 365) * np.timedelta64(24, "h")


@pytest.fixture
def cycle(generator: torch.Generator) -> torch.Tensor:
    """The coefficients of a seasonal cycle with two harmonics, (5, C, H, W)."""
    size = (5, 2, 3, 4)
    return 10 * torch.randn(size, generator=generator, device=generator.device).cpu()


def test_basis_follows_the_year() -> None:
    start = np.datetime64("2000-01-01T00", "s")
    year = np.timedelta64(round(365.2425 * 86400), "s")
    quarters = start + np.arange(8) * (year // 4)
    basis = seasonal_basis(quarters, 2)
    expected = torch.tensor([[1, 0, 1, 0], [0, 1, -1, 0], [-1, 0, 1, 0], [0, -1, -1, 0]])
    assert torch.allclose(basis[:, 1:], expected.repeat(2, 1).float(), atol=1e-5)
    assert torch.equal(basis[:, 0], torch.ones(8))


@pytest.mark.parametrize("unit", ["m", "s", "ns"])
def test_basis_does_not_depend_on_the_resolution_of_times(unit: str) -> None:
    assert torch.equal(seasonal_basis(DAYS, 2), seasonal_basis(DAYS.astype(f"M8[{unit}]"), 2))


def test_a_year_later_is_the_same_season() -> None:
    later = DAYS + np.timedelta64(365 * 24 + 6, "h")  # 27 seconds more than a year
    assert torch.allclose(seasonal_basis(later, 1), seasonal_basis(DAYS, 1), atol=1e-3)


def test_known_cycle_is_recovered_exactly_without_noise(cycle: torch.Tensor) -> None:
    x = torch.tensordot(seasonal_basis(DAYS, 2), cycle, dims=1)
    fitted = Statistics.fit(x, DAYS, torch.ones(3), harmonics=2)
    assert fitted.harmonics == 2
    assert torch.allclose(fitted.coefficients, cycle, atol=1e-4)
    assert torch.allclose(fitted.climatology(DAYS), x, atol=1e-4)


def test_known_cycle_and_scale_are_recovered_from_noise(cycle: torch.Tensor) -> None:
    weights = torch.tensor([0.5, 2.0, 1.0])
    spread = torch.tensor([1.0, 5.0]).reshape(2, 1, 1) * torch.tensor([1.0, 2.0, 4.0])[:, None]
    noise = torch.randn(len(DAYS), 2, 3, 4, generator=torch.Generator().manual_seed(0)) * spread
    x = torch.tensordot(seasonal_basis(DAYS, 2), cycle, dims=1) + noise
    fitted = Statistics.fit(x, DAYS, weights, harmonics=2)
    error = (fitted.coefficients - cycle) / spread
    assert error.abs().max() < 5 * (2 / len(DAYS)) ** 0.5
    assert error.abs().max() > 0.0
    scale = ((spread[..., 0].square() * weights).sum(-1) / weights.sum()).sqrt()
    assert torch.allclose(fitted.scale, scale, rtol=0.03)
    y = fitted.standardise(x, DAYS)
    mean_square = (y.square().mean((0, 3)) * weights).sum(-1) / weights.sum()
    assert torch.allclose(mean_square, torch.ones(2), rtol=1e-4)
    assert y.mean(0).abs().max() < 1e-4


def test_too_few_harmonics_leave_the_cycle_in_the_scale(cycle: torch.Tensor) -> None:
    x = torch.tensordot(seasonal_basis(DAYS, 2), cycle, dims=1)
    fitted = Statistics.fit(x, DAYS, torch.ones(3), harmonics=0)
    expected = (cycle[1:].square().sum(0) / 2).mean((-1, -2)).sqrt()
    assert torch.allclose(fitted.scale, expected, rtol=0.05)


def test_round_trip(cycle: torch.Tensor) -> None:
    statistics = Statistics(cycle, torch.tensor([0.1, 30.0]))
    x = torch.randn(3, 7, 2, 3, 4)
    times = DAYS[:7]
    assert torch.allclose(
        statistics.restore(statistics.standardise(x, times), times), x, atol=1e-4
    )
    y = statistics.standardise(statistics.restore(x, times), times)
    assert torch.allclose(y, x, atol=1e-3)
    assert not torch.allclose(statistics.standardise(x, DAYS[90:97]), y, atol=0.1)


def test_what_is_absent_is_filled_where_it_may_be() -> None:
    x, times = (
        torch.ones(2, 2, 3, 4),
        np.array(["2000-01-01", "2000-07-01"], dtype="datetime64[h]"),
    )
    x[:, :, 0] = float("nan")
    mean, scale = torch.tensor([1.0, 3.0]).reshape(1, 2, 1, 1), torch.tensor([1.0, 2.0])
    statistics = Statistics(mean, scale, torch.tensor([False, True]))
    found = statistics.standardise(x, times)
    assert found[:, 0, 0].isnan().all() and not found[:, 1, 0].any()
    assert not found[:, 0, 1:].any() and (found[:, 1, 1:] == -1).all()
    assert Statistics(mean, scale).standardise(x, times)[:, :, 0].isnan().all()
    torch.testing.assert_close(statistics.restore(found, times)[:, 1, 0], torch.full((2, 4), 3.0))
