"""Preconditioning of a system of observations by that of a simpler covariance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from .base import Operator
from .cholesky import Cholesky
from .innovation import InnovationCovariance
from .preconditioner import Preconditioner
from .registry import register
from .solution import Solver

__all__ = ["Surrogate"]


@register
@dataclass(frozen=True)
class Surrogate(Preconditioner):
    r"""Preconditioning of :math:`S = H V H^T + R` by a covariance :math:`V_0` whose products are
    cheap.

    .. math:: M \approx (H V_0 H^T + R)^{-1}

    What makes these systems hard, that observations of one field repeat each other and that some
    are much more exact than others, is in :math:`H`, :math:`R` and the large scales of :math:`V`.
    Where a product with :math:`V` takes a pass through a network, as that of
    :class:`TweedieCovariance` does, a good :math:`V_0`, such as the climatological covariance
    given the noise level, saves most of these passes.

    Arguments:
        covariance: The covariance :math:`V_0`, or a function that makes it from :math:`S`, as
            ``GaussianDenoiser.surrogate`` does from the time of a :class:`TweedieCovariance`.
        solver: What solves the systems of the surrogate. By default a dense factorisation, made
            once for each :math:`S`. For more observations give a few iterations of :class:`CG`,
            and use :class:`GMRES` outside, which allows for what varies.

    Raises:
        TypeError: If :math:`S` isn't an :class:`InnovationCovariance`.
        ValueError: If shapes don't fit, or if there are too many observations for the solver.

    Example:
        >>> import torch
        >>> from appa_prob.operators import CG, Dense, Diagonal, Identity, Isotropic
        >>> V = Dense(torch.diag(torch.logspace(0, 3, 20)) + 0.1, symmetric=True)
        >>> S = InnovationCovariance(Identity(20), V, Isotropic(0.1, 20))
        >>> M = Surrogate(Diagonal(torch.logspace(0, 3, 20)))
        >>> CG(preconditioner=M)(S, torch.ones(20)).iterations < 5
        tensor(True)
    """

    covariance: Operator | Callable[[InnovationCovariance], Operator]
    solver: Solver = field(default_factory=lambda: Cholesky(on_failure="ignore"))

    def prepare(self, S: Operator) -> Callable[[Tensor], Tensor]:
        if not isinstance(S, InnovationCovariance):
            raise TypeError(
                f"Surrogate needs a system H V H^T + R, an InnovationCovariance, got {S!r}; use "
                "Nystrom or PivotedCholesky"
            )
        V = self.covariance
        simple = InnovationCovariance(S.H, V if isinstance(V, Operator) else V(S), S.R)
        return lambda r: self.solver(simple, r).value
