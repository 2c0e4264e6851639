r"""What Krylov solvers share: a batch of systems, flattened, with scalars and vectors in double
precision.

Products run in the type of :math:`b`; all arithmetic on their results in double precision, which
costs little, as the products cost much more, and keeps recurrences from stagnating before the
products themselves do. A residual found by recurrence is the true one up to the rounding of
products, which grows with :math:`\|S\| \|u\| / \|b\|`. Where it comes near that rounding it is
computed anew (see ``verify``).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Size, Tensor

from .base import Operator
from .innovation import InnovationCovariance
from .shapes import broadcast, over
from .solution import Solution
from .transforms import transformed

__all__ = ["System", "norm"]


class System:
    r"""A batch of systems :math:`S u = b`, flattened to vectors of length :math:`n`.

    Arguments:
        S: The operator :math:`S`, square.
        b: The right-hand sides, with shape :math:`(*, event)`.
        x0: A first guess, with shape :math:`(*, event)`, or None.
        rtol: The relative tolerance.

    Raises:
        ValueError: If :math:`S` isn't square, or if shapes don't fit.
        TypeError: If :math:`b` isn't a real floating tensor.
    """

    preconditioner: Callable[[Tensor], Tensor] | None = None

    def __init__(self, S: Operator, b: Tensor, x0: Tensor | None, rtol: float) -> None:
        self.S, self.event, self.total = S, S.out_shape, S.total
        batch = check_system(S, b, x0)
        self.full = Size((*batch, *self.event))
        self.flat = Size((*batch, self.event.numel()))
        self.dtype = b.dtype
        self.working = torch.float32 if b.device.type == "mps" else torch.float64
        self.eps = torch.finfo(b.dtype).eps
        self.b = self.flatten(b)
        size = self.length(self.b)
        # Tensors, since numbers become tensors anew in each operation.
        self.zero, self.one = size.new_zeros(()), size.new_ones(())
        self.nonzero = size != 0  # what isn't a number included, which nothing solves
        self.size = torch.where(self.nonzero, size, self.one)
        self.tolerance = max(rtol, 8 * self.eps) if rtol else 0.0
        self.limit = (self.tolerance * self.size).square()
        self.gain = torch.zeros_like(size)  # a lower bound of the norm of S
        self.lengths = size, size  # the norms of u and S u in the last product
        self.lifts = isinstance(S, InnovationCovariance)
        self.lifted_event = S.H.in_shape if isinstance(S, InnovationCovariance) else Size()

    def flatten(self, x: Tensor) -> Tensor:
        """A field as working vectors."""
        if x.shape != self.full:
            x = x.expand(self.full)
        return (x if self.full == self.flat else x.reshape(self.flat)).to(self.working)

    def field(self, u: Tensor) -> Tensor:
        """Working vectors as a field of the type of b."""
        u = u.to(self.dtype)
        return u if self.full == self.flat else u.reshape(self.full)

    def sum(self, numbers: Tensor) -> Tensor:
        """The sums of numbers over all processes that hold parts of the vectors."""
        return numbers if self.total is None else self.total(numbers)

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """The inner products of vectors."""
        return self.sum(dot(a, b))

    def length(self, a: Tensor) -> Tensor:
        """The norms of vectors, without a gradient, for what decides but isn't part of the
        solution."""
        return length(a) if self.total is None else self.dot(a.detach(), a.detach()).sqrt()

    def norm(self, a: Tensor) -> Tensor:
        """The norms of vectors, with a gradient of 0 at 0."""
        return root(self.dot(a, a))

    def start(self, x0: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """The first guess, its residual, and what it lifts to, None if the guess is 0."""
        if x0 is None:
            return torch.zeros_like(self.b), self.b, None
        x = torch.where(self.nonzero[..., None], self.flatten(x0), 0.0)
        product, lifted = self.product(x)
        return x, self.b - product, lifted

    def product(self, u: Tensor, measured: bool = True) -> tuple[Tensor, Tensor | None]:
        """The products S u, and V H^T u where S is an innovation covariance; unless it isn't
        measured, the norms of u and S u as well."""
        field = self.field(u)
        lifted = None
        if isinstance(self.S, InnovationCovariance):
            _, lifted = self.S.half(field)
            product = self.flatten(self.S.complete(field, lifted))
        else:
            product = self.flatten(self.S.forward(field))
        if measured:
            self.lengths = self.length(u), self.length(product)
            self.gain = torch.fmax(self.gain, self.lengths[1] / self.lengths[0])
        return product, lifted

    def precondition(self, r: Tensor) -> Tensor:
        """An approximation of S^-1 r."""
        return (
            r if self.preconditioner is None else self.flatten(self.preconditioner(self.field(r)))
        )

    def relative(self, r: Tensor) -> Tensor:
        """The relative norms of residuals, 0 where b is."""
        return self.length(r) / self.size

    def final(self, squares: list[Tensor], iterations: Tensor) -> Tensor:
        """The relative norms of the residuals with which systems stopped, of the squares of all
        of their norms: where iterations went on for others, r may have become anything."""
        return torch.stack(squares).gather(0, iterations[None])[0].sqrt() / self.size

    def square(self, r: Tensor) -> Tensor:
        """The squares of norms, without a gradient."""
        return self.dot(r.detach(), r.detach())

    def verified(self, x: Tensor, residual: Tensor) -> Tensor:
        """Residuals, computed anew if some are so small that rounding may hide in them."""
        rounding = 1e3 * self.eps * (1 + self.gain * self.length(x) / self.size)
        doubtful = self.nonzero & (residual < rounding)
        if transformed() or bool(doubtful.any()):
            return self.relative(self.b - self.product(x)[0])
        return residual

    def solution(
        self, x: Tensor, residual: Tensor, iterations: Tensor, lifted: Tensor | None
    ) -> Solution:
        """The solution, in the type of b."""
        if lifted is None and isinstance(self.S, InnovationCovariance):
            lifted = self.b.new_zeros(*self.flat[:-1], *self.lifted_event, dtype=self.dtype)
        residual = residual.to(self.dtype)
        return Solution(self.field(x), residual, iterations, residual <= self.tolerance, lifted)


def check_system(S: Operator, b: Tensor, x0: Tensor | None) -> Size:
    r"""Checks a batch of systems, and returns the shape of the batch.

    Arguments:
        S: The operator :math:`S`.
        b: The right-hand sides, with shape :math:`(*, event)`.
        x0: A first guess, with shape :math:`(*, event)`, or None.
    """
    if S.in_shape != S.out_shape:
        raise ValueError(
            f"expected a square operator, got {S!r}; solve least squares with LSMR or LSQR"
        )
    batch = broadcast(S.batch_shape, batch_of(b, S.out_shape, "right-hand side", S))
    return batch if x0 is None else broadcast(batch, batch_of(x0, S.in_shape, "first guess", S))


def batch_of(x: Tensor, event: Size, name: str, S: Operator) -> Size:
    r"""The shape of the batch of a field.

    Arguments:
        x: The field, with shape :math:`(*, event)`.
        event: The event shape.
        name: What the field is, for the error message.
        S: The operator that it is for.

    Raises:
        ValueError: If the field has another shape.
        TypeError: If it isn't a real floating tensor.
    """
    cut = x.ndim - len(event)
    if not x.is_floating_point():
        raise TypeError(f"expected a real floating {name} for {S!r}, got {x.dtype}")
    if cut < 0 or x.shape[cut:] != event:
        raise ValueError(
            f"expected a {name} for {S!r} of shape (*, {', '.join(map(str, event))}), got "
            f"{tuple(x.shape)}"
        )
    return x.shape[:cut]


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner products of vectors."""
    inner: Tensor = torch.linalg.vecdot(a, b)
    return inner


