r"""The minimal residual method for symmetric systems."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .iterative import Iterate, KrylovSolver
from .krylov import System, accumulate, norm
from .registry import register
from .shapes import over

__all__ = ["MINRES"]


@register
@dataclass(frozen=True)
class MINRES(KrylovSolver):
    r"""The minimal residual method for symmetric systems :math:`S u = b`, definite or not.

    After :math:`k` iterations

    .. math:: u_k = \arg \min_{u \in u_0 + \mathcal{K}_k} \|b - S u\|_M \qquad
        \mathcal{K}_k = \mathrm{span} \{ M r_0, (M S) M r_0, \dots, (M S)^{k-1} M r_0 \}

    for a preconditioner :math:`M`, the identity by default, and :math:`\|r\|_M^2 = r^T M r`. Three
    vectors and their products are kept, however many iterations there are: it does in constant
    memory what GMRES does for symmetric systems. The products give the true residual, whose
    Euclidean norm the tolerance is for. Every system of the batch stops by itself: at its
    tolerance, or where its Krylov space is exhausted, as that of a singular system is where
    :math:`\|b - S u\|` can't become smaller.

    For :math:`S = H V H^T + R` the products :math:`V H^T z` are kept too and give
    ``Solution.lifted``.

    Arguments:
        rtol: The tolerance for :math:`\|b - S u\| / \|b\|`; at least 8 units of rounding unless it
            is 0.
        max_iterations: The largest number of iterations.
        preconditioner: The approximation :math:`M` of :math:`S^{-1}`, or of :math:`|S|^{-1}`,
            symmetric positive definite: a :class:`Preconditioner`, an operator or a function of
            fields.
        on_failure: What to do about systems that don't converge: ``"ignore"``, ``"warn"`` or
            ``"raise"``.
        verify: Whether to compute residuals anew where rounding may hide in the recurrence, at the
            cost of one product; by default unless failures are ignored.
        check_interval: The number of iterations between looks at whether all systems are done,
            which make the host wait for the device; 0 for never. By default 1 on the CPU and 8
            elsewhere.

    Raises:
        ValueError: If :math:`S` isn't square or not declared symmetric, or if shapes don't fit.
        ConvergenceWarning: If a system doesn't converge, and ``on_failure`` is ``"raise"``.

    References:
        | Solution of Sparse Indefinite Systems of Linear Equations (Paige and Saunders, 1975)
        | https://doi.org/10.1137/0712047

    Example:
        >>> from appa_prob.operators import Diagonal
        >>> S = Diagonal(torch.tensor([1.0, -2.0, 4.0]))
        >>> MINRES()(S, torch.ones(3)).value
        tensor([ 1.0000, -0.5000,  0.2500])
    """

    needs_symmetry: ClassVar[bool] = True
    remedy: ClassVar[str] = (
        "raise max_iterations, give a positive definite preconditioner, or use GMRES if the "
        "operator is not quite symmetric"
    )

    def _iterate(self, system: System, x0: Tensor | None) -> Iterate:
        x, r, lifted = system.start(x0)
        residual = system.relative(r)
        active = residual > system.tolerance
        iterations = torch.zeros_like(active, dtype=torch.int64)
        lanczos = Lanczos(system, r)
        active = active & (lanczos.beta > 0)
        zero = torch.zeros_like(residual)
        cosine, sine, target = -torch.ones_like(residual), zero, lanczos.beta
        shift, above = zero, zero  # the entries of R that the next column starts from
        steps: list[Direction] = []
        for k in range(self.max_iterations):
            if self.done(k, active):
                break
            z, q, field, alpha, beta = lanczos.step(active)
            second = cosine * shift + sine * alpha
            corner = sine * shift - cosine * alpha
            first, above, shift = above, sine * beta, -cosine * beta
            radius = norm(torch.stack((corner, beta), dim=-1))
            usable = active & (radius > system.eps * lanczos.scale) & radius.isfinite()
            safe = torch.where(usable, radius, 1.0)
            cosine, sine = torch.where(usable, corner / safe, 1.0), beta / safe
            step, target = cosine * target, sine * target
            new = Direction(z, q, field)
            for weight, old in zip((second, first), reversed(steps), strict=False):
                new = new.minus(weight, old)
            new = new.over(safe)
            # Singular systems that have no solution send x to infinity once r is the least.
            size = system.length(x + step[..., None] * new.z)
            usable = usable & (system.eps * system.gain * size <= 0.01 * system.size)
            step = torch.where(usable, step, 0.0)
            x = x + step[..., None] * new.z
            r = r - step[..., None] * new.product
            lifted = accumulate(lifted, step, new.lifted, system.lifted_event)
            steps = [*steps[-1:], new]
            iterations = iterations + usable
            residual = torch.where(usable, system.relative(r), residual)
            active = usable & (residual > system.tolerance) & (beta > 0)
        return x, residual, iterations, lifted


class Lanczos:
    r"""The process of Lanczos: the tridiagonal matrix of :math:`S` in a basis that is orthonormal
    with respect to a preconditioner.

    .. math:: \beta_{k+1} \, v_{k+1} = S z_k - \alpha_k v_k - \beta_k v_{k-1} \qquad z_k = M v_k
        \qquad v_j^T M v_k = \delta_{jk}

    Arguments:
        system: The systems.
        r: The residuals to start from, with shape :math:`(*, n)`.
    """

    def __init__(self, system: System, r: Tensor) -> None:
        self.system = system
        self.scale = torch.zeros_like(system.size)
        self.v = torch.zeros_like(r)
        self._follow(r, torch.ones_like(system.nonzero))

    def _follow(self, w: Tensor, usable: Tensor) -> None:
        """Normalises what follows; beta is 0 where nothing does."""
        z = self.system.precondition(w)
        square = self.system.dot(w, z)
        usable = usable & (square > 0)
        self.beta = torch.where(usable, torch.where(usable, square, 1.0).sqrt(), 0.0)
        inverse = torch.where(usable, 1 / torch.where(usable, self.beta, 1.0), 0.0)[..., None]
        self.previous, self.v, self.z = self.v, inverse * w, inverse * z

    def step(self, active: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]:
        """The vector z, its product S z, V H^T z, and the next alpha and beta."""
        z = self.z
        q, field = self.system.product(z)
        alpha = self.system.dot(z, q)
        w = q - alpha[..., None] * self.v - self.beta[..., None] * self.previous
        self.scale = torch.fmax(self.scale, alpha.detach().abs())
        eps = torch.finfo(w.dtype).eps
        self._follow(w, active & (self.system.length(w) > 10 * eps * self.system.lengths[1]))
        return z, q, field, alpha, self.beta


class Direction:
    r"""A direction of search with what its products are, all linear in it.

    Arguments:
        z: The vectors, with shape :math:`(*, n)`.
        product: The products :math:`S z`, with shape :math:`(*, n)`.
        lifted: The fields :math:`V H^T z`, or None.
    """

    def __init__(self, z: Tensor, product: Tensor, lifted: Tensor | None) -> None:
        self.z, self.product, self.lifted = z, product, lifted

    def minus(self, weight: Tensor, other: Direction) -> Direction:
        """Subtracts a multiple of another direction."""
        lifted = self.lifted
        if lifted is not None and other.lifted is not None:
            event = lifted.shape[weight.ndim :]
            lifted = lifted - over(weight.to(lifted.dtype), event) * other.lifted
        w = weight[..., None]
        return Direction(self.z - w * other.z, self.product - w * other.product, lifted)

    def over(self, size: Tensor) -> Direction:
        """Divides by a number."""
        lifted = self.lifted
        if lifted is not None:
            lifted = lifted / over(size.to(lifted.dtype), lifted.shape[size.ndim :])
        return Direction(self.z / size[..., None], self.product / size[..., None], lifted)
