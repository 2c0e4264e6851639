r"""What guidance methods share: a denoiser in, a denoiser out.

Most methods are one formula, the conditioning of a Gaussian,

.. math:: \mathbb{E}[x \mid x_t, y] \approx \hat{x} + V H^T S^{-1} (y - h(\hat{x})) \qquad
    \hat{x} = \mathbb{E}[x \mid x_t]

They differ in the covariance :math:`V` of the clean state, and in what they take for the
covariance :math:`S` of the observation, :math:`H V H^T + R` if all is well:

========  ==============================  =================================================
method    :math:`V`                       :math:`S - R`
========  ==============================  =================================================
MMPS      Tweedie                         :math:`H V H^T`
PiGDM     Tweedie                         :math:`r_t^2 H H^T`
TMPD      Tweedie                         :math:`\mathrm{diag}(H V H^T 1)`
SDA       Tweedie                         :math:`\gamma \sigma_t^2 / \alpha_t^2 \, I`
JFPS      that of a Gaussian prior        :math:`H V H^T`
DiffPIR   :math:`\sigma_t^2 / (\lambda     :math:`H V H^T`
          \alpha_t^2) \, I`
========  ==============================  =================================================

:math:`V` from Tweedie's formula costs products with the Jacobian of the denoiser; where it is not,
the denoiser is evaluated and no more. DDNM works along the singular vectors of the map
instead; DDRM, RePaint, DAPS, MGDM, DCPS and TDS are integrators, as what they draw depends on the
observation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Self

from torch import Tensor

from appa_prob.operators import InnovationCovariance, Operator, Solver

from .denoiser import Denoiser, check_denoiser
from .gaussian import Gaussian
from .likelihood import Likelihood, check_likelihood

__all__ = ["Conditioning", "Guidance"]


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
        TypeError: If the denoiser or the likelihood is none.
        ValueError: If the likelihood is not one of the denoiser's states.
    """

    def __init__(self, denoiser: Denoiser, likelihood: Likelihood) -> None:
        check_denoiser(denoiser)
        check_likelihood(likelihood, denoiser.event_shape)
        super().__init__(denoiser.event_shape, denoiser.schedule)
        self.denoiser, self.likelihood = denoiser, likelihood

    def extra_repr(self) -> str:
        return f"(likelihood): {self.likelihood!r}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.likelihood = self.likelihood.to(fn(self.likelihood.y))
        return self


class Conditioning(Guidance):
    r"""Guidance that conditions a Gaussian approximation of :math:`p(x \mid x_t)`.

    Subclasses choose the Gaussian, by :meth:`prior`, and the covariance of the observation, by
    :meth:`innovation`; the rest is :meth:`Gaussian.condition`.

    Arguments:
        denoiser: The denoiser of the prior.
        likelihood: The likelihood :math:`p(y \mid x)`.
        solver: What solves systems with :math:`S`.
        bounded: Whether to shorten updates that no covariance explains, see
            :meth:`Gaussian.condition`.

    Raises:
        ValueError: If the likelihood is not one of the denoiser's states.
    """

    def __init__(
        self, denoiser: Denoiser, likelihood: Likelihood, solver: Solver, bounded: bool = True
    ) -> None:
        super().__init__(denoiser, likelihood)
        self.solver, self.bounded = solver, bounded

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}\n(solver): {self.solver!r}"

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        return self.posterior(x_t, t).mean

    def posterior(self, x_t: Tensor, t: Tensor) -> Gaussian:
        return self.prior(x_t, t).condition(
            self.likelihood, self.solver, partial(self.innovation, t), bounded=self.bounded
        )

    def with_evidence(self, x_t: Tensor, t: Tensor) -> tuple[Gaussian, Gaussian, Tensor]:
        r"""The Gaussian that is conditioned, its posterior, and the evidence
        :math:`\log p(y \mid x_t)` by a dense factorisation.

        Arguments:
            x_t: The noisy state, with shape :math:`(*, event)`.
            t: The time, with shape :math:`()` or :math:`(*)`.
        """
        prior = self.prior(x_t, t)
        innovation = partial(self.innovation, t)
        return prior, *prior.condition_with_evidence(self.likelihood, innovation)

    def prior(self, x_t: Tensor, t: Tensor) -> Gaussian:
        r"""The Gaussian that is conditioned, by default that of the denoiser.

        Arguments:
            x_t: The noisy state, with shape :math:`(*, event)`.
            t: The time, with shape :math:`()` or :math:`(*)`.
        """
        return self.denoiser.posterior(x_t, t)

    def innovation(self, t: Tensor, H: Operator, V: Operator, R: Operator) -> Operator:
        r"""What is taken for the covariance :math:`S` of the observation, by default
        :math:`H V H^T + R`.

        Arguments:
            t: The time, with shape :math:`()` or :math:`(*)`.
            H: The Jacobian of the map.
            V: The covariance of the state.
            R: The covariance of the errors.
        """
        return InnovationCovariance(H, V, R)
