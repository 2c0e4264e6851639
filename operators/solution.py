r"""What solvers return, and how they say that they failed."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from .base import Operator
from .transforms import transformed

__all__ = ["ConvergenceWarning", "OnFailure", "Solution", "Solver", "report"]

OnFailure = Literal["ignore", "warn", "raise"]


class ConvergenceWarning(RuntimeWarning):
    """A solver stopped before it reached its tolerance."""


@dataclass(frozen=True)
class Solution:
    r"""The solution of a batch of systems :math:`S u = b`.

    Arguments:
        value: The solution :math:`u`, with shape :math:`(*, event)`.
        residual: The relative residuals :math:`\|b - S u\| / \|b\|`, with shape :math:`(*)`; 0
            where :math:`b = 0`, and not a number where it wasn't computed.
        iterations: The number of iterations that each system took, with shape :math:`(*)`.
        converged: Whether each residual is known to be within tolerance, with shape :math:`(*)`.
        lifted: The field :math:`V H^T u` where :math:`S = H V H^T + R`, with the event shape of
            :math:`V`; else None.

    Example:
        >>> import torch
        >>> from appa_prob.operators import CG, Diagonal
        >>> CG()(Diagonal(torch.tensor([1.0, 2.0])), torch.ones(2)).converged
        tensor(True)
    """

    value: Tensor
    residual: Tensor
    iterations: Tensor
    converged: Tensor
    lifted: Tensor | None = None


class Solver(Protocol):
    """What solves systems, as :class:`CG`, :class:`GMRES` and :class:`Cholesky` do."""

    def __call__(self, S: Operator, b: Tensor, x0: Tensor | None = None) -> Solution:
        r"""Solves a batch of systems.

        Arguments:
            S: The operator :math:`S`, square.
            b: The right-hand sides, with shape :math:`(*, event)`.
            x0: A first guess, with shape :math:`(*, event)`; by default 0.
        """


def report(
    solution: Solution, solver: str, rtol: float, on_failure: OnFailure, remedy: str
) -> Solution:
    r"""Returns a solution, after warning or raising if a system didn't converge.

    Inside ``torch.func`` transforms and ``torch.compile``, where values can't be looked at, the
    solution is returned as it is.

    Arguments:
        solution: The solution.
        solver: The name of the solver.
        rtol: The tolerance that was asked for.
        on_failure: What to do.
        remedy: What the user could do.

    Raises:
        ConvergenceWarning: If a system didn't converge, and ``on_failure`` is ``"raise"``.
    """
    if on_failure == "ignore" or transformed() or bool(solution.converged.all()):
        return solution
    failed = ~solution.converged
    message = (
        f"{solver}: {int(failed.sum())} of {failed.numel()} systems did not converge to rtol "
        f"{rtol:.1e} in {int(solution.iterations.max())} iterations, the worst relative residual "
        f"is {float(solution.residual[failed].max()):.1e}; {remedy}"
    )
    if on_failure == "raise":
        raise ConvergenceWarning(message)
    warnings.warn(message, ConvergenceWarning, stacklevel=3)
    return solution


def check_options(
    rtol: float, max_iterations: int, on_failure: str, check_interval: int | None
) -> None:
    r"""Checks the options that iterative solvers share.

    Arguments:
        rtol: The tolerance.
        max_iterations: The largest number of iterations.
        on_failure: What to do about systems that don't converge.
        check_interval: The number of iterations between checks for an early end.

    Raises:
        ValueError: If an option is out of its range.
    """
    if not rtol >= 0:
        raise ValueError(f"expected rtol >= 0, got {rtol}")
    if max_iterations < 1:
        raise ValueError(f"expected max_iterations >= 1, got {max_iterations}")
    if on_failure not in ("ignore", "warn", "raise"):
        raise ValueError(
            f"expected on_failure to be 'ignore', 'warn' or 'raise', got {on_failure!r}"
        )
    if check_interval is not None and check_interval < 0:
        raise ValueError(f"expected check_interval >= 0 or None, got {check_interval}")
