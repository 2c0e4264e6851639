r"""Least squares by LSMR."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .krylov import plus, safe, tally
from .leastsquares import Bidiagonal, LeastSquaresSolver, Problem, rotation
from .registry import register

__all__ = ["LSMR"]


@register
@dataclass(frozen=True)
class LSMR(LeastSquaresSolver):
    r"""Least squares :math:`\min_x \|A x - b\|` by LSMR, which is MINRES on the normal equations
    without forming them.

    .. math:: x_k = \arg \min_{x \in x_0 + \mathcal{K}_k} \|A^T (b - A x)\| \qquad
        \mathcal{K}_k = \mathrm{span} \{ g, (A^T A) g, \dots, (A^T A)^{k-1} g \}
        \qquad g = A^T (b - A x_0)

    :math:`A` may be tall, wide, square, of full rank or not; of many solutions the one nearest to
    the first guess is found. The norm of :math:`A^T r` never grows, so stopping early is safe.
    Regularise by a :class:`Stack` of :math:`A` and a multiple of the identity, or any other
    operator. Every problem of the batch stops by itself.

    Arguments:
        rtol: The tolerance for :math:`\|A^T (b - A x)\| / \|A^T b\|`, which is what
            ``Solution.residual`` gives; at least the rounding of one product unless it is 0.
        max_iterations: The largest number of iterations, of two products each.
        on_failure: What to do about problems that don't converge: ``"ignore"``, ``"warn"`` or
            ``"raise"``.
        verify: Whether to compute residuals anew at the end, at the cost of two products; by
            default unless failures are ignored.
        check_interval: The number of iterations between looks at whether all problems are done,
            which make the host wait for the device; 0 for never. By default 1 on the CPU and 8
            elsewhere.

    Raises:
        ValueError: If shapes don't fit.
        ConvergenceWarning: If a problem doesn't converge, and ``on_failure`` is ``"raise"``.

    References:
        | LSMR: An Iterative Algorithm for Sparse Least-Squares Problems (Fong and Saunders, 2011)
        | https://doi.org/10.1137/10079687X

    Example:
        >>> from appa_prob.operators import Dense
        >>> A = Dense(torch.tensor([[1.0], [1.0], [1.0]]))
        >>> LSMR()(A, torch.tensor([1.0, 2.0, 6.0])).value
        tensor([3.])
    """

    def _iterate(self, problem: Problem, process: Bidiagonal) -> tuple[Tensor, Tensor, Tensor]:
        x, h, h_bar = problem.x, process.v, torch.zeros_like(problem.x)
        zeta_bar, alpha_bar = process.alpha * process.beta, process.alpha
        one, zero = torch.ones_like(alpha_bar), torch.zeros_like(alpha_bar)
        rho, rho_bar, c_bar, s_bar = one, one, one, zero
        residual = problem.relative(zeta_bar)
        active = residual > problem.tolerance(process.scale)
        steps: list[Tensor] = []
        for k in range(self.max_iterations):
            if self.done(k, active):
                break
            process.step(active)
            rho_old, rho_bar_old = rho, rho_bar
            c, s, rho = rotation(alpha_bar, process.beta)
            theta, alpha_bar = s * process.alpha, c * process.alpha
            theta_bar = s_bar * rho
            c_bar, s_bar, rho_bar = rotation(c_bar * rho, theta)
            product = rho * rho_bar
            usable = active & (product > 0)
            step = torch.where(usable, c_bar * zeta_bar / safe(product, usable), zero)
            zeta_bar = torch.where(usable, -s_bar * zeta_bar, zeta_bar)
            h_bar = plus(h, theta_bar * rho / (rho_old * rho_bar_old), h_bar, -1)
            x = plus(x, step, h_bar)
            rho, rho_bar = torch.where(usable, rho, one), torch.where(usable, rho_bar, one)
            h = plus(process.v, theta / rho, h, -1)
            steps.append(usable)
            residual = torch.where(usable, problem.relative(zeta_bar.abs()), residual)
            active = usable & (residual > problem.tolerance(process.scale))
        return x, residual, tally(steps, active)
