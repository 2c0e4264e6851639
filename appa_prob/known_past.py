r"""Trajectories whose first states are known.

.. math:: \mathbb{E}[z_{1:L} \mid z_t, z_{1:K}] \approx \hat{z} + V_{\cdot K}
    (V_{KK} + \rho^2 I)^{-1} (z_{1:K} - \hat{z}_{1:K}) \qquad
    \hat{z} = \mathbb{E}[z_{1:L} \mid z_t]

with :math:`V` what the Gaussian prior of the network says of a trajectory given a noisy one. The
modes of that prior are independent of each other, and so :math:`V_{KK}` falls apart into a
:math:`K \times K` matrix for each: the system is solved in closed form, and the network is
evaluated once and not differentiated. For a Gaussian prior all of this is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from appa_prob.operators import GMRES, InnovationCovariance, Isotropic, Operator, Slice
from appa_prob.samplers import MMPS, Denoiser, Gaussian, GaussianLikelihood

from .trajectory_prior import TrajectoryCovariance

if TYPE_CHECKING:
    from .appa import Appa
    from .reanalysis import SamplerConfig

__all__ = ["KnownPast", "know_past"]


def know_past(
    appa: Appa, denoiser: Denoiser, past: Tensor, error: float, sampler: SamplerConfig
) -> Denoiser:
    r"""The denoiser of trajectories of a model, given their first latents: :class:`KnownPast` if
    the model has a Gaussian prior of trajectories, else :class:`~appa_prob.samplers.MMPS`.

    Arguments:
        appa: The model.
        denoiser: The denoiser of trajectories, with events of shape :math:`(L, c, h, w)`.
        past: The first latents, with shape :math:`(M, K, c, h, w)`.
        error: The standard deviation of their errors.
        sampler: The number of iterations of guidance.
    """
    covariance = appa.denoiser.prior.covariance
    if isinstance(covariance, TrajectoryCovariance):
        return KnownPast(denoiser, past, covariance, error)
    first = Slice(denoiser.event_shape, (0, 0, 0, 0), (past.shape[1], None, None, None))
    solver = GMRES(rtol=1e-3, max_iterations=sampler.iterations, on_failure="ignore")
    return MMPS(denoiser, GaussianLikelihood(first, past, error**2), solver)


class KnownPast(Denoiser):
    r"""The denoiser of trajectories, given their first states.

    It is what :class:`~appa_prob.samplers.JFPS` is for an observation of the first states, with
    the system solved by the structure of the prior. It can be guided by other observations, as
    any denoiser can.

    References:
        | Appa: Bending Weather Dynamics with Latent Diffusion Models for Global Data Assimilation
        (Andry et al., 2025), which conditions windows on the states before them
        | https://arxiv.org/abs/2504.18720

    Arguments:
        denoiser: The denoiser of trajectories of :math:`L` states.
        past: The first states, with shape :math:`(*, K, c, h, w)`; none for a later piece of a
            trajectory whose first states are known, which they correct through the denoiser.
        covariance: The covariance of the prior, of trajectories of :math:`W \leq L` states; what
            lies beyond these is corrected by the denoiser alone.
        error: The standard deviation :math:`\rho` of the errors of the first states.

    Raises:
        ValueError: If there are as many known states as the prior has, or shapes don't fit.

    Example:
        >>> from appa_prob.samplers import GaussianDenoiser, VESchedule
        >>> z = torch.randn(200, 2, 4, 8, generator=torch.Generator().manual_seed(0))
        >>> prior = TrajectoryCovariance.fit(z, window=3)
        >>> d = GaussianDenoiser(torch.zeros(3, 2, 4, 8), prior, VESchedule(0.01, 10.0))
        >>> past = torch.ones(2, 2, 4, 8)
        >>> known = KnownPast(d, past, prior, error=1e-3)
        >>> torch.allclose(known(torch.zeros(3, 2, 4, 8), torch.tensor(0.5))[:2], past, atol=1e-2)
        True
    """

    past: Tensor

    def __init__(
        self, denoiser: Denoiser, past: Tensor, covariance: TrajectoryCovariance, error: float
    ) -> None:
        super().__init__(denoiser.event_shape, denoiser.schedule)
        window, *state = covariance.in_shape
        length, count = denoiser.event_shape[0], past.shape[-4] if past.ndim >= 4 else 0
        short = bool(count) and length < window
        if [*denoiser.event_shape[1:]] != state or [*past.shape[-3:]] != state or short:
            raise ValueError(
                f"expected known states of shape (*, K, {', '.join(map(str, state))}) and "
                f"trajectories of at least {window} of these, got {tuple(past.shape)} and "
                f"{tuple(denoiser.event_shape)}"
            )
        if not count < window:
            raise ValueError(
                f"expected at most {window - 1} known states, fewer than the {window} of a "
                f"window, got {count}"
            )
        if not error > 0:
            raise ValueError(f"expected a positive error of the known states, got {error}")
        self.denoiser, self.covariance, self.error = denoiser, covariance, error
        self.register_buffer("past", past)

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        mean: Tensor = self.denoiser(x_t, t, **context)
        return self._correct(mean, t)

    def posterior(self, x_t: Tensor, t: Tensor) -> Gaussian:
        r"""The Gaussian of mean :math:`\mathbb{E}[z \mid z_t, z_{1:K}]`, with what is left of the
        covariance :math:`V` of the denoiser,

        .. math:: V' = (I - G H) \, V \, (I - G H)^T + \rho^2 I

        where :math:`G` is the gain and :math:`H` takes the first states. This form of Joseph stays
        positive semi-definite, though the gain is not that of :math:`V`.

        Arguments:
            x_t: The noisy states, with shape :math:`(*, L, c, h, w)`.
            t: The time, with shape :math:`()`.
        """
        free = self.denoiser.posterior(x_t, t)
        left = _Left(self, t)
        noise = Isotropic(torch.as_tensor(self.error**2).to(x_t), self.event_shape)
        covariance = InnovationCovariance(left, free.covariance, noise)
        return Gaussian(self._correct(free.mean, t), covariance)

    def _correct(self, mean: Tensor, t: Tensor) -> Tensor:
        if not self.past.shape[-4]:
            return mean
        residual = self.past - mean[..., : self.past.shape[-4], :, :, :]
        return mean + self.spread(residual, self._gain(t))

    def spread(self, residual: Tensor, gain: Tensor) -> Tensor:
        r"""The product with the gain, from the first states to all, or with its adjoint.

        Arguments:
            residual: Fields, with shape :math:`(*, K, c, h, w)`.
            gain: The matrices of all modes.
        """
        basis, batch = self.covariance.basis, residual.shape[:-4]
        if residual.numel() == 0:  # which Fourier transforms refuse
            return residual.new_zeros(*batch, *self.event_shape)
        waves = basis.modes(residual.reshape(-1, *residual.shape[-4:])).unsqueeze(-2)
        update = basis.fields((waves @ gain.mT).squeeze(-2))
        update = update.reshape(*batch, *update.shape[1:])
        beyond = self.event_shape[0] - update.shape[-4]
        return torch.nn.functional.pad(update, (0, 0, 0, 0, 0, 0, 0, beyond))

    def _gain(self, t: Tensor) -> Tensor:
        """The matrices V_WK (V_KK + rho^2)^-1 of all modes for each time, with shape
        (w / 2 + 1, n, B or 1, W, K)."""
        count = self.past.shape[-4]
        alpha, sigma = (scale.reshape(-1, 1, 1, 1) for scale in self.schedule(t))
        # Coefficients hold the real parts of all wavenumbers first; the imaginary ones vary alike.
        prior = self.covariance.eigenvalues[: len(self.covariance.basis.time)]
        values = sigma.square() * prior / (alpha.square() * prior + sigma.square())
        time = self.covariance.basis.time
        V = (time * values.unsqueeze(-2)) @ time[..., :count, :].mH
        noise = self.error**2 * torch.eye(count, dtype=V.dtype, device=V.device)
        factor = torch.linalg.cholesky(V[..., :count, :] + noise)
        return torch.cholesky_solve(V.mH, factor).mH.movedim(0, 2)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.covariance = self.covariance.to(fn(self.past))
        return self


class _Left(Operator):
    """What is left of a trajectory once its first states are known, I - G H."""

    def __init__(self, known: KnownPast, t: Tensor) -> None:
        super().__init__(known.event_shape, known.event_shape)
        self.known, self.gain = known, known._gain(t) if known.past.shape[-4] else None

    def forward(self, x: Tensor) -> Tensor:
        if self.gain is None:
            return x
        return x - self.known.spread(x[..., : self.known.past.shape[-4], :, :, :], self.gain)

    def adjoint(self, y: Tensor) -> Tensor:
        if self.gain is None:
            return y
        window = self.known.covariance.in_shape[0]
        return y - self.known.spread(y[..., :window, :, :, :], self.gain.conj().mT)
