r"""What guidance methods share: a denoiser in, a denoiser out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from torch import Tensor

from .denoiser import Denoiser
from .likelihood import Likelihood

__all__ = ["Guidance"]


class Guidance(Denoiser):
    r"""The denoiser :math:`\mathbb{E}[x \mid x_t, y]` of a posterior, from that of the prior.

    .. math:: \mathbb{E}[x \mid x_t, y] = \mathbb{E}[x \mid x_t]
        + \frac{\sigma_t^2}{\alpha_t} \nabla_{x_t} \log p(y \mid x_t)

    Each member of a batch is guided for itself. A guided denoiser is a denoiser: it can be guided
    again by another observation, and sampled by any integrator.

    Arguments:
        denoiser: The denoiser of the prior.
        likelihood: The likelihood :math:`p(y \mid x)`.

    Raises:
        ValueError: If the likelihood is not one of the denoiser's states.
    """

    def __init__(self, denoiser: Denoiser, likelihood: Likelihood) -> None:
        super().__init__(denoiser.event_shape, denoiser.schedule)
        if likelihood.in_shape != denoiser.event_shape:
            raise ValueError(
                f"expected a likelihood of states of shape {tuple(denoiser.event_shape)}, those "
                f"of the denoiser, got one of shape {tuple(likelihood.in_shape)}"
            )
        self.denoiser, self.likelihood = denoiser, likelihood

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.likelihood = self.likelihood.to(fn(self.likelihood.y))
        return self
