r"""Linear multistep methods in the ratio of noise to signal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .multistep import Multistep
from .schedule import Schedule

__all__ = ["LinearMultistep", "multistep_weights"]


@dataclass(frozen=True)
class LinearMultistep(Multistep):
    r"""The method of Adams and Bashforth in the ratio of noise to signal
    :math:`r_t = \sigma_t / \alpha_t`.

    .. math:: \frac{x_s}{\alpha_s} = \frac{x_t}{\alpha_t}
        + \sum_{j=0}^{k-1} c_j \, \hat{\epsilon}_j \qquad
        c_j = \int_{r_t}^{r_s} L_j(r) \, dr

    with the polynomials :math:`L_j` of Lagrange for the last :math:`k` ratios and
    :math:`\hat{\epsilon}` the noise found there. The first steps have fewer values,
    by which nothing is lost where noise hides the data, as it should at first. It differs
    from :class:`~appa_prob.samplers.AdamsBashforth` in the variable of the polynomials, here the
    ratio and there its logarithm. For :math:`k = 1` it is :class:`~appa_prob.samplers.DDIM`.

    References:
        | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
        | https://arxiv.org/abs/2206.00364

    Arguments:
        steps: The number of steps, or the times.
        points: The number :math:`k` of values, the order of the method, from 1 to 4.
        starter: Whether to start by Runge-Kutta steps, as
            :class:`~appa_prob.samplers.AdamsBashforth` may.

    Raises:
        ValueError: If the number of values is out of its range.

    Example:
        >>> from appa_prob.operators import Isotropic
        >>> from appa_prob.samplers import GaussianDenoiser, VESchedule
        >>> d = GaussianDenoiser(torch.zeros(2), Isotropic(1.0, 2), VESchedule())
        >>> LinearMultistep(32)(d, 100 * torch.ones(2))
        tensor([0.9904, 0.9904])
    """

    def level(self, schedule: Schedule, t: Tensor) -> Tensor:
        return schedule.ratio(t)

    def extrapolate(
        self,
        schedule: Schedule,
        x_t: Tensor,
        t: Tensor,
        s: Tensor,
        noises: Sequence[Tensor],
        levels: Tensor,
    ) -> Tensor:
        x = x_t / schedule.alpha(t)
        for weight, eps in zip(multistep_weights(levels, schedule.ratio(s)), noises, strict=True):
            x = x + weight * eps
        return schedule.alpha(s) * x


def multistep_weights(nodes: Tensor, end: Tensor) -> Tensor:
    r"""The integrals :math:`\int_{r_0}^{r} L_j(\rho) \, d\rho` of the polynomials of Lagrange.

    Arguments:
        nodes: The nodes :math:`r_0, r_1, \dots`, with shape :math:`(k)`, at most four.
        end: The end :math:`r`, with shape :math:`()`.

    Returns:
        The weights, with shape :math:`(k)`.

    Example:
        >>> multistep_weights(torch.tensor([1.0, 2.0]), torch.tensor(0.0))
        tensor([-1.5000,  0.5000])
    """
    half = (end - nodes[0]) / 2
    # Two points of Gauss are exact up to the third degree.
    points = nodes[0] + half * (1 + torch.tensor([-1.0, 1.0]).to(nodes) / math.sqrt(3))
    return torch.stack([half * basis.sum() for basis in _lagrange(nodes, points)])


def _lagrange(nodes: Tensor, points: Tensor) -> Iterator[Tensor]:
    """The values at points of the polynomials that are 1 at one node and 0 at all others."""
    for j in range(len(nodes)):
        others = torch.cat((nodes[:j], nodes[j + 1 :])).unsqueeze(-1)
        yield ((points - others) / (nodes[j] - others)).prod(0)
