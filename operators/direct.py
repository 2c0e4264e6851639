r"""Solves by the structure of the operator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Operator
from .krylov import System
from .solution import Solution

__all__ = ["Direct"]


@dataclass(frozen=True)
class Direct:
    r"""Solves :math:`S u = b` by ``S.solve``: exactly, where the operator has a structure for it,
    as diagonals have, else by a dense factorisation, if it is small.

    Arguments:
        rtol: The tolerance for :math:`\|b - S u\| / \|b\|`, to tell what has converged.

    Raises:
        ValueError: If :math:`S` isn't symmetric positive definite, or too large for a dense
            factorisation, or if shapes don't fit.

    Example:
        >>> from appa_prob.operators import Diagonal
        >>> Direct()(Diagonal(torch.tensor([1.0, 2.0])), torch.ones(2)).value
        tensor([1.0000, 0.5000])
    """

    rtol: float = 1e-4

    def __call__(self, S: Operator, b: Tensor, x0: Tensor | None = None) -> Solution:
        r"""Solves a batch of systems.

        Arguments:
            S: The operator :math:`S`.
            b: The right-hand sides, with shape :math:`(*, event)`.
            x0: Ignored: a direct solve needs no first guess.
        """
        system = System(S, b, None, self.rtol)
        x = system.flatten(S.solve(b))
        product, lifted = system.product(x)
        residual = system.relative(system.b - product)
        none = torch.zeros_like(residual, dtype=torch.int64)
        return system.solution(x, residual, none, lifted)
