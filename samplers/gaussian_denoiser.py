r"""The exact denoiser of a Gaussian prior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from torch import Tensor

from appa_prob.operators import (
    Eigenbasis,
    InnovationCovariance,
    Operator,
    Solver,
    Surrogate,
    TweedieCovariance,
)

from .denoiser import Denoiser
from .gaussian import Gaussian
from .schedule import Schedule
from .spectral import diagonalise, remainder, wiener

__all__ = ["GaussianDenoiser"]


class GaussianDenoiser(Denoiser):
    r"""The denoiser of the prior :math:`x \sim \mathcal{N}(\mu, \Sigma)`.

    .. math:: \mathbb{E}[x \mid x_t] = \mu + \alpha_t \Sigma
        (\alpha_t^2 \Sigma + \sigma_t^2 I)^{-1} (x_t - \alpha_t \mu) \qquad
        \mathbb{V}[x \mid x_t] = \sigma_t^2 \Sigma (\alpha_t^2 \Sigma + \sigma_t^2 I)^{-1}

    The covariance is diagonalised once, :math:`\Sigma = Q \Lambda Q^T`, by its structure if it is
    isotropic, diagonal, stationary on a torus or an :class:`~appa_prob.operators.Eigenbasis`, else
    densely.

    Arguments:
        mean: The mean :math:`\mu`, with shape :math:`(event)`.
        covariance: The covariance :math:`\Sigma`, not batched.
        schedule: The schedule.

    Raises:
        ValueError: If shapes don't fit, or if the covariance is not positive semi-definite.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Isotropic
        >>> from appa_prob.samplers import VESchedule
        >>> d = GaussianDenoiser(torch.ones(2), Isotropic(1.0, 2), VESchedule(0.1, 10.0))
        >>> d(torch.tensor([3.0, 1.0]), torch.tensor(0.5))
        tensor([2., 1.])
    """

    mean: Tensor

    def __init__(self, mean: Tensor, covariance: Operator, schedule: Schedule) -> None:
        if covariance.in_shape != mean.shape or covariance.out_shape != mean.shape:
            raise ValueError(
                f"expected a covariance of events of shape {tuple(mean.shape)}, that of the mean, "
                f"got {covariance!r}"
            )
        if covariance.batch_shape:
            raise ValueError(
                f"expected one covariance, got a batch {tuple(covariance.batch_shape)}; several "
                "Gaussians are a MixtureDenoiser"
            )
        super().__init__(mean.shape, schedule)
        self.register_buffer("mean", mean)
        self.covariance = covariance
        self.spectrum = diagonalise(covariance)

    @property
    def law(self) -> Gaussian:
        r"""The prior itself."""
        return Gaussian(self.mean, self.spectrum)

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        self.check(x_t, t)
        alpha, _ = self.scales(t)
        return self.mean + wiener(self.spectrum, *self.schedule(t))(x_t - alpha * self.mean)

    def posterior(self, x_t: Tensor, t: Tensor) -> Gaussian:
        return Gaussian(self(x_t, t), self.covariance_given(t))

    def surrogate(self, solver: Solver | None = None) -> Surrogate:
        r"""Preconditioning of guidance by another denoiser, of whose prior this one is a rough
        picture, such as a climatology.

        In :math:`H V H^T + R` the covariance :math:`V` of Tweedie, whose products take passes
        through a network, is replaced by :math:`\mathbb{V}[x \mid x_t]` of this prior at the same
        time.

        Arguments:
            solver: What solves the systems of the surrogate; by default a dense factorisation.

        Example:
            >>> import torch
            >>> from appa_prob.operators import GMRES, Identity, Isotropic
            >>> from appa_prob.samplers import VESchedule
            >>> rough = GaussianDenoiser(torch.zeros(2), Isotropic(1.0, 2), VESchedule())
            >>> t = torch.tensor(0.5)
            >>> V = TweedieCovariance(rough, torch.zeros(2), t, *rough.schedule(t))
            >>> S = InnovationCovariance(Identity(2), V, Isotropic(0.1, 2))
            >>> GMRES(rtol=1e-4, preconditioner=rough.surrogate())(S, torch.ones(2)).iterations
            tensor(1)
        """

        def covariance(S: InnovationCovariance) -> Operator:
            if not isinstance(S.V, TweedieCovariance):
                raise TypeError(
                    "expected a system with a TweedieCovariance, whose time the surrogate takes, "
                    f"got {S!r}; make the surrogate from covariance_given(t) yourself"
                )
            return self.covariance_given(S.V.t)

        return Surrogate(covariance) if solver is None else Surrogate(covariance, solver)

    def moments(self, t: Tensor) -> tuple[Tensor, Tensor]:
        r"""Two variances in the units of :math:`x_t / \alpha_t`, averaged over all directions.

        .. math:: \frac{1}{n} \mathrm{tr} \, \mathbb{V}[x \mid x_t] \qquad
            \frac{1}{n} \mathrm{tr} \, \mathbb{V} \!
            \left[ \frac{x_t}{\alpha_t} - \mathbb{E}[x \mid x_t] \right]

        Arguments:
            t: The time, with shape :math:`(*)`.

        Returns:
            The variances, with shape :math:`(*)`.
        """
        alpha, sigma = self.schedule(t)
        noise = (sigma / alpha).square()
        spectrum, coefficients = self.spectrum, self.spectrum.basis.in_shape
        values, share = spectrum.eigenvalues, spectrum.remaining / self.event_shape.numel()
        wide = noise.reshape(*noise.shape, *(1,) * len(coefficients))
        axes = tuple(range(-len(coefficients), 0))
        clean = (values * wide / (values + wide)).mean(axes) * (1 - share)
        noisy = (wide.square() / (values + wide)).mean(axes) * (1 - share)
        if spectrum.remaining:
            clean = clean + share * spectrum.rest * noise / (spectrum.rest + noise)
            noisy = noisy + share * noise.square() / (spectrum.rest + noise)
        return clean, noisy

    def covariance_given(self, t: Tensor) -> Eigenbasis:
        r"""The covariance :math:`\mathbb{V}[x \mid x_t]`, which is that of any :math:`x_t`.

        Arguments:
            t: The time, with shape :math:`(*)`.
        """
        return remainder(self.spectrum, *self.schedule(t))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.covariance = self.covariance.to(self.mean)
        self.spectrum = self.spectrum.to(self.mean)
        return self
