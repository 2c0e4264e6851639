r"""Denoisers from networks, whatever it is that these predict.

A network sees :math:`x_t = \alpha_t x + \sigma_t \epsilon` and predicts

- :class:`CleanPrediction`: :math:`F = x`;
- :class:`NoisePrediction`: :math:`F = \epsilon`, so that
  :math:`\hat{x} = (x_t - \sigma_t F) / \alpha_t`;
- :class:`VPrediction`: :math:`F = \alpha_t \epsilon - \sigma_t x`, so that
  :math:`\hat{x} = (\alpha_t x_t - \sigma_t F) / (\alpha_t^2 + \sigma_t^2)`;
- :class:`FlowPrediction`: :math:`F = \alpha_t' x + \sigma_t' \epsilon`, so that
  :math:`\hat{x} = (\sigma_t' x_t - \sigma_t F) / (\sigma_t' \alpha_t - \sigma_t \alpha_t')`;
- :class:`ScorePrediction`: :math:`F = -\epsilon / \sigma_t`, so that
  :math:`\hat{x} = (x_t + \sigma_t^2 F) / \alpha_t`.

All are affine in the prediction :math:`F`, so that means of targets become means of states.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Size, Tensor

from .denoiser import Denoiser, over
from .schedule import Schedule

__all__ = [
    "CleanPrediction",
    "FlowPrediction",
    "NetworkDenoiser",
    "NoisePrediction",
    "ScorePrediction",
    "VPrediction",
    "call",
]


class NetworkDenoiser(Denoiser):
    r"""The denoiser :math:`a_t x_t + b_t F(x_t, c(t))` of a network :math:`F`.

    Arguments:
        network: The network, called on states of shape :math:`(N, event)`, with one batch axis,
            on :math:`c(t)` of shape :math:`(N)`, and on the context as keywords.
        schedule: The schedule.
        event_shape: The shape of a state.
        embed: What the network is told of the time, :math:`c(t)`; by default :math:`t` itself.
        precision: The floating type that the network computes in, by automatic mixed precision; by
            default that of the state. All else is computed in the type of the state.
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        schedule: Schedule,
        event_shape: tuple[int, ...] | Size,
        *,
        embed: Callable[[Tensor], Tensor] | None = None,
        precision: torch.dtype | None = None,
    ) -> None:
        super().__init__(event_shape, schedule)
        self.network, self.embed, self.precision = network, embed, precision

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        self.check(x_t, t)
        batch = x_t.shape[: x_t.ndim - len(self.event_shape)]
        c = (t if self.embed is None else self.embed(t)).expand(batch).reshape(-1)
        # Networks know one batch axis; what depends on members has the batch axes first.
        flat = {k: v.reshape(-1, *v.shape[len(batch) :]) for k, v in context.items()}
        x = x_t.reshape(-1, *self.event_shape)
        output = call(self.network, self.precision, x, c, **flat).reshape(x_t.shape)
        a, b = (over(k, self.event_shape) for k in self.coefficients(t))
        return a * x_t + b * output

    @abstractmethod
    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        r"""The coefficients :math:`a_t` and :math:`b_t`.

        Arguments:
            t: The time, with shape :math:`(*)`.
        """


class CleanPrediction(NetworkDenoiser):
    r"""The denoiser of a network that predicts the clean state, see :class:`NetworkDenoiser`.

    Example:
        >>> from appa_prob.samplers import VPSchedule
        >>> d = CleanPrediction(lambda x, t: x / 2, VPSchedule(), (2,))
        >>> d(torch.ones(3, 2), torch.tensor(0.5)).shape
        torch.Size([3, 2])
    """

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.ones_like(t)


class NoisePrediction(NetworkDenoiser):
    r"""The denoiser of a network that predicts the noise, see :class:`NetworkDenoiser`.

    References:
        | Denoising Diffusion Probabilistic Models (Ho et al., 2020)
        | https://arxiv.org/abs/2006.11239

    Example:
        >>> from appa_prob.samplers import VESchedule
        >>> d = NoisePrediction(lambda x, t: torch.ones_like(x), VESchedule(0.1, 10.0), (2,))
        >>> d(torch.ones(2), torch.tensor(0.5))
        tensor([0., 0.])
    """

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.schedule(t)
        return 1 / alpha, -sigma / alpha


class VPrediction(NetworkDenoiser):
    r"""The denoiser of a network that predicts :math:`v = \alpha_t \epsilon - \sigma_t x`, see
    :class:`NetworkDenoiser`.

    References:
        | Progressive Distillation for Fast Sampling of Diffusion Models (Salimans and Ho, 2022)
        | https://arxiv.org/abs/2202.00512

    Example:
        >>> from appa_prob.samplers import VPSchedule
        >>> d = VPrediction(lambda x, t: torch.zeros_like(x), VPSchedule(), (2,))
        >>> d(torch.ones(2), torch.tensor(0.0))
        tensor([1., 1.])
    """

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.schedule(t)
        norm = alpha.square() + sigma.square()
        return alpha / norm, -sigma / norm


class FlowPrediction(NetworkDenoiser):
    r"""The denoiser of a network that predicts the velocity
    :math:`\alpha_t' x + \sigma_t' \epsilon`, see :class:`NetworkDenoiser`.

    For :class:`~appa_prob.samplers.RectifiedSchedule` that is about :math:`\epsilon - x`. Models
    whose time goes from noise to data predict the opposite: give their network as
    ``lambda x, c: -network(x, c)`` and `embed` as :math:`1 - t`.

    References:
        | Flow Matching for Generative Modeling (Lipman et al., 2023)
        | https://arxiv.org/abs/2210.02747

    Example:
        >>> from appa_prob.samplers import RectifiedSchedule
        >>> d = FlowPrediction(lambda x, t: x, RectifiedSchedule(), (2,))
        >>> d(torch.ones(2), torch.tensor(0.0))
        tensor([1., 1.])
    """

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        (alpha, sigma), (alpha_dot, sigma_dot) = self.schedule(t), self.schedule.derivatives(t)
        # Both are divided by the derivative, which may be infinite without noise.
        rate = alpha_dot / sigma_dot
        norm = alpha - sigma * rate
        return 1 / norm, -sigma / sigma_dot / norm


class ScorePrediction(NetworkDenoiser):
    r"""The denoiser of a score :math:`\nabla_{x_t} \log p(x_t)`, a network or any function, see
    :class:`NetworkDenoiser`.

    References:
        | Score-Based Generative Modeling through Stochastic Differential Equations
        (Song et al., 2021) | https://arxiv.org/abs/2011.13456

    Example:
        >>> from appa_prob.samplers import VESchedule
        >>> d = ScorePrediction(lambda x, t: -x / 2, VESchedule(0.1, 10.0), (2,))
        >>> d(torch.ones(2), torch.tensor(0.5))
        tensor([0.5000, 0.5000])
    """

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.schedule(t)
        return 1 / alpha, sigma.square() / alpha


def call(
    network: Callable[..., Any],
    precision: torch.dtype | None,
    x: Tensor,
    *args: Any,
    **context: Any,
) -> Tensor:
    r"""Calls a network, by automatic mixed precision if a type is given.

    Arguments:
        network: The network.
        precision: The floating type that it computes in; by default that of its inputs.
        x: Its first input, whose type the output has.
        args: Its other inputs.
        context: Its keywords.
    """
    if precision is None:
        output: Tensor = network(x, *args, **context)
    else:
        with torch.autocast(x.device.type, precision):
            output = network(x, *args, **context)
    return output.to(x.dtype)
