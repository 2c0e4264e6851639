"""Stationary covariances on grids: at any size, with periodic and with open boundaries."""

import pytest
import torch
from torch import Tensor

from appa_prob.operators import (
    CG,
    Eigenbasis,
    Hartley,
    Isotropic,
    KernelCovariance,
    Stationary,
    gaspari_cohn,
)
from appa_prob.operators.dense import LIMIT

F64 = torch.float64


def smooth(r: Tensor) -> Tensor:
    return torch.exp(-0.5 * (r / 1.5).square())


def test_large_periodic_covariances_solve_and_have_determinants() -> None:
    V = Stationary.of(lambda r: gaspari_cohn(r, 5.0), (64, 48), dtype=F64)
    assert V.shape[-1] > LIMIT
    x = torch.randn(2, 64, 48, dtype=F64)
    torch.testing.assert_close(V.solve(V(x)), x)
    torch.testing.assert_close(V.diagonal(), torch.ones(64 * 48, dtype=F64))
    small = Stationary.of(lambda r: torch.exp(-2 * r), (8, 6), dtype=F64)
    torch.testing.assert_close(small.logdet(), torch.linalg.slogdet(small.to_dense())[1])
    torch.testing.assert_close(V.logdet(), V.spectrum.log().sum())


def test_open_boundaries_do_not_correlate_while_periodic_ones_do() -> None:
    n = 3000
    e = torch.zeros(n, dtype=F64)
    e[0] = 1.0
    line = Stationary.of(smooth, n, periodic=False, dtype=F64)
    circle = Stationary.of(smooth, n, dtype=F64)
    lag = torch.arange(n, dtype=F64)
    torch.testing.assert_close(line(e), smooth(lag), rtol=0, atol=1e-12)
    torch.testing.assert_close(circle(e), smooth(torch.minimum(lag, n - lag)), rtol=0, atol=1e-12)


def test_open_boundaries_are_solved_by_cg_with_the_periodic_twin() -> None:
    n = 2500
    V, twin = (
        Stationary.of(lambda r: torch.exp(-r / 5), n, periodic=p, dtype=F64) for p in (False, True)
    )
    b = torch.randn(n, dtype=F64)
    for solve in (V.solve, lambda b: V.logdet()):
        with pytest.raises(ValueError, match=f"{LIMIT} is the limit"):
            solve(b)
    plain = CG(rtol=1e-8, max_iterations=500)(V, b)
    helped = CG(rtol=1e-8, preconditioner=twin.solve)(V, b)
    assert helped.iterations < plain.iterations / 3
    torch.testing.assert_close(V(helped.value), b, rtol=0, atol=1e-6)


def test_samples_of_large_grids_have_the_variogram() -> None:
    """Averaged over 200,000 places, correlated over some 10: to 0.01 it holds with certainty."""
    V = Stationary.of(lambda r: torch.exp(-r / 2), (400, 500), periodic=(False, True), dtype=F64)
    x = V.sample(generator=torch.Generator().manual_seed(0))
    for axis, around in ((0, False), (1, True)):
        for lag in (1, 4):
            step = x.roll(-lag, axis) - x
            step = step if around else step.narrow(axis, 0, x.shape[axis] - lag)
            expected = 2 - 2 * torch.exp(torch.tensor(-lag / 2, dtype=F64))
            assert abs(step.square().mean() - expected) < 0.03


def test_padding_grows_where_twice_the_grid_is_no_torus_for_the_covariance() -> None:
    V = Stationary.of(lambda r: torch.exp(-0.5 * (r / 8).square()), 10, periodic=False, dtype=F64)
    assert V.torus[0] > 20
    place = torch.arange(10, dtype=F64)
    expected = torch.exp(-0.5 * ((place[:, None] - place) / 8).square())
    torch.testing.assert_close(V.to_dense(), expected, rtol=0, atol=1e-10)


def test_the_eigenbasis_is_the_same_covariance() -> None:
    V = Stationary.of(lambda r: gaspari_cohn(r, 2.0), (5, 6), dtype=F64)
    same = V.eigenbasis
    assert isinstance(same, Eigenbasis) and isinstance(same.basis, Hartley)
    torch.testing.assert_close(same.to_dense(), V.to_dense())
    with pytest.raises(ValueError, match="periodic boundaries"):
        _ = Stationary.of(smooth, 5, periodic=False).eigenbasis


def test_batches_have_one_covariance_each() -> None:
    single = [
        Stationary.of(lambda r: gaspari_cohn(r, 0.5), (4, 6), dtype=F64),
        Stationary.of(lambda r: gaspari_cohn(r, 1.0), (4, 6), dtype=F64),
    ]
    V = Stationary(torch.stack([A.spectrum for A in single]), event_ndim=2)
    assert V.batch_shape == (2,) and V.sample((3,)).shape == (3, 2, 4, 6)
    x = torch.randn(5, 1, 4, 6, dtype=F64)
    torch.testing.assert_close(V(x), torch.cat([A(x) for A in single], dim=1))
    torch.testing.assert_close(V.logdet(), torch.stack([A.logdet() for A in single]))


def test_single_precision_stays() -> None:
    V = Stationary.of(smooth, (4, 5), spacing=2.0)
    assert V.dtype == V.sample().dtype == V(torch.ones(4, 5)).dtype == torch.float32


def test_spectra_have_gradients() -> None:
    spectrum = (torch.rand(5, dtype=F64) + 0.5).requires_grad_()
    symmetric = spectrum + spectrum.flip(0).roll(1)
    x = torch.randn(5, dtype=F64)
    assert torch.autograd.gradcheck(lambda s: Stationary(s + s.flip(0).roll(1))(x), (spectrum,))
    (gradient,) = torch.autograd.grad(Stationary(symmetric).logdet(), spectrum)
    torch.testing.assert_close(gradient, 2 / symmetric)


def test_what_is_no_stationary_covariance_is_refused() -> None:
    with pytest.raises(ValueError, match=r"spectrum >= 0, got -.*no covariance on this torus"):
        Stationary.of(lambda r: (r <= 1).to(r.dtype), 10)
    with pytest.raises(ValueError, match="one value for k and -k"):
        Stationary(torch.arange(1.0, 6.0))
    with pytest.raises(ValueError, match=r"no longer than the torus \(4,\), got \(5,\)"):
        Stationary(torch.ones(4), 5)
    with pytest.raises(ValueError, match="2 axes, those of the grid"):
        Stationary(torch.ones(4, 4), 4)
    with pytest.raises(ValueError, match="one spacing for each of 2 axes, got 3"):
        Stationary.of(smooth, (4, 4), spacing=(1.0, 2.0, 3.0))
    singular = Stationary(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    for call in (singular.logdet, lambda: singular.solve(torch.ones(4))):
        with pytest.raises(ValueError, match="needs a spectrum > 0"):
            call()


def test_it_is_the_kernel_covariance_of_its_grid() -> None:
    lines = [torch.arange(n, dtype=F64) for n in (5, 7)]
    places = torch.cartesian_prod(*lines)
    direct = KernelCovariance(lambda a, b: smooth(torch.cdist(a, b)), places, (5, 7))
    V = Stationary.of(smooth, (5, 7), periodic=False, dtype=F64)
    torch.testing.assert_close(V.to_dense(), direct.to_dense(), rtol=0, atol=1e-10)
    b = torch.randn(5, 7, dtype=F64)
    noisy = [A + Isotropic(torch.tensor(0.1, dtype=F64), (5, 7)) for A in (V, direct)]
    torch.testing.assert_close(*(A.solve(b) for A in noisy), rtol=1e-6, atol=1e-8)
