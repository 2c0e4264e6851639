r"""One denoiser where there is much noise, another where there is little."""

from __future__ import annotations

import torch
from torch import Tensor

from .denoiser import Denoiser, over
from .gaussian import Gaussian

__all__ = ["Switched"]


class Switched(Denoiser):
    r"""One denoiser where there is much noise, another where there is little.

    .. math:: d(x_t, t) = \begin{cases}
        d_\mathrm{noisy}(x_t, t) & \sigma_t / \alpha_t > \sigma_* \\
        d_\mathrm{clean}(x_t, t) & \sigma_t / \alpha_t \leq \sigma_*
        \end{cases}

    The same observation can so be given to two methods of guidance, or to two solvers. Where the
    noise hides all but the climatology, the Jacobian of a network costs most, as systems are hard
    there, and is worth least, as the covariance of the climatology is as good: guide by
    :class:`JFPS` there, which takes no derivatives, and by :class:`MMPS` below.

    Arguments:
        noisy: The denoiser above the level.
        clean: The denoiser at the level and below.
        level: The level :math:`\sigma_*`, in the units of :math:`\sigma_t / \alpha_t`.

    Raises:
        ValueError: If the denoisers have other states or schedules, or the level isn't positive.

    Example:
        >>> from appa_prob.operators import Isotropic, Mask
        >>> from appa_prob.samplers import (
        ...     JFPS, MMPS, GaussianDenoiser, GaussianLikelihood, VESchedule
        ... )
        >>> V = Isotropic(1.0, 2)
        >>> prior = GaussianDenoiser(torch.zeros(2), V, VESchedule(0.01, 100.0))
        >>> y = GaussianLikelihood(Mask(torch.tensor([True, False])), torch.tensor([1.0]), 0.5)
        >>> posterior = Switched(JFPS(prior, y, V), MMPS(prior, y), level=6.0)
        >>> posterior(torch.zeros(2), torch.tensor(0.5))
        tensor([0.5000, 0.0000])
    """

    def __init__(self, noisy: Denoiser, clean: Denoiser, *, level: float) -> None:
        super().__init__(clean.event_shape, clean.schedule)
        if noisy.event_shape != clean.event_shape or noisy.schedule != clean.schedule:
            raise ValueError(
                "expected two denoisers of the same states and schedule, got "
                f"{tuple(noisy.event_shape)} with {noisy.schedule} and "
                f"{tuple(clean.event_shape)} with {clean.schedule}"
            )
        if not level > 0:
            raise ValueError(f"expected a level sigma / alpha > 0, got {level}")
        self.noisy, self.clean, self.level = noisy, clean, level

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        above = self.above(t)
        count = int(above.sum())  # one look, for which the host waits
        if count == above.numel():
            only: Tensor = self.noisy(x_t, t, **context)
            return only
        clean: Tensor = self.clean(x_t, t, **context)
        if count == 0:
            return clean
        noisy: Tensor = self.noisy(x_t, t, **context)
        return torch.where(over(above, self.event_shape), noisy, clean)

    def posterior(self, x_t: Tensor, t: Tensor) -> Gaussian:
        r"""The Gaussian of the denoiser that is in charge.

        Arguments:
            x_t: The noisy state, with shape :math:`(*, event)`.
            t: The time, with shape :math:`()` or :math:`(*)`.

        Raises:
            ValueError: If times lie on both sides of the level.
        """
        above = self.above(t)
        count = int(above.sum())
        if 0 < count < above.numel():
            raise ValueError(
                f"expected times on one side of the level {self.level:g}, got both; ask for the "
                "posteriors of either side separately"
            )
        return (self.noisy if count else self.clean).posterior(x_t, t)

    def above(self, t: Tensor) -> Tensor:
        r"""Whether there is more noise than the level at a time.

        Arguments:
            t: The time, with shape :math:`(*)`.
        """
        alpha, sigma = self.schedule(t)
        return sigma > self.level * alpha
