"""Schedules: scales, derivatives, inversion, grids of times."""

import math

import pytest
import torch

from appa_prob.samplers import (
    EDMSchedule,
    LinearVPSchedule,
    LogLogitSchedule,
    RationalSchedule,
    RectifiedSchedule,
    Schedule,
    VESchedule,
    VPSchedule,
    karras_times,
    ratio_times,
)

SCHEDULES: list[Schedule] = [
    VESchedule(0.01, 50.0),
    VPSchedule(1e-2),
    LinearVPSchedule(),
    RectifiedSchedule(1e-2),
    EDMSchedule(),
    EDMSchedule(0.0, 80.0, rho=3.0),
    LogLogitSchedule(),
    RationalSchedule(),
    LogLogitSchedule(1e-3, 80.0, spread=1.5, shift=-1.2),
]
each = pytest.mark.parametrize("schedule", SCHEDULES, ids=str)


@each
def test_derivatives_are_those_of_autograd(schedule: Schedule) -> None:
    t = torch.linspace(0.01, 0.999, 50).double().requires_grad_()
    for value, derivative in zip(schedule(t), schedule.derivatives(t), strict=True):
        (expected,) = torch.autograd.grad((value + 0 * t).sum(), t)
        torch.testing.assert_close(derivative, expected, rtol=1e-9, atol=1e-12)
        assert derivative.shape == t.shape


@each
def test_ratios_are_inverted(schedule: Schedule) -> None:
    t = torch.linspace(0.0, 1.0, 101).double()
    ratio = schedule.ratio(t)
    torch.testing.assert_close(schedule.time(ratio), t, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(schedule.ratio(schedule.time(ratio)), ratio, rtol=1e-8, atol=1e-12)
    assert (ratio.diff() > 0).all()


@each
def test_scales_are_finite_and_positive(schedule: Schedule) -> None:
    for dtype in (torch.float32, torch.float64):
        alpha, sigma = schedule(torch.linspace(0.0, 1.0, 1001, dtype=dtype))
        assert alpha.dtype == sigma.dtype == dtype
        assert (alpha > 0).all() and (sigma[1:] > 0).all() and (sigma >= 0).all()
        assert alpha.isfinite().all() and sigma.isfinite().all()


def test_schedules_are_the_ones_of_the_papers() -> None:
    t = torch.linspace(0.001, 1.0, 100).double()
    for schedule in (VPSchedule(), LinearVPSchedule()):
        alpha, sigma = schedule(t)
        torch.testing.assert_close(alpha.square() + sigma.square(), torch.ones_like(t))
    # The schedule of a thousand steps of Ho et al. tends to the linear one.
    beta = torch.linspace(1e-4, 2e-2, 1000).double()
    steps = torch.arange(1, 1001).double() / 1000
    discrete = (1 - beta).log().cumsum(0)
    continuous = 2 * LinearVPSchedule(0.1, 20.0).alpha(steps).log()
    torch.testing.assert_close(continuous, discrete, rtol=2e-2, atol=1e-3)
    # Karras et al., equation (5).
    i = torch.arange(11).double()
    levels = (80 ** (1 / 7) + i / 10 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(EDMSchedule().sigma(1 - i / 10), levels)
    # The logarithm of the noise has a logistic law, with standard deviation pi s / sqrt(3).
    wide = LogLogitSchedule(1e-12, 1e12, spread=1.5, shift=-0.5)
    logs = wide.sigma((torch.arange(20000).double() + 0.5) / 20000).log()
    assert abs(float(logs.mean()) + 0.5) < 1e-2
    assert abs(float(logs.std()) / (1.5 * math.pi / math.sqrt(3)) - 1) < 1e-2


@each
def test_grids_are_equal_in_what_they_say(schedule: Schedule) -> None:
    def ratios(times: tuple[float, ...]) -> torch.Tensor:
        return schedule.ratio(torch.tensor(times, dtype=torch.float64))

    logs = ratios(ratio_times(schedule, 20, first=10.0, last=0.02)).log()
    assert len(logs) == 21
    torch.testing.assert_close(logs.diff(), torch.full((20,), math.log(0.002) / 20).double())
    roots = ratios(karras_times(schedule, 20, rho=5.0, first=10.0, last=0.02)) ** 0.2
    step = (0.02**0.2 - 10**0.2) / 20
    torch.testing.assert_close(roots.diff(), torch.full((20,), step).double(), rtol=1e-6, atol=0)
    whole = karras_times(schedule, 8)
    assert whole[0] == pytest.approx(1.0) and 0 <= whole[-1] < 0.1
    closed = ratio_times(schedule, 8, last=0.05, zero=True)
    assert len(closed) == 9 and closed[-1] == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: EDMSchedule(1.0, 0.5), "sigma_min < sigma_max"),
        (lambda: EDMSchedule(rho=0.5), "rho >= 1"),
        (lambda: LinearVPSchedule(2.0, 1.0), "beta_min < beta_max"),
        (lambda: LogLogitSchedule(0.0, 1.0), "sigma_min < sigma_max"),
        (lambda: LogLogitSchedule(spread=0.0), "spread > 0"),
        (lambda: RationalSchedule(2.0, 80.0), "sigma_min < 1 < sigma_max"),
        (lambda: VPSchedule(alpha_min=2.0), "alpha_min < 1"),
        (lambda: VESchedule(float("nan"), 1.0), "sigma_min < sigma_max"),
        (lambda: ratio_times(VESchedule(), 0), "at least 1 steps"),
        (lambda: ratio_times(VESchedule(), 4, first=0.1, last=0.2), "first larger than the last"),
        (lambda: ratio_times(VESchedule(), 4, first=1e3), "within those of the schedule"),
        (lambda: karras_times(VESchedule(), 4, rho=0.0), "rho >= 1"),
        (lambda: karras_times(VESchedule(), 4, zero=True), "leave out zero=True"),
        (lambda: karras_times(VPSchedule(), 1, zero=True), "at least 2 steps"),
        (lambda: ratio_times(VESchedule(), 4, last=float("nan")), "within those of the schedule"),
    ],
)
def test_bad_arguments_are_refused(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()
