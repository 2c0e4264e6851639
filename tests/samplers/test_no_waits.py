"""No step of an integrator and no guidance waits for the device that states are on, and each takes
the evaluations and the products that it says.

States are on the device ``meta``, which has no values: whoever looks at one gets an error.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from appa_prob.operators import CG, GMRES, Isotropic, Mask, Nonlinear
from appa_prob.samplers import (
    DDIM,
    DDNM,
    DDPM,
    DPS,
    JFPS,
    MMPS,
    AdamsBashforth,
    ClassifierFree,
    Denoiser,
    DiffPIR,
    DPMSolver,
    DPMSolverSDE,
    Euler,
    EulerMaruyama,
    GaussianLikelihood,
    Heun,
    Integrator,
    LatentPosterior,
    LinearMultistep,
    PiGDM,
    PredictorCorrector,
    State,
    StochasticHeun,
    VESchedule,
)

N = 6
# Integrators, with the evaluations that four steps take.
INTEGRATORS: list[tuple[Integrator, int]] = [
    (AdamsBashforth(4), 4),
    (AdamsBashforth(4, points=4, starter=True), 8),
    (DDIM(4), 4),
    (DDIM(4, eta=0.5), 4),
    (DDPM(4), 4),
    (DPMSolver(4), 4),
    (DPMSolverSDE(4), 4),
    (Euler(4), 4),
    (EulerMaruyama(4), 4),
    (Heun(4), 8),
    (LinearMultistep(4), 4),
    (PredictorCorrector(4), 7),  # the last state is not corrected
    (StochasticHeun(4), 8),
]


class Count:
    """How often a function was evaluated, and its derivatives in either direction were."""

    def __init__(self) -> None:
        self.forwards = self.pulls = self.pushes = 0

    @property
    def all(self) -> tuple[int, int, int]:
        """The numbers, which start again at 0."""
        found = self.forwards, self.pulls, self.pushes
        self.forwards = self.pulls = self.pushes = 0
        return found


class Counted(torch.autograd.Function):
    """The identity, which counts."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, count: Count) -> Tensor:
        ctx.count = count
        count.forwards += 1
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        ctx.count.pulls += 1
        back: Tensor = Again.apply(g, ctx.count)  # type: ignore[no-untyped-call]
        return back, None


class Again(torch.autograd.Function):
    """The derivative of the identity, whose derivative is a forward product."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, count: Count) -> Tensor:
        ctx.count = count
        return g.clone()

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, None]:
        ctx.count.pushes += 1
        return v.clone(), None


class Network(Denoiser):
    """A small network that counts."""

    def __init__(self) -> None:
        super().__init__((N,), VESchedule())
        self.net = nn.Sequential(nn.Linear(N, 8), nn.SiLU(), nn.Linear(8, N))
        self.net.requires_grad_(False)
        self.count = Count()

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        x = Counted.apply(x_t, self.count)  # type: ignore[no-untyped-call]
        _, sigma = self.scales(t)
        y: Tensor = self.net(x / (1 + sigma))
        return y


class Unseen(GaussianLikelihood):
    """A likelihood that moves without a look at what it is given."""

    def to(self, *args: Any, **kwargs: Any) -> "Unseen":
        moved = copy(self)
        moved.map, moved.y = self.map.to(*args, **kwargs), self.y.to(*args, **kwargs)
        moved.covariance = self.covariance.to(*args, **kwargs)
        return moved


def observed(n: int = N) -> GaussianLikelihood:
    """What is known of half of a state."""
    half = Mask(torch.arange(n) % 2 == 0)
    return Unseen(half, torch.ones(half.out_shape), 0.1)


GMRES_3 = GMRES(rtol=0.0, max_iterations=3, on_failure="ignore")
CG_3 = CG(rtol=0.0, max_iterations=3, on_failure="ignore")
DECODER = Nonlinear(torch.sin, N, N)
GUIDANCE: dict[str, Callable[[Denoiser, GaussianLikelihood], Denoiser]] = {
    "none": lambda prior, likelihood: prior,
    "classifier-free": lambda prior, likelihood: ClassifierFree(
        prior, {"y": likelihood.y}, {"y": 0 * likelihood.y}, weight=2.0
    ),
    "DDNM": DDNM,
    "DPS": DPS,
    "DiffPIR": partial(DiffPIR, solver=CG_3),
    "JFPS": lambda prior, likelihood: JFPS(prior, likelihood, Isotropic(1.0, N), CG_3),
    "MMPS": MMPS,
    "MMPS, CG": partial(MMPS, solver=CG_3),
    "MMPS, latent": lambda prior, likelihood: LatentPosterior(prior, DECODER, likelihood),
    "PiGDM": partial(PiGDM, solver=GMRES_3),
}


def walk(integrator: Integrator, denoiser: Denoiser, device: str) -> Tensor:
    """All steps."""
    x = torch.randn(2, N, generator=torch.Generator().manual_seed(0)).to(device)
    state = State(0, len(integrator.times) - 1, integrator.times[0], x)
    for after in integrator.run(denoiser, state, torch.randn_like):
        state = after
    return state.x_t


def test_who_looks_is_found() -> None:
    class Looking(Network):
        def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
            return x_t if bool(t > 0) else super().forward(x_t, t)

    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        walk(DDIM(4), Looking().to("meta"), "meta")


@pytest.mark.parametrize(("integrator", "evaluations"), INTEGRATORS, ids=repr)
def test_no_integrator_waits_or_evaluates_twice(integrator: Integrator, evaluations: int) -> None:
    prior = Network().to("meta")
    assert walk(integrator, prior, "meta").is_meta
    assert prior.count.all == (evaluations, 0, 0)
    assert walk(replace(integrator, denoise=True), prior, "meta").is_meta
    assert prior.count.all == (evaluations + 1, 0, 0)


@pytest.mark.parametrize("name", GUIDANCE)
def test_no_guidance_waits(name: str) -> None:
    guided = GUIDANCE[name](Network(), observed()).to("meta")
    assert walk(DDIM(4), guided, "meta").is_meta


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("kind", [GMRES, CG])
def test_a_guided_step_evaluates_once_and_takes_one_product_an_iteration(
    kind: type[CG] | type[GMRES], k: int
) -> None:
    prior, count = Network(), Count()
    solver = kind(rtol=0.0, max_iterations=k, on_failure="ignore", check_interval=0)

    def decode(z: Tensor) -> Tensor:
        again: Tensor = Counted.apply(z, count)  # type: ignore[no-untyped-call]
        return torch.cat((again, torch.sin(again)), dim=-1)

    decoder, seen = Nonlinear(decode, N, 2 * N), observed(2 * N)
    guidance = partial(MMPS, solver=solver)
    guided = LatentPosterior(prior, decoder, seen, guidance)
    walk(DDIM(4), guided, "cpu")
    assert prior.count.all == (4, 4 * k, 0)
    # The last step of CG needs no product with the Jacobian, only with its adjoint.
    assert count.all == (4, 4 * k, 4 * (k - (kind is CG)))
    walk(DDIM(4), guidance(prior, observed()), "cpu")
    assert prior.count.all == (4, 4 * k, 0)
