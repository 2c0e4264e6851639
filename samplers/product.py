r"""Products and powers of priors.

The score of :math:`p_1 p_2`, once noise is added, is not the sum of the scores of
:math:`p_1` and :math:`p_2` with noise: adding noise and multiplying don't commute. To add scores,
as is often done, is right without noise only, and wrong elsewhere even for Gaussians: with noise
of ratio :math:`r = \sigma_t / \alpha_t` it counts the likelihood of :math:`x_t` twice.

What does multiply are the laws of the clean state given the noisy one,

.. math:: \frac{p_1(x) \, p_2(x) \, p(x_t \mid x)}{Z}
    \propto \frac{p_1(x \mid x_t) \, p_2(x \mid x_t)}{p(x_t \mid x)}

and here :math:`p_i(x \mid x_t)` is the Gaussian of Tweedie's moments, as in
:class:`~appa_prob.samplers.MMPS`: exact for Gaussian priors, and nearly so where noise is low.
"""

from __future__ import annotations

import math

from torch import Tensor

from appa_prob.operators import GMRES, Identity, Inverse, Operator, Scaled, Solver

from .denoiser import Denoiser, over
from .gaussian import Gaussian

__all__ = ["Product", "Tempered"]


class Product(Denoiser):
    r"""The denoiser of a product :math:`p \propto p_1 \, p_2` of priors, by two denoisers.

    .. math:: \mathbb{E}[x \mid x_t] = \hat{x}_2 + B \, (A + B - A B)^{-1}
        \left( \hat{x}_1 - \hat{x}_2 + A (\hat{x}_2 - x_t / \alpha_t) \right) \qquad
        A = V_1 / r^2 \quad B = V_2 / r^2

    with the moments :math:`\hat{x}_i` and :math:`V_i` of :math:`p_i(x \mid x_t)`, and
    :math:`V = V_2 (A + B - A B)^{-1} A`. A product of three is a product of products.

    Arguments:
        first: The denoiser of :math:`p_1`.
        second: The denoiser of :math:`p_2`, with the same events and schedule.
        solver: What solves systems with :math:`A + B - A B`, which is not symmetric; by default
            20 iterations of GMRES at most.

    Raises:
        ValueError: If events or schedules differ.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Isotropic
        >>> from appa_prob.samplers import GaussianDenoiser, VESchedule
        >>> V = Isotropic(2.0, 1)
        >>> left = GaussianDenoiser(torch.tensor([-1.0]), V, VESchedule())
        >>> right = GaussianDenoiser(torch.tensor([3.0]), V, VESchedule())
        >>> d = Product(left, right)
        >>> d(torch.tensor([1.0]), torch.tensor(0.5))
        tensor([1.])
    """

    def __init__(self, first: Denoiser, second: Denoiser, solver: Solver | None = None) -> None:
        super().__init__(first.event_shape, first.schedule)
        if second.event_shape != first.event_shape or second.schedule != first.schedule:
            raise ValueError(
                f"expected denoisers of the same events and schedule, got "
                f"{tuple(first.event_shape)} with {first.schedule} and "
                f"{tuple(second.event_shape)} with {second.schedule}"
            )
        self.first, self.second = first, second
        self.solver: Solver = GMRES(rtol=1e-5, max_iterations=20) if solver is None else solver

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        return self.posterior(x_t, t).mean

    def posterior(self, x_t: Tensor, t: Tensor) -> Gaussian:
        p, q = self.first.posterior(x_t, t), self.second.posterior(x_t, t)
        A, B = (relative(V, self.schedule(t)) for V in (p.covariance, q.covariance))
        system = A + B - A @ B
        noisy = x_t / over(self.schedule.alpha(t), self.event_shape)
        u = self.solver(system, p.mean - q.mean + A.forward(q.mean - noisy)).value
        return Gaussian(q.mean + B.forward(u), q.covariance @ Inverse(system, self.solver) @ A)


class Tempered(Denoiser):
    r"""The denoiser of a power :math:`p^w` of a prior: a sharper law for :math:`w > 1`, a wider
    one for :math:`w < 1`.

    .. math:: \mathbb{E}[x \mid x_t] = \hat{x}
        + (w I + (1 - w) A)^{-1} (1 - w) A \, (x_t / \alpha_t - \hat{x}) \qquad A = V / r^2

    with the moments :math:`\hat{x}` and :math:`V` of :math:`p(x \mid x_t)`.

    Arguments:
        denoiser: The denoiser of :math:`p`.
        power: The power :math:`w > 0`.
        solver: What solves the systems, by default 20 iterations of GMRES at most.

    Raises:
        ValueError: If the power is not positive.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Isotropic
        >>> from appa_prob.samplers import GaussianDenoiser, VESchedule
        >>> prior = GaussianDenoiser(torch.zeros(2), Isotropic(4.0, 2), VESchedule())
        >>> Tempered(prior, 4.0)(torch.ones(2), torch.tensor(0.5))  # the variance is 1
        tensor([0.5000, 0.5000])
    """

    def __init__(self, denoiser: Denoiser, power: float, solver: Solver | None = None) -> None:
        super().__init__(denoiser.event_shape, denoiser.schedule)
        if not 0 < power < math.inf:
            raise ValueError(f"expected power > 0, got {power}")
        self.denoiser, self.power = denoiser, power
        self.solver: Solver = GMRES(rtol=1e-5, max_iterations=20) if solver is None else solver

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        return self.posterior(x_t, t).mean

    def posterior(self, x_t: Tensor, t: Tensor) -> Gaussian:
        p, w = self.denoiser.posterior(x_t, t), self.power
        A = relative(p.covariance, self.schedule(t))
        system = w * Identity(self.event_shape, dtype=x_t.dtype, device=x_t.device) + (1 - w) * A
        noisy = x_t / over(self.schedule.alpha(t), self.event_shape)
        u = self.solver(system, (1 - w) * A.forward(noisy - p.mean)).value
        return Gaussian(p.mean + u, p.covariance @ Inverse(system, self.solver))


def relative(V: Operator, scales: tuple[Tensor, Tensor]) -> Operator:
    r"""The covariance :math:`V / r^2` in units of the noise, whose eigenvalues lie between 0 and 1
    for priors whose density is log-concave.

    Arguments:
        V: The covariance of the clean state given the noisy one.
        scales: The scales :math:`\alpha_t` and :math:`\sigma_t`, with shape :math:`()` or that of
            the batch.
    """
    alpha, sigma = scales
    # Without noise nothing is left of V, and its ratio to r^2 doesn't matter.
    return Scaled((alpha / sigma.clamp_min(1e-12)).square(), V)
