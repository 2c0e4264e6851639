r"""Products, sums, multiples and adjoints of operators.

The classes hold what they are given. Expressions are made by the functions of :mod:`.algebra`,
which simplify them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Size, Tensor

from .arguments import common_dtype
from .base import Operator
from .dense import LIMIT, draw
from .elementary import Diagonal, Scaling
from .kept import kept
from .registry import register
from .scatter import add_multiple, adjoint_sum
from .shapes import broadcast, over
from .transforms import holds

__all__ = ["Adjoint", "Composition", "Scaled", "Sum"]


@register
class Composition(Operator):
    r"""The product :math:`A_1 A_2 \cdots A_k`, the last factor applied first.

    Arguments:
        factors: The factors, from left to right.

    Raises:
        ValueError: If there is no factor, or if the outputs of one aren't inputs of its left
            neighbour.
        TypeError: If operators of two floating types meet.

    Example:
        >>> from appa_prob.operators import Diagonal, Mask
        >>> Mask(torch.tensor([True, False])) @ Diagonal(torch.ones(2))
        Mask((2,) -> (1,)) @ Diagonal((2,))
    """

    def __init__(self, *factors: Operator) -> None:
        check_chain(factors)
        self.factors = factors
        super().__init__(
            factors[-1].in_shape,
            factors[0].out_shape,
            batch_shape=broadcast(*(f.batch_shape for f in factors)),
            symmetric=palindrome(factors),
        )
        self._dtype = common_dtype(factors)

    def forward(self, x: Tensor) -> Tensor:
        for factor in reversed(self.factors):
            x = factor.forward(x)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        for factor in self.factors:
            y = factor.adjoint(y)
        return y

    def add_adjoint(self, y: Tensor, x: Tensor) -> Tensor:
        for factor in self.factors[:-1]:
            y = factor.adjoint(y)
        return self.factors[-1].add_adjoint(y, x)

    @property
    def scatters(self) -> bool:  # type: ignore[override]
        """Whether the factor that is applied first does."""
        return self.factors[-1].scatters

    def _transposed(self) -> Operator:
        return Composition(*(f.T for f in reversed(self.factors)))

    def _mirrors(self, other: Operator) -> bool:
        return isinstance(other, Composition) and mirrored(self.factors, other.factors[::-1])

    def __repr__(self) -> str:
        return " @ ".join(map(enclosed, self.factors))


@register
class Sum(Operator):
    r"""The sum :math:`A_1 + A_2 + \dots + A_k`.

    A sum of covariances is sampled term by term, if each of them has a structure to sample from,
    or if the events are too large for a dense factorisation.

    Arguments:
        terms: The terms.

    Raises:
        ValueError: If there is no term, or if their shapes differ.
        TypeError: If operators of two floating types meet.

    Example:
        >>> from appa_prob.operators import Dense, Diagonal
        >>> Diagonal(torch.ones(2)) + Dense(torch.ones(2, 2), symmetric=True)
        Diagonal((2,)) + Dense((2,))
    """

    def __init__(self, *terms: Operator) -> None:
        check_terms(terms)
        self.terms = terms
        super().__init__(
            terms[0].in_shape,
            terms[0].out_shape,
            batch_shape=broadcast(*(t.batch_shape for t in terms)),
            symmetric=all(t.symmetric for t in terms),
        )
        self._dtype = common_dtype(terms)

    def forward(self, x: Tensor) -> Tensor:
        y = self.terms[0].forward(x)
        for i, term in enumerate(self.terms[1:]):
            c: float = 1
            if (
                isinstance(term, Scaled)
                and isinstance(term.scale, float)
                and y.is_floating_point()
            ):
                c, term = term.scale, term.operator
            y = add_multiple(y, term.forward(x), c, owned=i > 0)
        return y

    def adjoint(self, y: Tensor) -> Tensor:
        return adjoint_sum((term, y) for term in self.terms)

    def sample(
        self, shape: Sequence[int] = (), generator: torch.Generator | None = None
    ) -> Tensor:
        if self.shape[-1] <= LIMIT and not all(map(sampled, self.terms)):
            return super().sample(shape, generator)
        x = draw(self.terms[0], self.batch_shape, shape, generator)
        for term in self.terms[1:]:
            x = x + draw(term, self.batch_shape, shape, generator)
        return x

    def _transposed(self) -> Operator:
        return Sum(*(t.T for t in self.terms))

    def _mirrors(self, other: Operator) -> bool:
        return isinstance(other, Sum) and mirrored(self.terms, other.terms)

    def _diagonal(self) -> Tensor:
        return sum((t._diagonal() for t in self.terms[1:]), self.terms[0]._diagonal())

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.terms))


@register
class Scaled(Operator):
    r"""The multiple :math:`c A` of an operator.

    Arguments:
        scale: The number :math:`c`, or one for each operator of a batch, with shape :math:`(*)`.
        operator: The operator :math:`A`.

    Example:
        >>> from appa_prob.operators import Mask
        >>> -2.0 * Mask(torch.tensor([True, False]))
        -2 * Mask((2,) -> (1,))
    """

    def __init__(self, scale: float | Tensor, operator: Operator) -> None:
        self.scale, self.operator = scale, operator
        batch = scale.shape if isinstance(scale, Tensor) else Size()
        super().__init__(
            operator.in_shape,
            operator.out_shape,
            batch_shape=broadcast(batch, operator.batch_shape),
            symmetric=operator.symmetric,
        )
        self._dtype = operator._own_dtype()
        # One number multiplies the smaller side, the observations and not the state.
        self._wider = 0 if batch else operator.out_shape.numel() - operator.in_shape.numel()

    def forward(self, x: Tensor) -> Tensor:
        if self._wider > 0:
            return self.operator.forward(x * over(self.scale, self.in_shape))
        return self.operator.forward(x) * over(self.scale, self.out_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        if self._wider < 0:
            self._check(y, self.out_shape)
            return self.operator.adjoint(y * over(self.scale, self.out_shape))
        return self.operator.adjoint(y) * over(self.scale, self.in_shape)

    def add_adjoint(self, y: Tensor, x: Tensor) -> Tensor:
        return self.operator.add_adjoint(y * over(self.scale, self.out_shape), x)

    @property
    def scatters(self) -> bool:  # type: ignore[override]
        """Whether the operator does."""
        return self.operator.scatters

    def solve(self, b: Tensor) -> Tensor:
        if not holds(self._scales != 0):
            raise ValueError(f"solve needs a scale other than 0, got {self.scale}")
        return self.operator.solve(b) / over(self.scale, self.in_shape)

    def sample(
        self, shape: Sequence[int] = (), generator: torch.Generator | None = None
    ) -> Tensor:
        if not self.positive:
            return super().sample(shape, generator)
        x = draw(self.operator, self.batch_shape, shape, generator)
        return x * over(self._scales.sqrt(), self.in_shape)

    def logdet(self) -> Tensor:
        if not self.positive:
            return super().logdet()
        return self.operator.logdet() + self.in_shape.numel() * self._scales.log()

    def _transposed(self) -> Operator:
        return Scaled(self.scale, self.operator.T)

    def _mirrors(self, other: Operator) -> bool:
        return (
            isinstance(other, Scaled)
            and same(self.scale, other.scale)
            and mirrored((self.operator,), (other.operator,))
        )

    @kept
    def positive(self) -> bool:
        """Whether all numbers are positive."""
        return holds(self._scales > 0)

    @property
    def _scales(self) -> Tensor:
        return torch.as_tensor(self.scale, dtype=self.dtype, device=self.device)

    def _diagonal(self) -> Tensor:
        return self.operator._diagonal() * over(self.scale, Size((1,)))

    def __repr__(self) -> str:
        operator = enclosed(self.operator) if isinstance(self.operator, Sum) else self.operator
        c = self.scale
        return f"{f'<{tuple(c.shape)}>' if isinstance(c, Tensor) else f'{c:g}'} * {operator}"


@register
class Adjoint(Operator):
    r"""The adjoint :math:`A^T` of an operator.

    Arguments:
        operator: The operator :math:`A`.

    Example:
        >>> from appa_prob.operators import Mask
        >>> A = Mask(torch.tensor([True, False]))
        >>> A.T, A.T.T is A
        (Mask((2,) -> (1,)).T, True)
    """

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        super().__init__(operator.out_shape, operator.in_shape, batch_shape=operator.batch_shape)
        self._dtype = operator._own_dtype()

    def forward(self, x: Tensor) -> Tensor:
        return self.operator.adjoint(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.operator(y)

    def _transposed(self) -> Operator:
        return self.operator

    def _mirrors(self, other: Operator) -> bool:
        return self.operator._same(other)

    def __repr__(self) -> str:
        return f"{enclosed(self.operator)}.T"


def check_chain(factors: Sequence[Operator]) -> None:
    """Checks that each factor takes what its right neighbour gives."""
    if not factors:
        raise ValueError("expected one or more factors, got none")
    for left, right in pairwise(factors):
        if left.in_shape != right.out_shape:
            raise ValueError(
                f"expected a right factor with outputs of shape {tuple(left.in_shape)}, the "
                f"inputs of {left!r}, got {right!r}; the right factor is applied first"
            )


def check_terms(terms: Sequence[Operator]) -> None:
    """Checks that all terms have the same shapes."""
    if not terms or len({(term.in_shape, term.out_shape) for term in terms}) > 1:
        found = " and ".join(map(repr, terms)) or "none"
        raise ValueError(f"expected one or more terms of one shape, got {found}")


def sampled(term: Operator) -> bool:
    """Whether a term is a covariance with a structure to sample from."""
    if isinstance(term, Scaled):
        return term.positive and sampled(term.operator)
    if isinstance(term, (Diagonal, Scaling)):
        return term._nonnegative
    return type(term).sample is not Operator.sample


def palindrome(factors: tuple[Operator, ...]) -> bool:
    """Whether a product reads the same transposed, as H V H^T does, which proves symmetry."""
    half, odd = divmod(len(factors), 2)
    ends = mirrored(factors[:half], factors[half + odd :][::-1])
    return ends and (not odd or factors[half].symmetric)


def mirrored(ones: Sequence[Operator], others: Sequence[Operator]) -> bool:
    """Whether operators are made as the adjoints of others, one by one."""
    return len(ones) == len(others) and all(
        a._mirrors(b) or b._mirrors(a) for a, b in zip(ones, others, strict=True)
    )


def same(c: float | Tensor, d: float | Tensor) -> bool:
    """Whether two numbers are surely one."""
    return c is d or not (isinstance(c, Tensor) or isinstance(d, Tensor) or c != d)


def typed(operator: Operator, dtype: torch.dtype | None) -> Operator:
    """An operator that takes the type of what it was simplified from, if it has none."""
    return operator if dtype is None or operator._own_dtype() else operator.to(dtype)


def enclosed(operator: Operator) -> str:
    """What prints an operator, in parentheses if it is an expression of several."""
    text, depth = repr(operator), 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == " " and not depth:
            return f"({text})"
    return text
