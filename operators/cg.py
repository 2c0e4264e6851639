r"""Conjugate gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .innovation import InnovationCovariance
from .iterative import Iterate, KrylovSolver
from .krylov import System, accumulate, dot, plus, safe, tally
from .registry import register
from .shapes import flatten

__all__ = ["CG"]

MEASURED = 4  # products that measure the norm of S, as in power iterations


@register
@dataclass(frozen=True)
class CG(KrylovSolver):
    r"""Conjugate gradients for symmetric positive definite systems :math:`S u = b`.

    .. math::
        \alpha_k = \frac{r_k^T z_k}{p_k^T S p_k} \qquad
        u_{k+1} = u_k + \alpha_k p_k \qquad
        r_{k+1} = r_k - \alpha_k S p_k \qquad
        p_{k+1} = z_{k+1} + \frac{r_{k+1}^T z_{k+1}}{r_k^T z_k} p_k

    with :math:`z_k = M r_k` for a preconditioner :math:`M`. Every system of the batch stops by
    itself: at its tolerance, or where :math:`p^T S p \leq 0` shows that :math:`S` isn't positive
    definite, keeping its last iterate.

    For :math:`S = H V H^T + R` the products :math:`V H^T p_k` are kept and give
    ``Solution.lifted``. Unless the residual is to be verified, the last iteration makes no product
    with :math:`H`: the step needs :math:`\langle H^T p, V H^T p \rangle` only. The residuals of
    systems that took that step are then unknown (not a number).

    Arguments:
        rtol: The tolerance for :math:`\|b - S u\| / \|b\|`; at least 8 units of rounding unless it
            is 0.
        max_iterations: The largest number of iterations.
        preconditioner: The approximation :math:`M` of :math:`S^{-1}`, symmetric positive definite:
            a :class:`Preconditioner`, an operator or a function of fields.
        on_failure: What to do about systems that don't converge: ``"ignore"``, ``"warn"`` or
            ``"raise"``.
        verify: Whether to spend products on residuals alone: after the last step, and where
            rounding may hide in the recurrence; by default unless failures are ignored.
        check_interval: The number of iterations between looks at whether all systems are done,
            which make the host wait for the device; 0 for never. By default 1 on the CPU and 8
            elsewhere.

    Raises:
        ValueError: If :math:`S` isn't square or not declared symmetric, or if shapes don't fit.
        ConvergenceWarning: If a system doesn't converge, and ``on_failure`` is ``"raise"``.

    References:
        | Methods of Conjugate Gradients for Solving Linear Systems (Hestenes and Stiefel, 1952)
        | https://doi.org/10.6028/jres.049.044

    Example:
        >>> from appa_prob.operators import Diagonal
        >>> S = Diagonal(torch.tensor([1.0, 2.0, 4.0]))
        >>> CG()(S, torch.ones(3)).value
        tensor([1.0000, 0.5000, 0.2500])
    """

    needs_symmetry: ClassVar[bool] = True
    remedy: ClassVar[str] = (
        "raise max_iterations, give a preconditioner, or use MINRES if the operator is indefinite "
        "and GMRES if it is not symmetric"
    )

    def _iterate(self, system: System, x0: Tensor | None) -> Iterate:
        x, r, lifted = system.start(x0)
        plain = system.preconditioner is None
        p = system.precondition(r)
        rz = system.dot(r, p)
        squares = [rz.detach() if plain else system.square(r)]
        active = squares[0] > system.limit
        steps: list[Tensor] = []
        q: Tensor | None
        field: Tensor | None
        for k in range(self.max_iterations):
            if self.done(k, active):
                break
            if k + 1 == self.max_iterations and not self.verifies and system.lifts:
                curvature, q, field = _last(system, p)
            else:
                q, field = system.product(p, measured=k < MEASURED)
                curvature = system.dot(p, q)
            active = active & (curvature > 0)
            if not plain:
                active = active & (rz > 0)
            steps.append(active)
            step = torch.where(active, rz / safe(curvature, active), system.zero)
            x = plus(x, step, p)
            lifted = accumulate(lifted, step, field, system.lifted_event)
            if q is None:
                squares.append(torch.full_like(rz, torch.nan))
                break
            r = plus(r, step, q, -1)
            z = system.precondition(r)
            rz, previous = system.dot(r, z), rz
            squares.append(rz.detach() if plain else system.square(r))
            active = active & (squares[-1] > system.limit)
            p = plus(z, rz / safe(previous, active), p)
            p = torch.where(active.unsqueeze(-1), p, system.zero)
        iterations = tally(steps, active)
        return x, system.final(squares, iterations), iterations, lifted


def _last(system: System, p: Tensor) -> tuple[Tensor, None, Tensor]:
    """The curvature p^T S p and V H^T p, without the product with H, and so without S p."""
    assert isinstance(system.S, InnovationCovariance)
    field = system.field(p)
    back, lifted = system.S.half(field)
    inner = dot(*(flatten(a, system.lifted_event).to(system.working) for a in (back, lifted)))
    curvature = system.sum(inner + dot(p, system.flatten(system.S.R.forward(field))))
    return curvature, None, lifted
