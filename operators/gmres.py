r"""The generalised minimal residual method."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .iterative import Iterate, KrylovSolver
from .krylov import System, accumulate, hypotenuse, plus
from .matvec import matvec
from .registry import register

__all__ = ["GMRES"]


@register
@dataclass(frozen=True)
class GMRES(KrylovSolver):
    r"""The generalised minimal residual method for any square systems :math:`S u = b`.

    After :math:`k` iterations

    .. math:: u_k = \arg \min_{u \in u_0 + \mathcal{K}_k} \|b - S u\| \qquad
        \mathcal{K}_k = \mathrm{span} \{ M r_0, (M S) M r_0, \dots, (M S)^{k-1} M r_0 \}

    for a preconditioner :math:`M`, applied from the right, so that residuals stay the true ones.
    They never grow, whether :math:`S` is symmetric, definite or neither. Every system of the batch
    stops by itself: at its tolerance, or where its Krylov space is exhausted.

    Restarted after every :math:`m` iterations, GMRES(m) keeps :math:`m` vectors at most. Each
    cycle starts from the true residual, at the cost of one product, and may stagnate where a
    single long cycle wouldn't.

    For :math:`S = H V H^T + R` the products :math:`V H^T z` of the basis are kept and give
    ``Solution.lifted``.

    Arguments:
        rtol: The tolerance for :math:`\|b - S u\| / \|b\|`; at least 8 units of rounding unless it
            is 0.
        max_iterations: The largest number of iterations, over all cycles.
        restart: The number :math:`m` of iterations in a cycle, which is also that of vectors kept;
            by default all are in one.
        preconditioner: The approximation :math:`M` of :math:`S^{-1}`: a :class:`Preconditioner`,
            an operator or a function of fields. It may vary.
        on_failure: What to do about systems that don't converge: ``"ignore"``, ``"warn"`` or
            ``"raise"``.
        verify: Whether to compute residuals anew where rounding may hide in the recurrence, at the
            cost of one product; by default unless failures are ignored.
        check_interval: The number of iterations between looks at whether all systems are done,
            which make the host wait for the device; 0 for never. By default 1 on the CPU and 8
            elsewhere.

    Raises:
        ValueError: If :math:`S` isn't square, or if shapes don't fit.
        ConvergenceWarning: If a system doesn't converge, and ``on_failure`` is ``"raise"``.

    References:
        | GMRES: A Generalized Minimal Residual Algorithm for Solving Nonsymmetric Linear Systems
        (Saad and Schultz, 1986) | https://doi.org/10.1137/0907058

    Example:
        >>> from appa_prob.operators import Dense
        >>> S = Dense(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
        >>> GMRES()(S, torch.tensor([3.0, 1.0])).value
        tensor([1., 1.])
    """

    max_iterations: int = 20
    restart: int | None = None

    remedy: ClassVar[str] = (
        "raise max_iterations or restart, give a preconditioner, or loosen rtol if products are "
        "in single precision"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.restart is not None and self.restart < 1:
            raise ValueError(f"expected restart >= 1 or None, got {self.restart}")

    def _iterate(self, system: System, x0: Tensor | None) -> Iterate:
        x, r, lifted = system.start(x0)
        size = self.max_iterations if self.restart is None else self.restart
        iterations = torch.zeros_like(system.nonzero, dtype=torch.int64)
        for start in range(0, self.max_iterations, size):
            if start:
                r = system.b - system.product(x)[0]
            space = self._explore(system, r, start, min(start + size, self.max_iterations))
            coefficients = space.coefficients()
            for j, z in enumerate(space.directions):
                step = coefficients[..., j]
                x = plus(x, step, z)
                lifted = accumulate(lifted, step, space.lifted[j], system.lifted_event)
            iterations = iterations + space.iterations
            if not space.directions:
                break
        return x, space.residual, iterations, lifted

    def _explore(self, system: System, r: Tensor, first: int, last: int) -> Space:
        """Builds the Krylov space of a residual, by the process of Arnoldi."""
        space = Space(system, r)
        for k in range(first, last):
            if self.done(k, space.active):
                break
            z = system.precondition(space.basis[-1])
            product, lifted = system.product(z)
            space.extend(z, product, lifted)
        return space


@dataclass
class Space:
    r"""A Krylov space with the QR factorisation of its Hessenberg matrix, a batch of them.

    The relation of Arnoldi is :math:`S Z_k = Q_{k+1} \bar{H}_k`. Rotations :math:`G_k` make
    :math:`G_k \bar{H}_k` triangular, and :math:`\|r_0\| \, G_k e_1` holds the right-hand side and,
    last, the norm of the residual. A system that is done gets columns of the identity and
    coefficients of 0 from there on.

    Arguments:
        system: The systems.
        r: The first residuals, with shape :math:`(*, n)`.
    """

    system: System
    r: Tensor
    basis: list[Tensor] = field(default_factory=list)
    directions: list[Tensor] = field(default_factory=list)
    lifted: list[Tensor | None] = field(default_factory=list)
    columns: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        system, r = self.system, self.r
        self.start = system.norm(r)
        self.residual = torch.where(system.nonzero, self.start / system.size, 0.0)
        self.active = self.residual > system.tolerance
        self.iterations = torch.zeros_like(self.active, dtype=torch.int64)
        self.basis.append(_normalised(r, self.start, self.active))
        self.rotations = torch.ones_like(self.start)[..., None, None]

    def extend(self, z: Tensor, w: Tensor, lifted: Tensor | None) -> None:
        """Adds a direction z with its product w = S z."""
        j, size = len(self.directions), self.system.lengths[1]
        Q = torch.stack(self.basis, dim=-2)
        h = Q.new_zeros(Q.shape[:-1])
        for _ in range(2):  # once more, for what rounding left
            part = self.system.sum(matvec(Q, w))
            w = w - matvec(Q.mT, part)
            h = h + part
        eps = torch.finfo(w.dtype).eps
        rest = self.system.norm(w)
        rest = torch.where(rest > 10 * eps * size, rest, 0.0)
        column = matvec(self.rotations, h)
        last = column[..., j]
        radius = hypotenuse(last, rest)
        usable = self.active & (radius > eps * size) & (radius < torch.inf)
        safe = torch.where(usable, radius, 1.0)
        cosine, sine = torch.where(usable, last / safe, 0.0), torch.where(usable, rest / safe, 1.0)
        self._rotate(cosine, sine)
        column = torch.cat((column[..., :j], safe[..., None]), dim=-1)
        unit = torch.zeros_like(column)
        unit[..., j] = 1.0
        self.columns.append(torch.where(usable[..., None], column, unit))
        self.directions.append(z)
        self.lifted.append(lifted)
        self.iterations = self.iterations + usable
        residual = self.start * self.rotations[..., -1, 0].abs() / self.system.size
        self.residual = torch.where(usable, residual, self.residual)
        self.active = usable & (residual > self.system.tolerance) & (rest > 0)
        self.basis.append(_normalised(w, rest, self.active))

    def coefficients(self) -> Tensor:
        """The coefficients of the directions in the solution, with shape (*, k)."""
        k = len(self.columns)
        if k == 0:
            return self.start.new_zeros(*self.start.shape, 0)
        padded = [
            torch.nn.functional.pad(column, (0, k - column.shape[-1])) for column in self.columns
        ]
        target = self.start[..., None, None] * self.rotations[..., :k, :1]
        triangle = torch.stack(padded, dim=-1)
        solution: Tensor = torch.linalg.solve_triangular(triangle, target, upper=True)
        return solution[..., 0]

    def _rotate(self, cosine: Tensor, sine: Tensor) -> None:
        """Appends the rotation that turns the last entry of the new column into the one before."""
        above, last = self.rotations[..., :-1, :], self.rotations[..., -1:, :]
        c, s = cosine[..., None, None], sine[..., None, None]
        self.rotations = torch.cat(
            (
                torch.nn.functional.pad(above, (0, 1)),
                torch.cat((c * last, s), dim=-1),
                torch.cat((-s * last, c), dim=-1),
            ),
            dim=-2,
        )


def _normalised(w: Tensor, size: Tensor, active: Tensor) -> Tensor:
    return torch.where(active[..., None], w / torch.where(active, size, 1.0)[..., None], 0.0)
