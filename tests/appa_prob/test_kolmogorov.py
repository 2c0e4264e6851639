"""Kolmogorov flow against exact solutions and budgets."""

import math

import pytest
import torch
from torch import Tensor

from appa_prob.kolmogorov import KolmogorovFlow
from appa_prob.operators.testing import check_operator
from appa_prob.simulator import StepSimulator

F64 = torch.float64
N = 16
INVISCID = {"reynolds": 1e12, "forcing": 0.0}


def grid(n: int = N) -> tuple[Tensor, Tensor]:
    """The coordinates y of rows and x of columns."""
    axis = 2 * math.pi * torch.arange(n, dtype=F64) / n
    return axis[:, None], axis[None, :]


def eddies(*batch: int, n: int = N) -> Tensor:
    """Random vorticity of few wavenumbers, as the grid resolves."""
    y, x = grid(n)
    waves = [(a, b) for a in range(-2, 3) for b in range(3) if (a, b) != (0, 0)]
    phases = 2 * math.pi * torch.rand(len(waves), *batch, 1, 1, dtype=F64)
    parts = [torch.cos(a * y + b * x + p) for (a, b), p in zip(waves, phases, strict=True)]
    total: Tensor = torch.stack(parts).sum(0) / len(waves) ** 0.5
    return total


def rate(flow: KolmogorovFlow, w: Tensor, **parameters: float) -> Tensor:
    """What the equation says of the change of vorticity, from a step of almost no length."""
    parts = [KolmogorovFlow(flow.n, h, 1, flow.wavenumber) for h in (1e-3, 2e-3)]
    one, two = ((part(w, **parameters) - w) / part.dt for part in parts)
    extrapolated: Tensor = 2 * one - two
    return extrapolated


