r"""The probability flow to a given accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from .ddim import implicit_step
from .denoiser import Denoiser
from .flow import Flow
from .integrator import Draw, Integrator, Memory

__all__ = ["AdaptiveODE", "Method", "solve"]

Method = Literal["adaptive_heun", "bosh3", "dopri5", "dopri8", "fehlberg2", "tsit5"]


@dataclass(frozen=True)
class AdaptiveODE(Integrator):
    r"""The probability flow, integrated to a given accuracy by `torchdiffeq`.

    .. math:: \frac{dy}{d\ell} = y - \mathbb{E}[x \mid x_t] \qquad y = \frac{x_t}{\alpha_t} \qquad
        \ell = \log \frac{\sigma_t}{\alpha_t}

    Steps are as long as the errors allow, the same for all members of a batch: a member depends
    on those beside it within the tolerance. With ``gradient=True`` the sample is differentiable
    through all steps or, with `adjoint`, by a second equation solved backwards, in constant
    memory.

    References:
        | Neural Ordinary Differential Equations (Chen et al., 2018)
        | https://arxiv.org/abs/1806.07366

        | "Hey, that's not an ODE": Faster ODE Adjoints via Seminorms (Kidger et al., 2021)
        | https://arxiv.org/abs/2009.09457

    Arguments:
        steps: The number of parts that the time is cut into, between which callbacks are called,
            or the times; one by default.
        rtol: The relative tolerance.
        atol: The absolute tolerance.
        method: The Runge-Kutta pair.
        adjoint: Whether gradients are computed by the adjoint method.
        floor: The ratio of noise to signal that the flow is followed to if there is no noise at
            its end; what is left is one step of :class:`~appa_prob.samplers.DDIM`.

    Raises:
        ValueError: If a tolerance or the floor is not positive.
    """

    pieces: ClassVar[bool] = False

    steps: int | Sequence[float] = field(default=1)
    rtol: float = 1e-5
    atol: float = 1e-6
    method: Method = "dopri5"
    adjoint: bool = False
    floor: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rtol", "atol", "floor"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"expected {name} > 0, got {getattr(self, name)}")

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, memory: Memory
    ) -> Tensor:
        schedule = denoiser.schedule
        first, last = schedule.ratio(t), schedule.ratio(s)
        stop = last if float(last) > 0 else torch.minimum(first / 2, first.new_tensor(self.floor))
        levels = torch.stack((first.log(), stop.log()))
        y = solve(
            Flow(denoiser, levels),
            x_t / schedule.alpha(t),
            levels,
            rtol=self.rtol,
            atol=self.atol,
            method=self.method,
            adjoint=self.adjoint,
        )[-1]
        if stop is last:
            return schedule.alpha(s) * y
        t = schedule.time(stop)
        return implicit_step(denoiser, schedule.alpha(t) * y, t, s, draw, 0.0)


def solve(
    flow: Callable[[Tensor, Tensor], Tensor],
    y: Tensor,
    levels: Tensor,
    *,
    rtol: float,
    atol: float,
    method: Method = "dopri5",
    adjoint: bool = False,
    parameters: Sequence[Tensor] | None = None,
) -> Tensor:
    r"""The solution of an equation at some levels.

    Arguments:
        flow: The right-hand side, called on a level and a state.
        y: The state at the first level.
        levels: The levels, doubles on the CPU, with shape :math:`(L)`.
        rtol: The relative tolerance.
        atol: The absolute tolerance.
        method: The Runge-Kutta pair.
        adjoint: Whether gradients are computed by the adjoint method.
        parameters: What else the adjoint method has gradients of; by default the parameters of
            the right-hand side, which is then a module.

    Returns:
        The states, with shape :math:`(L, *)`.
    """
    # Imported here, since most samplers do without.
    from torchdiffeq import odeint, odeint_adjoint

    options: dict[str, object] = {"dtype": torch.float64}
    accuracy = {"rtol": rtol, "atol": atol, "method": method, "options": options}
    if not adjoint:
        path: Tensor = odeint(flow, y, levels, **accuracy)
        return path
    # The gradients of parameters, of which there may be none, have no say in the steps.
    backwards = {**options, "norm": "seminorm"}
    wanted = None if parameters is None else tuple(parameters)
    path = odeint_adjoint(
        flow, y, levels, **accuracy, adjoint_options=backwards, adjoint_params=wanted
    )
    return path
