r"""The exact denoiser of a mixture of Gaussians."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from appa_prob.operators import Operator

from .denoiser import Denoiser, over
from .gaussian import Gaussian
from .log_density import log_density
from .mixture import Mixture
from .schedule import Schedule
from .spectral import diagonalise, noised, remainder, wiener

__all__ = ["MixtureDenoiser"]


class MixtureDenoiser(Denoiser):
    r"""The denoiser of the prior :math:`x \sim \sum_k w_k \, \mathcal{N}(\mu_k, \Sigma_k)`.

    .. math:: p(x \mid x_t) = \sum_k w_{k \mid t} \, p_k(x \mid x_t) \qquad
        w_{k \mid t} \propto w_k \,
        \mathcal{N}(x_t \mid \alpha_t \mu_k, \alpha_t^2 \Sigma_k + \sigma_t^2 I)

    with :math:`p_k(x \mid x_t)` the Gaussian that :class:`~appa_prob.samplers.GaussianDenoiser`
    gives for a component. Its mean and its covariance are exact, not from a Jacobian.

    Arguments:
        weights: The weights :math:`w_k \geq 0`, with shape :math:`(K)`; they are normalised.
        means: The means :math:`\mu_k`, with shape :math:`(K, event)`.
        covariances: The covariances :math:`\Sigma_k`: an operator on events, one for all
            components or a batch of :math:`K`.
        schedule: The schedule.

    Raises:
        ValueError: If shapes don't fit, a weight is negative or not finite, all of them are zero,
            or a covariance is not positive semi-definite.

    Example:
        >>> from appa_prob.operators import Isotropic
        >>> from appa_prob.samplers import VESchedule
        >>> means = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
        >>> d = MixtureDenoiser(torch.ones(2), means, Isotropic(0.1, 2), VESchedule(0.1, 10.0))
        >>> d(torch.tensor([0.0, 1.1]), torch.tensor(0.5))
        tensor([0.0000, 0.1000])
        >>> d.posterior(torch.zeros(2), torch.tensor(0.0)).covariance.diagonal()
        tensor([0.0174, 0.0091])
    """

    log_weights: Tensor
    means: Tensor

    def __init__(
        self, weights: Tensor, means: Tensor, covariances: Operator, schedule: Schedule
    ) -> None:
        count = len(weights) if weights.ndim == 1 else 0
        if not count or means.shape[:1] != weights.shape:
            raise ValueError(
                "expected weights of shape (K) and means of shape (K, event), got "
                f"{tuple(weights.shape)} and {tuple(means.shape)}"
            )
        if covariances.in_shape != means.shape[1:] or covariances.batch_shape not in (
            (),
            (count,),
        ):
            raise ValueError(
                f"expected one covariance of events of shape {tuple(means.shape[1:])}, or a batch "
                f"of {count}, got {covariances!r} of batch {tuple(covariances.batch_shape)}"
            )
        if not bool((weights >= 0).all() and 0 < weights.sum() < torch.inf):
            raise ValueError("expected weights >= 0, finite and not all 0, got others")
        super().__init__(means.shape[1:], schedule)
        self.register_buffer("log_weights", (weights / weights.sum()).log())
        self.register_buffer("means", means)
        self.covariances = covariances
        self.spectrum = diagonalise(covariances)

    @property
    def law(self) -> Mixture:
        r"""The prior itself."""
        return Mixture(self.log_weights, self.means, self.spectrum)

    def given(self, x_t: Tensor, t: Tensor) -> Mixture:
        r"""The law :math:`p(x \mid x_t)`, a mixture again.

        Arguments:
            x_t: The noisy state, with shape :math:`(*, event)`.
            t: The time, with shape :math:`()` or :math:`(*)`.
        """
        self.check(x_t, t)
        scales = tuple(scale.unsqueeze(-1) for scale in self.schedule(t))
        r = x_t.unsqueeze(x_t.ndim - len(self.event_shape))
        r = r - over(scales[0], self.event_shape) * self.means
        density = log_density(r, noised(self.spectrum, *scales))
        return Mixture(
            torch.log_softmax(self.log_weights + density, -1),
            self.means + wiener(self.spectrum, *scales)(r),
            remainder(self.spectrum, *scales),
        )

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        return self.given(x_t, t).mean

    def posterior(self, x_t: Tensor, t: Tensor) -> Gaussian:
        return self.given(x_t, t).gaussian

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.covariances = self.covariances.to(self.means)
        self.spectrum = self.spectrum.to(self.means)
        return self