@pytest.mark.parametrize("wave", [(1, 1), (2, 1), (3, 0)])
def test_taylor_green_eddies_decay_exactly(wave: tuple[int, int]) -> None:
    """The nonlinear term of eddies of one wavenumber is a gradient."""
    y, x = grid()
    w = torch.cos(wave[0] * y) * torch.cos(wave[1] * x)
    flow = KolmogorovFlow(N, 0.5, wavenumber=2)
    after = StepSimulator(flow, (N, N), 4).given(reynolds=20.0, forcing=0.0, drag=0.1)(w)
    decay = math.exp(-2.0 * ((wave[0] ** 2 + wave[1] ** 2) / 20 + 0.1))
    torch.testing.assert_close(after[-1], decay * w, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("drag", [0.0, 0.3])
def test_the_laminar_state_is_approached_exactly(drag: float) -> None:
    """From rest, the flow is along x alone, so that nothing is advected."""
    flow = KolmogorovFlow(N, 0.7, wavenumber=3)
    y, _ = grid()
    after = StepSimulator(flow, (N, N), 5).given(reynolds=30.0, forcing=2.0, drag=drag)(
        torch.zeros(N, N, dtype=F64)
    )
    damping = 9 / 30 + drag
    u = 2.0 * torch.sin(3 * y) / damping * (1 - math.exp(-3.5 * damping))
    velocity = flow.velocity()(after[-1])
    torch.testing.assert_close(velocity[0], u.expand(N, N), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(velocity[1], torch.zeros(N, N, dtype=F64), rtol=0, atol=1e-13)


def test_advection_is_that_of_two_waves_by_hand() -> None:
    flow = KolmogorovFlow(24, 0.1, wavenumber=2)
    y, x = grid(24)
    a, b = x + 2 * y, 2 * x - y
    w = torch.cos(a) + torch.sin(b)
    u = -2 * torch.sin(a) / 5 - torch.cos(b) / 5
    v = torch.sin(a) / 5 - 2 * torch.cos(b) / 5
    torch.testing.assert_close(flow.velocity()(w), torch.stack((u, v)))
    gradient = (-torch.sin(a) + 2 * torch.cos(b), -2 * torch.sin(a) - torch.cos(b))
    expected = -(u * gradient[0] + v * gradient[1])
    found = rate(flow, w, **INVISCID)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_energy_and_enstrophy_change_by_viscosity_drag_and_forcing_alone() -> None:
    flow = KolmogorovFlow(N, 0.1, wavenumber=2)
    w = eddies()
    y, _ = grid()
    u = flow.velocity()(w)
    energy_input = (u[0] * 0.7 * torch.sin(2 * y)).mean()
    enstrophy = w.square().mean()
    expected = energy_input - enstrophy / 25 - 0.2 * u.square().sum(0).mean()
    change = rate(flow, w, reynolds=25.0, forcing=0.7, drag=0.2)
    found = (u * flow.velocity()(change)).sum(0).mean()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    free = rate(flow, w, **INVISCID)
    scale = float(free.norm() * w.norm()) / N**2
    assert abs(float((u * flow.velocity()(free)).sum(0).mean())) < 1e-5 * scale
    assert abs(float((w * free).mean())) < 1e-5 * scale


def test_energy_of_a_long_inviscid_run_is_kept() -> None:
    flow = KolmogorovFlow(N, 0.05, wavenumber=2)
    w = eddies()
    after = StepSimulator(flow, (N, N), 40, every=40).given(**INVISCID)(w)[0]
    assert float((after - w).norm() / w.norm()) > 0.1
    energies = [float(flow.velocity()(f).square().sum()) for f in (w, after)]
    assert energies[1] == pytest.approx(energies[0], rel=1e-6)
    assert float(after.norm()) == pytest.approx(float(w.norm()), rel=1e-6)


def test_the_error_falls_with_the_declared_order() -> None:
    w = eddies()
    parameters = {"reynolds": 40.0, "forcing": 1.0, "drag": 0.1}
    steps = (8, 16, 32)
    exact = KolmogorovFlow(N, 2.0, 128, 2)(w, **parameters)
    errors = [float((KolmogorovFlow(N, 2.0, k, 2)(w, **parameters) - exact).norm()) for k in steps]
    slope = -torch.tensor(errors).log2().diff()
    assert bool(((slope - KolmogorovFlow(N, 1.0).order).abs() < 0.3).all()), slope


def test_the_solution_does_not_depend_on_the_grid_once_it_is_fine() -> None:
    parameters = {"reynolds": 10.0, "forcing": 1.0, "drag": 0.1}
    torch.manual_seed(3)
    fine = KolmogorovFlow(64, 1.0, 20, 2)(eddies(n=64), **parameters)
    torch.manual_seed(3)
    coarse = KolmogorovFlow(32, 1.0, 20, 2)(eddies(n=32), **parameters)
    torch.testing.assert_close(fine[::2, ::2], coarse, rtol=0, atol=1e-5)


def test_velocity_is_an_operator_without_divergence() -> None:
    flow = KolmogorovFlow(8, 0.1, wavenumber=2)
    check_operator(flow.velocity((2,)).to(F64))
    u = flow.velocity()(eddies(n=8))
    y, x = (torch.fft.fft2(f) for f in (u[1], u[0]))
    k = torch.fft.fftfreq(8, 1 / 8, dtype=F64)
    assert float((k[None] * x + k[:, None] * y).abs().max()) < 1e-12


def test_gradients_with_respect_to_state_and_parameters() -> None:
    flow = KolmogorovFlow(8, 0.3, wavenumber=2)
    w = eddies(n=8).requires_grad_()
    numbers = [torch.tensor(a, dtype=F64, requires_grad=True) for a in (12.0, 0.8, 0.2)]
    assert torch.autograd.gradcheck(flow, (w, *numbers), fast_mode=True)


def test_mistakes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"dt > 0, got n=16, substeps=0 and dt=0.1"):
        KolmogorovFlow(16, 0.1, 0)
    with pytest.raises(ValueError, match=r"less than n / 3 = 2.7, got 4; take more points"):
        KolmogorovFlow(8, 0.1)
