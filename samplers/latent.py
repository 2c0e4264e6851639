r"""Posterior sampling in a latent space, with a likelihood of what latents decode to.

.. math:: x = D(z) \qquad p(z \mid y) \propto p(z) \, p(y \mid D(z)) \qquad
    \frac{\partial h(D(z))}{\partial z} = H \, \frac{\partial D}{\partial z}

The decoder is linearised with the map of the observation, from one forward pass, and its Jacobian
stays lazy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Size, Tensor

from appa_prob.operators import Map, Operator

from .denoiser import Denoiser
from .gaussian import Gaussian
from .guidance import Guidance
from .likelihood import Likelihood
from .mmps import MMPS

__all__ = ["LatentLikelihood", "LatentPosterior"]


class LatentLikelihood:
    r"""The likelihood :math:`p(y \mid D(z))` of a latent.

    Arguments:
        likelihood: The likelihood :math:`p(y \mid x)` of a state.
        decoder: The decoder :math:`D`, a map from latents to states.

    Raises:
        ValueError: If the decoder gives other states.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Identity, Isotropic
        >>> from appa_prob.samplers import GaussianLikelihood
        >>> likelihood = GaussianLikelihood(Identity(2), torch.ones(2), 0.5)
        >>> LatentLikelihood(likelihood, Isotropic(2.0, 2)).log_prob(torch.ones(2))
        tensor(-3.1447)
    """

    def __init__(self, likelihood: Likelihood, decoder: Map) -> None:
        if decoder.out_shape != likelihood.in_shape:
            raise ValueError(
                f"expected a decoder to states of shape {tuple(likelihood.in_shape)}, those of "
                f"the likelihood, got {decoder!r}"
            )
        self.likelihood, self.decoder, self.y = likelihood, decoder, likelihood.y

    @property
    def in_shape(self) -> Size:
        r"""The shape of a latent."""
        return self.decoder.in_shape

    @property
    def linear(self) -> bool:
        r"""Whether the decoder is an operator, and the likelihood linear."""
        return isinstance(self.decoder, Operator) and getattr(self.likelihood, "linear", False)

    def log_prob(self, x: Tensor) -> Tensor:
        r"""Computes :math:`\log p(y \mid D(z))`.

        Arguments:
            x: The latent :math:`z`, with shape :math:`(*, in)`.
        """
        return self.likelihood.log_prob(self.decoder(x))

    def linearize(self, x: Tensor) -> tuple[Tensor, Operator, Operator]:
        r"""The Gaussian likelihood that is the nearest at a latent.

        Arguments:
            x: The latent :math:`z`, with shape :math:`(*, in)`.
        """
        state, D = self.decoder.linearize(x)
        residual, H, R = self.likelihood.linearize(state)
        return residual, H @ D, R

    def to(self, *args: Any, **kwargs: Any) -> LatentLikelihood:
        r"""Moves to a device or a floating type, as :meth:`torch.Tensor.to`."""
        return LatentLikelihood(
            self.likelihood.to(*args, **kwargs), self.decoder.to(*args, **kwargs)
        )


class LatentPosterior(Denoiser):
    r"""The denoiser :math:`\mathbb{E}[z \mid z_t, y]` of latents, given what was observed
    of the states that these decode to.

    Arguments:
        prior: The denoiser of latents.
        decoder: The decoder :math:`D`, a map from latents to states.
        likelihood: The likelihood :math:`p(y \mid x)` of a state.
        guidance: What guides the prior by a likelihood, as
            ``lambda prior, likelihood: MMPS(prior, likelihood, solver)``.

    Raises:
        ValueError: If shapes don't fit.

    References:
        | Appa: Bending Weather Dynamics with Latent Diffusion Models for Global Data Assimilation
        (Andry et al., 2025) | https://arxiv.org/abs/2504.18720

    Example:
        >>> import torch
        >>> from appa_prob.operators import Identity, Isotropic, Nonlinear
        >>> from appa_prob.samplers import DDIM, GaussianDenoiser, GaussianLikelihood, VESchedule
        >>> prior = GaussianDenoiser(torch.zeros(2), Isotropic(1.0, 2), VESchedule())
        >>> decoder = Nonlinear(torch.sinh, (2,), (2,))
        >>> y = GaussianLikelihood(Identity(2), torch.tensor([2.0, -2.0]), 1e-4)
        >>> posterior, sampler = LatentPosterior(prior, decoder, y), DDIM(32)
        >>> g = torch.Generator().manual_seed(0)
        >>> z = sampler(posterior, sampler.noise(posterior, (4,), generator=g))
        >>> (posterior.decode(z) - y.y).abs().max() < 0.1
        tensor(True)
    """

    def __init__(
        self,
        prior: Denoiser,
        decoder: Map,
        likelihood: Likelihood,
        guidance: Callable[[Denoiser, Likelihood], Guidance] = MMPS,
    ) -> None:
        super().__init__(prior.event_shape, prior.schedule)
        self.guided = guidance(prior, LatentLikelihood(likelihood, decoder))

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        mean: Tensor = self.guided(x_t, t, **context)
        return mean

    def posterior(self, x_t: Tensor, t: Tensor) -> Gaussian:
        return self.guided.posterior(x_t, t)

    def decode(self, z: Tensor) -> Tensor:
        r"""The states of latents.

        Arguments:
            z: The latents, with shape :math:`(*, latent)`.
        """
        likelihood = self.guided.likelihood
        assert isinstance(likelihood, LatentLikelihood)
        return likelihood.decoder(z)
