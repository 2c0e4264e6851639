r"""Steps ahead to less noise, and back by new noise."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .ddim import implicit_step
from .denoiser import Denoiser
from .integrator import Draw, Integrator, Memory

__all__ = ["RewindDDIM"]


@dataclass(frozen=True)
class RewindDDIM(Integrator):
    r""":class:`~appa_prob.samplers.DDIM` that runs some steps ahead, to time :math:`u < s`, and
    comes back to :math:`s` by new noise.

    .. math:: x_s = \frac{\alpha_s}{\alpha_u} x_u
        + \sqrt{\sigma_s^2 - \frac{\alpha_s^2}{\alpha_u^2} \sigma_u^2} \; z

    Arguments:
        steps: The number of steps, or the times.
        ahead: The number of steps that each runs ahead, at most those that are left; with 1 it is
            DDIM itself.
        jump: Whether :math:`u` is reached by one large step rather than by `ahead` small ones.

    Raises:
        ValueError: If `ahead` is not positive.

    Example:
        >>> from appa_prob.operators import Isotropic
        >>> from appa_prob.samplers import GaussianDenoiser, VESchedule
        >>> d = GaussianDenoiser(torch.zeros(2), Isotropic(1.0, 2), VESchedule())
        >>> integrator, g = RewindDDIM(32), torch.Generator().manual_seed(0)
        >>> integrator(d, integrator.noise(d, (1000,), generator=g), generator=g).shape
        torch.Size([1000, 2])
    """

    ahead: int = 2
    jump: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ahead < 1:
            raise ValueError(f"expected ahead >= 1, got {self.ahead}")

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, memory: Memory
    ) -> Tensor:
        first = self.times.index(float(t))
        path = self.times[first : first + self.ahead + 1]
        if self.jump:
            path = (path[0], path[-1])
        grid = torch.tensor(path, dtype=torch.float64)
        for before, after in pairwise(grid):
            x_t = implicit_step(denoiser, x_t, before, after, draw, 0.0)
        (alpha_u, sigma_u), (alpha_s, sigma_s) = denoiser.schedule(grid[-1]), denoiser.schedule(s)
        kept = alpha_s / alpha_u
        lost = (sigma_s.square() - (kept * sigma_u).square()).clamp_min(0.0).sqrt()
        return kept * x_t + lost * draw(x_t)
