r"""The density of states under a diffusion prior, by its probability flow.

With :math:`y = x_t / \alpha_t`, :math:`r = \sigma_t / \alpha_t` and :math:`\ell = \log r`, a
density changes along the flow :math:`dy / d\ell = y - \mathbb{E}[x \mid x_t]` by its divergence,

.. math:: \log p_{\ell_0}(y_0) = \log p_{\ell_1}(y_1)
    + \int_{\ell_0}^{\ell_1} \left( n - r^{-2} \, \mathrm{tr} \, \mathbb{V}[x \mid x_t] \right)
    d\ell
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .adaptive_ode import Method, solve
from .denoiser import Denoiser
from .flow import Flow

__all__ = ["flow_log_prob"]


def flow_log_prob(
    denoiser: Denoiser,
    x: Tensor,
    *,
    probes: int | None = None,
    generator: torch.Generator | None = None,
    floor: float = 1e-3,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    method: Method = "dopri5",
) -> Tensor:
    r"""The logarithm of the density that a denoiser gives to states.

    It is the density of states with a little noise, :math:`x + r \epsilon`, with the ratio
    :math:`r` of :math:`t = 0` or `floor`; data on a surface have no other. At :math:`t = 1` states
    are taken to be :math:`\mathcal{N}(0, (\alpha_1^2 + \sigma_1^2) I)`, as
    :meth:`~appa_prob.samplers.Integrator.noise` does.

    Arguments:
        denoiser: The denoiser, guided or not.
        x: The states, with shape :math:`(*, event)`.
        probes: The number of random vectors for Hutchinson's estimate of the trace: one product
            with the Jacobian each, no bias, and a variance that falls with their number. By
            default the trace is exact, at the price of a product for each number of a state unless
            the covariance knows its diagonal.
        generator: A source of random numbers.
        floor: The smallest ratio of noise to signal.
        rtol: The relative tolerance.
        atol: The absolute tolerance.
        method: The Runge-Kutta pair.

    Returns:
        The logarithms, with shape :math:`(*)`.

    Raises:
        ValueError: If a state is not finite or of another shape, or if an argument is out of its
            range.

    References:
        | FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models
        (Grathwohl et al., 2019) | https://arxiv.org/abs/1810.01367

        | Score-Based Generative Modeling through Stochastic Differential Equations
        (Song et al., 2021) | https://arxiv.org/abs/2011.13456

    Example:
        >>> from appa_prob.operators import Isotropic
        >>> from appa_prob.samplers import GaussianDenoiser, VESchedule
        >>> d = GaussianDenoiser(torch.zeros(2), Isotropic(1.0, 2), VESchedule(1e-3, 1e3))
        >>> flow_log_prob(d, torch.zeros(2)).round(decimals=2)  # - log 2 pi
        tensor(-1.8400)
    """
    if probes is not None and probes < 1:
        raise ValueError(f"expected at least 1 probe, or None for the exact trace, got {probes}")
    if not 0 < floor < math.inf:
        raise ValueError(f"expected floor > 0, got {floor}")
    if not bool(torch.isfinite(x).all()):
        raise ValueError("expected finite states, got some that are not")
    ends = denoiser.schedule.ratio(torch.tensor([0.0, 1.0], dtype=torch.float64))
    denoiser.check(x, x.new_zeros(()))
    count, axes = denoiser.event_shape.numel(), len(denoiser.event_shape)
    z = None
    if probes is not None:
        # One draw for all levels, so that there is one equation to solve; signs have the least
        # variance of all laws.
        shape = (probes, *x.shape)
        bits = torch.randint(0, 2, shape, generator=generator, device=x.device)
        z = 2 * bits.to(x) - 1
    levels = ends.clamp_min(floor).log()
    # The integral rides along as one more number of each event.
    wide = torch.cat((x.flatten(x.ndim - axes), x.new_zeros(*x.shape[: x.ndim - axes], 1)), -1)
    with torch.no_grad():
        last = solve(
            _Augmented(denoiser, levels, z), wide, levels, rtol=rtol, atol=atol, method=method
        )[-1]
    y, change = last[..., :count], last[..., count]
    variance = 1 + float(ends[1]) ** 2
    normal = -0.5 * (y.square().sum(-1) / variance + count * math.log(2 * math.pi * variance))
    return normal + change


class _Augmented(Flow):
    """The flow of a state and of the logarithm of its density."""

    def __init__(self, denoiser: Denoiser, levels: Tensor, z: Tensor | None) -> None:
        super().__init__(denoiser, levels)
        self.z = z

    def forward(self, level: Tensor, y: Tensor) -> Tensor:
        event = self.denoiser.event_shape
        x = y[..., :-1].reshape(*y.shape[:-1], *event)
        schedule, t = self.denoiser.schedule, self.time(level)
        posterior = self.denoiser.posterior(schedule.alpha(t) * x, t.to(x))
        if self.z is None:
            trace = posterior.covariance.diagonal().sum(-1)
        else:
            product = self.z * posterior.covariance.forward(self.z)
            trace = product.flatten(self.z.ndim - len(event)).sum(-1).mean(0)
        divergence = event.numel() - trace / schedule.ratio(t).square()
        slope = (x - posterior.mean).flatten(x.ndim - len(event))
        return torch.cat((slope, divergence.expand(y.shape[:-1]).unsqueeze(-1)), -1)
