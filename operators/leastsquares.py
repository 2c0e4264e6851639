r"""What solvers of least-squares problems share: the problem, and its bidiagonalisation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Size, Tensor

from .base import Operator
from .iterative import Iterative
from .krylov import batch_of, length, norm, plus, safe
from .shapes import broadcast, flatten, unflatten
from .solution import Solution, report

__all__ = ["Bidiagonal", "LeastSquaresSolver", "Problem", "rotation"]


class Problem:
    r"""A batch of least-squares problems :math:`\min_x \|A x - b\|`, flattened to vectors.

    Products run in the type of :math:`b`, all arithmetic on their results in double precision.

    Arguments:
        A: The operator :math:`A`, of any shape.
        b: The right-hand sides, with shape :math:`(*, out)`.
        x0: A first guess, with shape :math:`(*, in)`, or None.
        rtol: The relative tolerance.

    Raises:
        ValueError: If shapes don't fit.
        TypeError: If :math:`b` isn't a real floating tensor.
    """

    def __init__(self, A: Operator, b: Tensor, x0: Tensor | None, rtol: float) -> None:
        self.A, self.dtype = A, b.dtype
        batch = broadcast(A.batch_shape, batch_of(b, A.out_shape, "right-hand side", A))
        if x0 is not None:
            batch = broadcast(batch, batch_of(x0, A.in_shape, "first guess", A))
        self.batch = batch
        self.working = torch.float32 if b.device.type == "mps" else torch.float64
        self.eps = torch.finfo(b.dtype).eps
        self.rtol = rtol
        self.b = self.flatten(b, A.out_shape)
        gradient = self.adjoint(self.b)
        self.size = length(gradient)
        self.nonzero = self.size != 0  # what isn't a number included, which nothing solves
        divisor = torch.where(self.nonzero, self.size, 1.0)
        self.divisor = torch.where(divisor < torch.inf, divisor, torch.nan)
        self.floor = 8 * self.eps * length(self.b) / self.divisor
        self.x, self.r = torch.zeros_like(gradient), self.b
        if x0 is not None:
            self.x = torch.where(self.nonzero[..., None], self.flatten(x0, A.in_shape), 0.0)
            self.r = self.b - self.forward(self.x)

    def flatten(self, x: Tensor, event: Size) -> Tensor:
        """A field as working vectors."""
        if x.shape != (*self.batch, *event):
            x = x.expand(*self.batch, *event)
        return flatten(x, event).to(self.working)

    def field(self, x: Tensor, event: Size) -> Tensor:
        """Working vectors as a field of the type of b."""
        return unflatten(x.to(self.dtype), event)

    def forward(self, x: Tensor) -> Tensor:
        """The products A x."""
        return self.flatten(self.A.forward(self.field(x, self.A.in_shape)), self.A.out_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        """The products A^T y."""
        return self.flatten(self.A.adjoint(self.field(y, self.A.out_shape)), self.A.in_shape)

    def relative(self, gradient: Tensor) -> Tensor:
        """The norms of A^T r relative to those of A^T b, 0 where these are."""
        return gradient / self.divisor

    def tolerance(self, scale: Tensor) -> Tensor:
        """The tolerance: what was asked for, or the rounding of one product with A."""
        return torch.clamp_min(self.floor * scale, self.rtol) if self.rtol else 0.0 * scale

    def gradient(self, x: Tensor) -> Tensor:
        """The relative norms of A^T (b - A x), computed anew."""
        return self.relative(length(self.adjoint(self.b - self.forward(x))))


@dataclass(frozen=True)
class LeastSquaresSolver(Iterative, ABC):
    """A solver of least-squares problems, a batch of them, each of which stops by itself."""

    remedy: ClassVar[str] = (
        "raise max_iterations, scale the columns of A to one size, or loosen rtol if products are "
        "in single precision"
    )

    def __call__(self, A: Operator, b: Tensor, x0: Tensor | None = None) -> Solution:
        r"""Solves a batch of problems.

        Arguments:
            A: The operator :math:`A`, of any shape.
            b: The right-hand sides, with shape :math:`(*, out)`.
            x0: A first guess, with shape :math:`(*, in)`; by default 0. Where the problem has many
                solutions, the one nearest to it is found.
        """
        problem = Problem(A, b, x0, self.rtol)
        process = Bidiagonal(problem)
        x, residual, iterations = self._iterate(problem, process)
        if self.verifies:
            residual = problem.gradient(x)
        solution = Solution(
            problem.field(x, A.in_shape),
            residual.to(b.dtype),
            iterations,
            residual <= problem.tolerance(process.scale),
        )
        return report(solution, type(self).__name__, self.rtol, self.on_failure, self.remedy)

    @abstractmethod
    def _iterate(self, problem: Problem, process: Bidiagonal) -> tuple[Tensor, Tensor, Tensor]:
        """The solution, the relative norm of A^T r, and the number of iterations."""


class Bidiagonal:
    r"""The process of Golub and Kahan: the lower bidiagonal matrix of :math:`A` in two orthonormal
    bases.

    .. math:: \beta_{k+1} \, u_{k+1} = A v_k - \alpha_k u_k \qquad
        \alpha_{k+1} \, v_{k+1} = A^T u_{k+1} - \beta_{k+1} v_k

    It starts from :math:`\beta_1 u_1 = b - A x_0`. Where one of the numbers is 0 up to rounding,
    the bases are complete: the number is set to 0, and so is all that follows.

    Arguments:
        problem: The problems.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.u, self.beta = normalised(problem.r, problem.nonzero)
        self.v, self.alpha = normalised(problem.adjoint(self.u), problem.nonzero)
        self.scale = self.alpha

    def step(self, active: Tensor) -> None:
        """Extends the bases of the active problems by one vector each."""
        q = self.problem.forward(self.v)
        self.u, self.beta = normalised(plus(q, self.alpha, self.u, -1), active, length(q))
        q = self.problem.adjoint(self.u)
        column = torch.hypot(self.alpha, self.beta).detach()
        self.scale = torch.fmax(self.scale, column)
        self.v, self.alpha = normalised(plus(q, self.beta, self.v, -1), active, length(q))


def normalised(w: Tensor, active: Tensor, size: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    r"""Unit vectors, and the norms that they had; both 0 where only rounding is left.

    Arguments:
        w: The vectors, with shape :math:`(*, n)`.
        active: Whether there is to be a vector, with shape :math:`(*)`.
        size: The norms of what the vectors are differences from, with shape :math:`(*)`.
    """
    long, zero = norm(w), w.new_zeros(())
    usable = active & (long > 10 * torch.finfo(w.dtype).eps * size) & (long < torch.inf)
    units = torch.where(usable.unsqueeze(-1), w / safe(long, usable).unsqueeze(-1), zero)
    return units, torch.where(usable, long, zero)


def rotation(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The cosine and the sine of the rotation that takes (a, b) to (r, 0), and r."""
    r, one = torch.hypot(a, b), a.new_ones(())
    positive = r > 0
    length = torch.where(positive, r, one)
    return torch.where(positive, a / length, one), b / length, r
