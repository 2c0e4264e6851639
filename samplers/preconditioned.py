r"""Networks as denoisers, preconditioned by the Gaussian prior nearest to the data."""

from __future__ import annotations

import torch
from torch import Size, Tensor, nn

from appa_prob.operators import Isotropic

from .denoiser import Denoiser, over
from .gaussian_denoiser import GaussianDenoiser
from .network_denoiser import call
from .recalibration import Recalibration
from .schedule import Schedule

__all__ = ["PreconditionedDenoiser"]


class PreconditionedDenoiser(Denoiser):
    r"""A network that corrects the denoiser of a Gaussian prior.

    .. math:: d(x_t, t) = g + c_\mathrm{out} \,
        F_\theta \! \left( \frac{x - g}{r}, \, g, \, \tfrac{1}{4} \ln \sigma \right) \qquad
        x = \frac{x_t}{\alpha_t} \quad \sigma = \frac{\sigma_t}{\alpha_t}

    where :math:`g = \mathbb{E}[x \mid x_t]` under the prior :math:`\mathcal{N}(0, \Sigma)`, and
    :math:`c_\mathrm{out}` and :math:`r` are the standard deviations that the error :math:`x_0 - g`
    and the residual :math:`x - g` have under it. With :math:`\Sigma = s^2 I` this is the
    preconditioning of Karras et al.: :math:`g = c_\mathrm{skip} \, x` and
    :math:`(x - g) / r = c_\mathrm{in} \, x`, and the network is given the latter only. With the
    covariance of the data the network is left with what is not Gaussian about them.

    References:
        | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
        | https://arxiv.org/abs/2206.00364

    Arguments:
        network: The network :math:`F_\theta`, called on fields of shape :math:`(*, event)` (with
            twice the channels, one after the other along axis `channels`, if the prior is given)
            and :math:`c_\mathrm{noise}` of shape :math:`(*)`, with the context as keywords.
        schedule: The schedule.
        event_shape: The shape of a state.
        prior: The Gaussian prior; by default isotropic, of variance `scale` squared.
        scale: The standard deviation of the data, for the isotropic prior.
        channels: The axis of the channels, from the end.
        precision: The floating type that the network computes in, by automatic mixed precision; by
            default that of the state. All else is computed in the type of the state.
        recalibration: Corrections fitted to data that the network was not trained on; by default
            none.

    Example:
        >>> from appa_prob.samplers import VESchedule
        >>> d = PreconditionedDenoiser(lambda x, c: 0 * x, VESchedule(0.1, 10.0), (3,))
        >>> d(torch.ones(3), torch.tensor(0.5))
        tensor([0.5000, 0.5000, 0.5000])
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        event_shape: tuple[int, ...] | Size,
        *,
        prior: GaussianDenoiser | None = None,
        scale: float = 1.0,
        channels: int = -3,
        precision: torch.dtype | None = None,
        recalibration: Recalibration | None = None,
    ) -> None:
        super().__init__(event_shape, schedule)
        self.precision, self.recalibration = precision, recalibration
        self.network, self.channels, self.informed = network, channels, prior is not None
        self.scale = torch.tensor(scale)
        if prior is None:
            covariance = Isotropic(torch.tensor(scale**2), self.event_shape)
            prior = GaussianDenoiser(torch.zeros(self.event_shape), covariance, schedule)
        if prior.event_shape != self.event_shape or prior.schedule != schedule:
            raise ValueError(
                f"expected a prior of events of shape {tuple(self.event_shape)} with the schedule "
                f"{schedule}, got {tuple(prior.event_shape)} and {prior.schedule}"
            )
        self.prior = prior

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        self.check(x_t, t)
        x, g, u = self.parts(x_t, t, **context)
        if self.recalibration is None:
            return g + u
        ratio = self.schedule.ratio(t)
        return self.recalibration.correct(x, g, u, ratio, self.event_shape)

    def parts(self, x_t: Tensor, t: Tensor, **context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""The state over :math:`\alpha_t`, the mean :math:`g` under the prior, and what the
        network adds to it, each with the shape of :math:`x_t`.

        Arguments:
            x_t: The noisy state, with shape :math:`(*, event)`.
            t: The time, with shape :math:`()` or :math:`(*)`.
            context: What else the network depends on.
        """
        with torch.autocast(x_t.device.type, enabled=False):
            alpha, sigma = self.schedule(t)
            g: Tensor = self.prior(x_t, t)
            error, residual = (
                over(variance.sqrt(), self.event_shape) for variance in self.prior.moments(t)
            )
            x = x_t / over(alpha, self.event_shape)
            if self.informed:
                field = torch.cat(((x - g) / residual, g), dim=self.channels)
            else:  # the same residual, whose difference loses digits where there is little noise
                field = x / over(
                    torch.hypot(self.scale.to(sigma), sigma / alpha), self.event_shape
                )
            c_noise = torch.log(sigma / alpha) / 4
        return x, g, error * call(self.network, self.precision, field, c_noise, **context)

    def weight(self, t: Tensor) -> Tensor:
        r"""The weight :math:`1 / c_\mathrm{out}^2` of the loss, with the shape of :math:`t`."""
        return 1 / self.prior.moments(t)[0]