def length(a: Tensor) -> Tensor:
    """The norms of vectors, without a gradient."""
    size: Tensor = torch.linalg.vector_norm(a.detach() if a.requires_grad else a, dim=-1)
    return size


def norm(a: Tensor) -> Tensor:
    """The norms of vectors, with a gradient of 0 at 0."""
    return root(dot(a, a))


def root(square: Tensor) -> Tensor:
    """The square roots of numbers, with a gradient of 0 at 0."""
    if not square.requires_grad and not transformed():
        return square.sqrt()
    zero = square == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, square).sqrt())


def plus(x: Tensor, c: Tensor, y: Tensor, sign: int = 1) -> Tensor:
    """The vectors x + c y, or x - c y, with one number c a system."""
    return torch.addcmul(x, c.unsqueeze(-1), y, value=sign)


def hypotenuse(a: Tensor, b: Tensor) -> Tensor:
    """The lengths of (a, b), with a gradient of 0 at 0."""
    return root(torch.addcmul(a * a, b, b))


def safe(denominator: Tensor, usable: Tensor) -> Tensor:
    """Numbers to divide by, 1 where the result isn't used and its gradient would be infinite."""
    return torch.where(usable, denominator, 1.0) if denominator.requires_grad else denominator


def tally(steps: list[Tensor], like: Tensor) -> Tensor:
    """How many iterations each system took part in."""
    return torch.stack(steps).sum(0) if steps else torch.zeros_like(like, dtype=torch.int64)


def accumulate(
    total: Tensor | None, step: Tensor, field: Tensor | None, event: Size
) -> Tensor | None:
    r"""Adds multiples of fields, one number a system.

    Arguments:
        total: The sum so far, or None for 0.
        step: The numbers, with shape :math:`(*)`.
        field: The fields, with shape :math:`(*, event)`, or None for nothing to add.
        event: The event shape.
    """
    if field is None:
        return total
    term = over(step.to(field.dtype), event) * field
    return term if total is None else total + term
