r"""Least squares by LSQR."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .krylov import plus, tally
from .leastsquares import Bidiagonal, LeastSquaresSolver, Problem, rotation
from .registry import register

__all__ = ["LSQR"]


@register
@dataclass(frozen=True)
class LSQR(LeastSquaresSolver):
    r"""Least squares :math:`\min_x \|A x - b\|` by LSQR, which is CG on the normal equations
    without forming them.

    .. math:: x_k = \arg \min_{x \in x_0 + \mathcal{K}_k} \|b - A x\| \qquad
        \mathcal{K}_k = \mathrm{span} \{ g, (A^T A) g, \dots, (A^T A)^{k-1} g \}
        \qquad g = A^T (b - A x_0)

    The misfit :math:`\|b - A x\|` never grows, nor does the distance from the solution; the norm
    of :math:`A^T r`, which the tolerance is for, may. Where the misfit and the error matter more
    than the optimality at which one stops, prefer it to :class:`LSMR`.

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
        | LSQR: An Algorithm for Sparse Linear Equations and Sparse Least Squares (Paige and
        Saunders, 1982) | https://doi.org/10.1145/355984.355989

    Example:
        >>> from appa_prob.operators import Dense
        >>> A = Dense(torch.tensor([[1.0, 1.0]]))
        >>> LSQR()(A, torch.tensor([4.0])).value
        tensor([2., 2.])
    """

    def _iterate(self, problem: Problem, process: Bidiagonal) -> tuple[Tensor, Tensor, Tensor]:
        x, w = problem.x, process.v
        misfit, corner = process.beta, process.alpha
        residual = problem.relative(process.alpha * process.beta)
        active = residual > problem.tolerance(process.scale)
        one, zero = torch.ones_like(misfit), torch.zeros_like(misfit)
        steps: list[Tensor] = []
        for k in range(self.max_iterations):
            if self.done(k, active):
                break
            process.step(active)
            c, s, rho = rotation(corner, process.beta)
            theta, corner = s * process.alpha, -c * process.alpha
            usable = active & (rho > 0)
            length = torch.where(usable, rho, one)
            x = plus(x, torch.where(usable, c * misfit / length, zero), w)
            misfit = torch.where(usable, s * misfit, misfit)
            w = plus(process.v, theta / length, w, -1)
            steps.append(usable)
            gradient = problem.relative((misfit * corner).abs())
            residual = torch.where(usable, gradient, residual)
            active = usable & (residual > problem.tolerance(process.scale))
        return x, residual, tally(steps, active)
