"""A cheap climatology preconditions guidance by an expensive denoiser."""

import pytest
import torch
from torch import Tensor

from appa_prob.operators import (
    CG,
    GMRES,
    InnovationCovariance,
    Isotropic,
    Mask,
    Stationary,
    Surrogate,
    TweedieCovariance,
)
from appa_prob.samplers import MMPS, GaussianDenoiser, GaussianLikelihood, VESchedule

F64 = torch.float64
SHAPE = (24, 24)
SCHEDULE = VESchedule(1e-3, 1e3)


def climatology(length: float) -> GaussianDenoiser:
    """Smooth fields of variance 1 on a torus, with some noise of small scale."""
    smooth = Stationary.of(lambda r: torch.exp(-0.5 * (r / length).square()), SHAPE, dtype=F64)
    V = Stationary(smooth.spectrum + 1e-3)
    return GaussianDenoiser(torch.zeros(SHAPE, dtype=F64), V, SCHEDULE)


def observed() -> Mask:
    return Mask(torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)) < 0.15).to(F64)


def time(sigma: float) -> Tensor:
    """When the noise has that standard deviation."""
    low, high = torch.zeros((), dtype=F64), torch.ones((), dtype=F64)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if SCHEDULE(middle)[1] < sigma else (low, middle)
    return low


@pytest.mark.parametrize(("sigma", "share"), [(0.3, 0.7), (1.0, 0.4), (3.0, 0.3), (30.0, 0.3)])
def test_a_rough_climatology_saves_products_with_the_denoiser(sigma: float, share: float) -> None:
    denoiser, rough, H, t = climatology(2.0), climatology(1.6), observed(), time(sigma)
    x_t = sigma * torch.randn(3, *SHAPE, dtype=F64)
    V = TweedieCovariance(lambda x, t: denoiser(x, t), x_t, t, *SCHEDULE(t), SHAPE)
    S = InnovationCovariance(H, V, Isotropic(torch.tensor(0.01, dtype=F64), H.out_shape))
    b = torch.randn(3, *H.out_shape, dtype=F64)
    recipe = rough.surrogate()
    plain = GMRES(rtol=1e-3, max_iterations=100)(S, b)
    helped = GMRES(rtol=1e-3, max_iterations=100, preconditioner=recipe)(S, b)
    assert bool((helped.iterations < share * plain.iterations).all())
    torch.testing.assert_close(S(helped.value), b, rtol=0, atol=5e-3)
    inner = CG(rtol=0.03, max_iterations=50, on_failure="ignore")
    nested = rough.surrogate(inner)
    again = GMRES(rtol=1e-3, max_iterations=100, preconditioner=nested)(S, b)
    print(
        "RESULT",
        sigma,
        plain.iterations.tolist(),
        helped.iterations.tolist(),
        again.iterations.tolist(),
    )
    assert bool((again.iterations <= helped.iterations + 2).all())


def test_guidance_of_few_iterations_is_nearer_to_the_exact_one() -> None:
    denoiser, rough, H, t = climatology(2.0), climatology(1.6), observed(), time(2.0)
    x_t = 2 * torch.randn(4, *SHAPE, dtype=F64)
    y = GaussianLikelihood(H, torch.randn(H.out_shape, dtype=F64), 0.01)
    exact = MMPS(denoiser, y, GMRES(rtol=1e-10, max_iterations=100))(x_t, t)
    errors = []
    for M in (Surrogate(rough.covariance_given(t)), None):
        solver = GMRES(max_iterations=2, on_failure="ignore", preconditioner=M)
        errors.append(float((MMPS(denoiser, y, solver)(x_t, t) - exact).norm()))
    assert errors[0] < 0.3 * errors[1]


def test_stationary_priors_are_diagonalised_by_structure() -> None:
    denoiser = climatology(2.0)
    V = denoiser.covariance
    assert isinstance(V, Stationary)
    assert torch.equal(denoiser.spectrum.eigenvalues, V.spectrum)
    t, x_t = time(0.7), torch.randn(SHAPE, dtype=F64)
    noisy = V + Isotropic(torch.tensor(0.49, dtype=F64), SHAPE)
    torch.testing.assert_close(denoiser(x_t, t), V(noisy.solve(x_t)), rtol=1e-5, atol=1e-7)


def test_surrogates_ask_for_the_time() -> None:
    denoiser, H = climatology(2.0), observed()
    R = Isotropic(torch.tensor(0.01, dtype=F64), H.out_shape)
    S = InnovationCovariance(H, denoiser.covariance, R)
    with pytest.raises(TypeError, match="system with a TweedieCovariance"):
        GMRES(preconditioner=denoiser.surrogate())(S, torch.ones(H.out_shape, dtype=F64))
