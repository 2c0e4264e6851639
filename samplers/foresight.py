r"""What an observation says of a noisy state, by the clean state that it leads to."""

from __future__ import annotations

from typing import Any

from torch import Size, Tensor

from appa_prob.operators import Nonlinear, Operator, Scaling

from .denoiser import Denoiser
from .integrator import clean
from .latent import LatentLikelihood
from .likelihood import Likelihood

__all__ = ["TemperedLikelihood", "bridge", "foreseen"]


def bridge(low: float, mid: float, high: float) -> tuple[float, float]:
    r"""The share and the standard deviation of a state between two others.

    .. math:: \frac{x_s}{\alpha_s} \sim \mathcal{N} \left( (1 - w) \frac{x_u}{\alpha_u}
        + w \frac{x_t}{\alpha_t}, \; v^2 \right) \qquad
        w = \frac{r_s^2 - r_u^2}{r_t^2 - r_u^2} \qquad v^2 = w \, (r_t^2 - r_s^2)

    Arguments:
        low: The ratio :math:`r_u = \sigma_u / \alpha_u` of noise to signal, 0 for a clean state.
        mid: The ratio :math:`r_s`.
        high: The ratio :math:`r_t > r_u`.

    Returns:
        The share :math:`w` and the deviation :math:`v`.

    Example:
        >>> bridge(0.0, 1.0, 2.0)
        (0.25, 0.8660254037844386)
    """
    share = (mid**2 - low**2) / (high**2 - low**2)
    return share, max(share * (high**2 - mid**2), 0.0) ** 0.5


def foreseen(
    likelihood: Likelihood, denoiser: Denoiser, t: Tensor, until: float = 0.0
) -> LatentLikelihood:
    r"""The likelihood :math:`p(y \mid \bar{x}(x_t))` of a noisy state, by the mean of the state at
    a lower noise level :math:`r`, as if :math:`\mathbb{E}[x \mid x_t]` were the clean state.

    .. math:: \bar{x}(x_t) = (1 - w) \, \mathbb{E}[x \mid x_t] + w \, \frac{x_t}{\alpha_t} \qquad
        w = \frac{r^2 \alpha_t^2}{\sigma_t^2}

    Its Jacobian is that of the denoiser, so that linearising costs passes through it.

    Arguments:
        likelihood: The likelihood :math:`p(y \mid x)` of a clean state.
        denoiser: The denoiser.
        t: The time, a double on the CPU, with shape :math:`()`.
        until: The lower noise level :math:`r`, from :math:`0` to :math:`\sigma_t / \alpha_t`.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Identity, Isotropic
        >>> from appa_prob.samplers import GaussianDenoiser, GaussianLikelihood, VESchedule
        >>> d = GaussianDenoiser(torch.zeros(1), Isotropic(1.0, 1), VESchedule(0.1, 10.0))
        >>> y = GaussianLikelihood(Identity(1), torch.ones(1), 1.0)
        >>> residual, H, _ = foreseen(y, d, torch.tensor(0.5)).linearize(torch.ones(1))
        >>> residual, H(torch.ones(1))
        (tensor([0.5000]), tensor([0.5000]))
    """
    alpha, sigma = (float(c) for c in denoiser.schedule(t))
    share = min((until * alpha / sigma) ** 2, 1.0) if sigma else 1.0
    event = denoiser.event_shape
    if share == 1.0:
        return LatentLikelihood(likelihood, Scaling(1 / alpha, event))

    def mean(x_t: Tensor) -> Tensor:
        x = clean(denoiser, x_t, t)
        return x if not share else (1 - share) * x + share / alpha * x_t

    return LatentLikelihood(likelihood, Nonlinear(mean, event, event))


class TemperedLikelihood:
    r"""The power :math:`p(y \mid x)^\lambda` of a likelihood, up to a constant.

    .. math:: \mathcal{N}(y \mid h(x), R)^\lambda \propto \mathcal{N}(y \mid h(x), R / \lambda)

    Arguments:
        likelihood: The likelihood.
        power: The power :math:`\lambda > 0`.

    Raises:
        ValueError: If the power is not positive.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Identity
        >>> from appa_prob.samplers import GaussianLikelihood
        >>> y = GaussianLikelihood(Identity(1), torch.ones(1), 1.0)
        >>> TemperedLikelihood(y, 0.25).linearize(torch.zeros(1))[2](torch.ones(1))
        tensor([4.])
    """

    def __init__(self, likelihood: Likelihood, power: float) -> None:
        if not power > 0:
            raise ValueError(f"expected a power > 0, got {power}")
        self.likelihood, self.power, self.y = likelihood, power, likelihood.y

    @property
    def in_shape(self) -> Size:
        r"""The shape of a state."""
        return self.likelihood.in_shape

    @property
    def linear(self) -> bool:
        r"""Whether :meth:`linearize` is exact anywhere."""
        return bool(getattr(self.likelihood, "linear", False))

    def log_prob(self, x: Tensor) -> Tensor:
        r"""Computes :math:`\lambda \log p(y \mid x)`.

        Arguments:
            x: The state, with shape :math:`(*, in)`.
        """
        return self.power * self.likelihood.log_prob(x)

    def linearize(self, x: Tensor) -> tuple[Tensor, Operator, Operator]:
        r"""The Gaussian likelihood that is the nearest at a state.

        Arguments:
            x: The state, with shape :math:`(*, in)`.
        """
        residual, H, R = self.likelihood.linearize(x)
        return residual, H, R / self.power

    def to(self, *args: Any, **kwargs: Any) -> TemperedLikelihood:
        r"""Moves to a device or a floating type, as :meth:`torch.Tensor.to`."""
        return TemperedLikelihood(self.likelihood.to(*args, **kwargs), self.power)
