r"""The minimal residual method for symmetric systems."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .iterative import Iterate, KrylovSolver
from .krylov import System, accumulate, hypotenuse, plus, safe, tally
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
        squares = [system.square(r)]
        lanczos = Lanczos(system, r)
        active = (squares[0] > system.limit) & (lanczos.beta > 0)
        zero = torch.zeros_like(system.size)
        cosine, sine, target = -torch.ones_like(zero), zero, lanczos.beta
        shift, above = zero, zero  # the entries of R that the next column starts from
        directions: list[Direction] = []
        steps: list[Tensor] = []
        for k in range(self.max_iterations):
            if self.done(k, active):
                break
            z, q, field, alpha, beta = lanczos.step(active)
            second = torch.addcmul(sine * alpha, cosine, shift)
            corner = torch.addcmul(sine * shift, cosine, alpha, value=-1)
            first, above, shift = above, sine * beta, -cosine * beta
            radius = hypotenuse(corner, beta)
            usable = active & (radius > system.eps * lanczos.scale) & (radius < torch.inf)
            length = torch.where(usable, radius, system.one)
            cosine, sine = torch.where(usable, corner / length, system.one), beta / length
            step, target = cosine * target, sine * target
            new = Direction(z, q, field)
            for weight, old in zip((second, first), reversed(directions), strict=False):
                new = new.minus(weight, old)
            new = new.over(length)
            # Singular systems that have no solution send x to infinity once r is the least.
            size = system.length(plus(x, step, new.z))
            usable = usable & (system.eps * system.gain * size <= 0.01 * system.size)
            step = torch.where(usable, step, system.zero)
            x, r = plus(x, step, new.z), plus(r, step, new.product, -1)
            lifted = accumulate(lifted, step, new.lifted, system.lifted_event)
            directions = [*directions[-1:], new]
            steps.append(usable)
            squares.append(system.square(r))
            active = usable & (squares[-1] > system.limit) & (beta > 0)
        iterations = tally(steps, active)
        return x, system.final(squares, iterations), iterations, lifted


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
        square, zero = self.system.dot(w, z), self.system.zero
        usable = usable & (square > 0)
        self.beta = torch.where(usable, safe(square, usable).sqrt(), zero)
        inverse = torch.where(usable, 1 / safe(self.beta, usable), zero).unsqueeze(-1)
        self.previous, self.v = self.v, inverse * w
        self.z = self.v if z is w else inverse * z

    def step(self, active: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]:
        """The vector z, its product S z, V H^T z, and the next alpha and beta."""
        z = self.z
        q, field = self.system.product(z)
        alpha = self.system.dot(z, q)
        w = plus(plus(q, alpha, self.v, -1), self.beta, self.previous, -1)
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
        z = plus(self.z, weight, other.z, -1)
        return Direction(z, plus(self.product, weight, other.product, -1), lifted)

    def over(self, size: Tensor) -> Direction:
        """Divides by a number."""
        lifted = self.lifted
        if lifted is not None:
            lifted = lifted / over(size.to(lifted.dtype), lifted.shape[size.ndim :])
        return Direction(self.z / size[..., None], self.product / size[..., None], lifted)
