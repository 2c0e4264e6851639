"""What approximates the inverse of an operator: preconditioners made for the system at hand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from .base import Operator

__all__ = ["Preconditioner", "prepared"]


class Preconditioner(ABC):
    r"""A recipe for an approximation :math:`M \approx S^{-1}`, made anew for each operator
    :math:`S` that a solver is called on.

    Solvers take a recipe, or a ready function of fields or operator. To spend the preparation
    once on many systems with one operator, call :meth:`prepare` yourself and give its result to
    the solver.

    Example:
        >>> import torch
        >>> from appa_prob.operators import CG, Diagonal, Jacobi
        >>> S = Diagonal(torch.tensor([1.0, 100.0]))
        >>> M = Jacobi().prepare(S)
        >>> CG(preconditioner=M)(S, torch.ones(2)).iterations
        tensor(1)
    """

    @abstractmethod
    def prepare(self, S: Operator) -> Callable[[Tensor], Tensor]:
        r"""Makes the approximation of :math:`S^{-1}`, a function of fields.

        Arguments:
            S: The operator :math:`S`.
        """


def prepared(
    preconditioner: Preconditioner | Callable[[Tensor], Tensor] | None, S: Operator
) -> Callable[[Tensor], Tensor] | None:
    r"""The approximation of :math:`S^{-1}` that a solver was given, or was given a recipe for.

    Arguments:
        preconditioner: A recipe, a function of fields, or None.
        S: The operator :math:`S`.
    """
    if isinstance(preconditioner, Preconditioner):
        return preconditioner.prepare(S)
    return preconditioner
