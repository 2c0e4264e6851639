r"""Direct solves by a dense factorisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Operator
from .dense import LIMIT, matrix
from .innovation import InnovationCovariance
from .krylov import System
from .matvec import cholesky_solve
from .registry import register
from .solution import OnFailure, Solution, check_options, report

__all__ = ["Cholesky"]


@register
@dataclass(frozen=True)
class Cholesky:
    r"""The factorisation :math:`S = L L^T` of the dense matrix, for small symmetric positive
    definite systems.

    The matrix costs :math:`n` products with :math:`S`. The factorisation sees one triangle of it;
    the residual, computed with the whole matrix, tells whether :math:`S` is as symmetric as it
    claims. Where :math:`S` isn't positive definite the value is 0, and the system counts as not
    converged.

    Arguments:
        rtol: The tolerance for :math:`\|b - S u\| / \|b\|`.
        on_failure: What to do about systems that don't converge: ``"ignore"``, ``"warn"`` or
            ``"raise"``.
        limit: The largest number of rows.

    Raises:
        ValueError: If :math:`S` isn't square, not declared symmetric, or too large, or if shapes
            don't fit.
        ConvergenceWarning: If a system doesn't converge, and ``on_failure`` is ``"raise"``.

    Example:
        >>> from appa_prob.operators import Dense
        >>> S = Dense(torch.tensor([[2.0, 1.0], [1.0, 2.0]]), symmetric=True)
        >>> Cholesky()(S, torch.tensor([3.0, 3.0])).value
        tensor([1., 1.])
    """

    rtol: float = 1e-4
    on_failure: OnFailure = "warn"
    limit: int = LIMIT

    def __post_init__(self) -> None:
        check_options(self.rtol, 1, self.on_failure, None)

    def __call__(self, S: Operator, b: Tensor, x0: Tensor | None = None) -> Solution:
        r"""Solves a batch of systems.

        Arguments:
            S: The operator :math:`S`, declared symmetric.
            b: The right-hand sides, with shape :math:`(*, event)`.
            x0: Ignored: a direct solve needs no first guess.
        """
        if S.total is not None:
            raise ValueError(
                f"Cholesky needs a whole matrix, got {S!r}, of which several processes hold "
                "parts; use CG, or GMRES if it isn't symmetric"
            )
        system = System(S, b, None, self.rtol)
        if not S.symmetric or S.shape[-1] > self.limit:
            raise ValueError(
                f"Cholesky needs a symmetric operator of at most {self.limit} rows, got {S!r}; "
                "use CG, GMRES if it isn't symmetric, or a larger limit"
            )
        if isinstance(S, InnovationCovariance):
            factor, info = S.factor
        else:
            factor, info = torch.linalg.cholesky_ex(matrix(S).to(system.working))
        definite = (info == 0)[..., None, None]
        eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        b = torch.where(definite[..., 0], system.b, 0.0)
        x = cholesky_solve(torch.where(definite, factor, eye), b)
        lifted: Tensor | None
        if isinstance(S, InnovationCovariance) and S.V.symmetric:
            # The rows that the matrix was made of spare one more product with V.
            lifted = S.lift(system.field(x))
            product = system.flatten(S.complete(system.field(x), lifted))
        else:
            product, lifted = system.product(x)
        residual = system.relative(system.b - product)
        solution = system.solution(
            x, residual, torch.zeros_like(residual, dtype=torch.int64), lifted
        )
        return report(
            solution,
            "Cholesky",
            self.rtol,
            self.on_failure,
            "the operator isn't symmetric positive definite, or nearly singular; use GMRES",
        )
