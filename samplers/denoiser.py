r"""What every score model offers: the mean of the clean state given the noisy one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Size, Tensor, nn

from appa_prob.operators import TweedieCovariance

from .gaussian import Gaussian
from .schedule import Schedule

__all__ = ["Denoiser", "check_denoiser", "over"]


class Denoiser(nn.Module, ABC):
    r"""The mean :math:`\mathbb{E}[x \mid x_t]` of the clean state given the noisy one.

    .. math:: x_t = \alpha_t \, x + \sigma_t \, \epsilon \qquad
        \nabla_{x_t} \log p(x_t) = \frac{\alpha_t \, \mathbb{E}[x \mid x_t] - x_t}{\sigma_t^2}

    Subclasses set ``event_shape`` and ``schedule`` and implement :meth:`forward`.
    :meth:`posterior` follows from it by the formula of Tweedie.

    Arguments:
        event_shape: The shape of a state.
        schedule: The schedule.

    Example:
        >>> import torch
        >>> from appa_prob.samplers import VESchedule
        >>> class Unit(Denoiser):
        ...     def forward(self, x_t, t, **context):
        ...         alpha, sigma = self.scales(t)
        ...         return alpha * x_t / (alpha**2 + sigma**2)
        >>> denoiser = Unit((3,), VESchedule(0.1, 10.0))
        >>> posterior = denoiser.posterior(torch.ones(3), torch.tensor(0.5))
        >>> posterior.mean, posterior.covariance(torch.ones(3))
        (tensor([0.5000, 0.5000, 0.5000]), tensor([0.5000, 0.5000, 0.5000]))
    """

    def __init__(self, event_shape: tuple[int, ...] | Size, schedule: Schedule) -> None:
        super().__init__()
        self.event_shape = Size(event_shape)
        self.schedule = schedule

    def extra_repr(self) -> str:
        return f"{tuple(self.event_shape)}, {self.schedule!r}"

    @abstractmethod
    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        r"""Computes :math:`\mathbb{E}[x \mid x_t]`.

        Arguments:
            x_t: The noisy state, with shape :math:`(*, event)`.
            t: The time, with shape :math:`()` or :math:`(*)`.
            context: What else the denoiser depends on.

        Returns:
            The mean, with the shape of :math:`x_t`.
        """

    def posterior(self, x_t: Tensor, t: Tensor) -> Gaussian:
        r"""The Gaussian :math:`\mathcal{N}(\mathbb{E}[x \mid x_t], \mathbb{V}[x \mid x_t])`.

        The covariance is lazy, and the denoiser is evaluated once.

        Arguments:
            x_t: The noisy state, with shape :math:`(*, event)`.
            t: The time, with shape :math:`()` or :math:`(*)`.
        """
        self.check(x_t, t)
        alpha, sigma = self.schedule(t)
        covariance = TweedieCovariance(self, x_t, t, alpha, sigma, self.event_shape)
        return Gaussian(covariance.mean, covariance)

    @property
    def total(self) -> Callable[[Tensor], Tensor] | None:
        r"""Where states are parts of longer ones, which several processes hold: what adds up
        numbers over these; else None. A denoiser made of others has theirs.
        """
        for child in self.children():
            for part in child if isinstance(child, nn.ModuleList) else (child,):
                if isinstance(part, Denoiser) and part.total is not None:
                    return part.total
        return None

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        r"""The scales :math:`\alpha_t` and :math:`\sigma_t`, shaped to multiply states.

        Arguments:
            t: The time, with shape :math:`()` or :math:`(*)`, never the shape of events.
        """
        alpha, sigma = self.schedule(t)
        return over(alpha, self.event_shape), over(sigma, self.event_shape)

    def check(self, x_t: Tensor, t: Tensor) -> None:
        r"""Checks the shapes of a noisy state and its time.

        Raises:
            ValueError: If :math:`x_t` is not of shape :math:`(*, event)`, or :math:`t` of neither
                shape :math:`()` nor :math:`(*)`.
        """
        axes = len(self.event_shape)
        batch = x_t.shape[: x_t.ndim - axes]
        if x_t.shape[x_t.ndim - axes :] != self.event_shape or x_t.ndim < axes:
            raise ValueError(
                f"{type(self).__name__}: expected x_t of shape "
                f"(*, {', '.join(map(str, self.event_shape))}), got {tuple(x_t.shape)}"
            )
        if t.shape != () and t.shape != batch:
            raise ValueError(
                f"{type(self).__name__}: expected t of shape () or {tuple(batch)}, the batch of "
                f"x_t, got {tuple(t.shape)}"
            )


def check_denoiser(denoiser: object) -> None:
    r"""Checks that a prior is a denoiser.

    Arguments:
        denoiser: What should be one.

    Raises:
        TypeError: If it is none, saying how a network becomes one.
    """
    if not isinstance(denoiser, Denoiser):
        raise TypeError(
            f"expected a Denoiser as the prior, got {type(denoiser).__name__}; a network becomes "
            "one by CleanPrediction, NoisePrediction, VPrediction, FlowPrediction or "
            "ScorePrediction, a Gaussian by GaussianDenoiser"
        )


def over(c: Tensor, event_shape: Size) -> Tensor:
    r"""Numbers of a batch, with axes of length 1 for those of an event.

    Arguments:
        c: The numbers, with shape :math:`(*)`.
        event_shape: The shape of an event.

    Example:
        >>> import torch
        >>> over(torch.ones(5), Size((2, 3))).shape
        torch.Size([5, 1, 1])
    """
    return c.reshape((*c.shape, *(1,) * len(event_shape)))
