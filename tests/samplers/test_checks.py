"""The public checks pass for what is right, and name what is wrong."""

import pytest
import torch
from torch import Tensor

from appa_prob.operators import Cholesky
from appa_prob.samplers import (
    DDIM,
    DDPM,
    DPS,
    MMPS,
    SDA,
    TMPD,
    Denoiser,
    DPMSolver,
    Guidance,
    Likelihood,
    PiGDM,
)
from appa_prob.samplers.integrator import Draw, Memory
from appa_prob.samplers.testing import check_sampler


@pytest.mark.parametrize("integrator", [DDPM, DPMSolver])
def test_integrators_pass(integrator) -> None:  # type: ignore[no-untyped-def]
    check_sampler(integrator)


@pytest.mark.parametrize("guidance", [DPS, TMPD, PiGDM, SDA])
def test_approximate_guidance_passes_but_for_its_law(guidance) -> None:  # type: ignore[no-untyped-def]
    check_sampler(DDIM, guidance, exact=False)
    if guidance is not DPS:
        with pytest.raises(AssertionError, match=r"converge to the posterior|affine"):
            check_sampler(DPMSolver, guidance, steps=(16, 32))


class BatchNorm(Guidance):
    """The slip of many codes: a norm over the whole batch."""

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        prior = self.denoiser.posterior(x_t, t)
        residual, H, _ = self.likelihood.linearize(prior.mean)
        return prior.mean + prior.covariance.forward(H.adjoint(residual / residual.norm()))


class MapOfDirections(Guidance):
    """The map instead of its Jacobian."""

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        prior = self.denoiser.posterior(x_t, t)
        residual, H, _ = self.likelihood.linearize(prior.mean)
        scale = self.likelihood.map(torch.ones_like(prior.mean))  # type: ignore[attr-defined]
        return prior.mean + H.adjoint(residual / (1 + scale.square()))


class Forgetful(DDPM):
    """Noise that no generator makes."""

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, memory: Memory
    ) -> Tensor:
        return super().step(denoiser, x_t, t, s, torch.randn_like, memory)


class HalfSteps(DDIM):
    """Steps that stop too early."""

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, memory: Memory
    ) -> Tensor:
        return super().step(denoiser, x_t, t, t - 0.9 * (t - s), draw, memory)


@pytest.mark.parametrize(
    ("integrator", "guidance", "message"),
    [
        (DDIM, BatchNorm, "those beside it|what they are alone"),
        (DDIM, MapOfDirections, "offset of the map"),
        (Forgetful, TMPD, "same seeds"),
    ],
)
def test_what_is_wrong_is_named(integrator, guidance, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(AssertionError, match=message):
        check_sampler(integrator, guidance, exact=False)


def test_a_wrong_law_is_named() -> None:
    def exact(d: Denoiser, y: Likelihood) -> Denoiser:
        return MMPS(d, y, Cholesky())

    with pytest.raises(AssertionError, match="order 1"):
        check_sampler(HalfSteps, exact, steps=(16, 32))
    with pytest.raises(AssertionError, match="order 3"):
        check_sampler(DPMSolver, exact, order=3, steps=(16, 32))
