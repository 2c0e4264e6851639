r"""Operators that act on groups of axes independently.

With :math:`A = A_1 \otimes \dots \otimes A_k` every function that has a product rule reduces to
the factors:

.. math::
    A^T = A_1^T \otimes \dots \otimes A_k^T \qquad
    A^{-1} = A_1^{-1} \otimes \dots \otimes A_k^{-1} \qquad
    \log \det A = \sum_i \frac{N}{n_i} \log \det A_i
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Size, Tensor

from .arguments import common_dtype
from .base import Operator
from .dense import draw, root
from .expressions import mirrored
from .factored import Factored
from .matrices import Dense
from .matvec import matvec
from .registry import register
from .separable import flip_flop
from .shapes import broadcast, flatten, unflatten

__all__ = ["Kronecker"]

# A product, or the matrix that it is with, and the shapes of the events that it takes and gives.
Product = tuple[Callable[[Tensor], Tensor] | Tensor, Size, Size]


@register
class Kronecker(Operator):
    r"""The product :math:`A_1 \otimes \dots \otimes A_k` of Kronecker, each factor acting on axes
    of its own.

    .. math:: (A x)_{i_1 \dots i_k} = \sum_{j_1 \dots j_k}
        (A_1)_{i_1 j_1} \cdots (A_k)_{i_k j_k} \, x_{j_1 \dots j_k}

    Event axes are those of the factors, one after the other. With covariances as factors it is a
    separable covariance, for instance of levels, latitudes and longitudes.

    Arguments:
        factors: The factors, from the first axes to the last.

    Raises:
        ValueError: If there is no factor.
        TypeError: If operators of two floating types meet.

    Example:
        >>> from appa_prob.operators import Dense, Identity
        >>> A = Kronecker([Dense(torch.tensor([[1.0, 1.0]])), Identity(3)])
        >>> A(torch.arange(6.0).reshape(2, 3))
        tensor([[3., 5., 7.]])
    """

    def __init__(self, factors: Sequence[Operator]) -> None:
        self.factors = tuple(factors)
        if not self.factors:
            raise ValueError("expected one or more factors, got none")
        super().__init__(
            sum((tuple(f.in_shape) for f in self.factors), ()),
            sum((tuple(f.out_shape) for f in self.factors), ()),
            batch_shape=broadcast(*(f.batch_shape for f in self.factors)),
            symmetric=all(f.symmetric for f in self.factors),
            dtype=common_dtype(self.factors),
        )

    @classmethod
    def fit(
        cls,
        samples: Tensor,
        axes: Sequence[int] | None = None,
        *,
        mean: Tensor | None = None,
        shrinkage: float | Sequence[float] = 0.0,
        max_iterations: int = 100,
        tolerance: float = 1e-6,
    ) -> Kronecker:
        r"""Fits a separable covariance to samples: that under which they are likeliest.

        A few samples are enough: each factor sees as many as there are samples and elements along
        the other axes.

        Arguments:
            samples: The samples, with shape :math:`(N, event)`.
            axes: The numbers of event axes that factors act on, in order; by default one each.
            mean: The mean, with shape :math:`(event)`; by default that of the samples.
            shrinkage: The share of each factor that is replaced by a multiple of the identity, one
                number or one for each factor.
            max_iterations: The largest number of sweeps over all factors.
            tolerance: The relative change of factors in a sweep at which to stop.

        Raises:
            ValueError: If the axes aren't those of the event, if a shrinkage is not in [0, 1], or
                if there are too few samples for the factors to be positive definite.
            ConvergenceWarning: As a warning, if factors still change at the end.

        References:
            | The MLE Algorithm for the Matrix Normal Distribution (Dutilleul, 1999)
            | https://doi.org/10.1080/00949659908811970

        Example:
            >>> x = torch.tensor([1.0, 2.0])[:, None] * torch.randn(5000, 2, 3)
            >>> V = Kronecker.fit(x)
            >>> V.factors[0].diagonal().round(), V.factors[1].diagonal().round()
            (tensor([1., 4.]), tensor([1., 1., 1.]))
        """
        event = samples.shape[1:]
        groups = [1] * len(event) if axes is None else list(axes)
        shares = (
            [float(shrinkage)] * len(groups)
            if isinstance(shrinkage, (int, float))
            else list(shrinkage)
        )
        if not groups or sum(groups) != len(event) or min(groups) < 1:
            raise ValueError(
                f"expected numbers of axes that add up to {len(event)}, those of events of shape "
                f"{tuple(event)}, got {groups}"
            )
        if len(shares) != len(groups) or not all(0 <= share <= 1 for share in shares):
            raise ValueError(
                f"expected a shrinkage in [0, 1] for each of {len(groups)} factors, got {shares}"
            )
        ends = [sum(groups[: i + 1]) for i in range(len(groups))]
        shapes = [event[end - size : end] for size, end in zip(groups, ends, strict=True)]
        x = samples - (samples.mean(0) if mean is None else mean)
        x = x.reshape(len(x), *(shape.numel() for shape in shapes)).double()
        roots = flip_flop(x, max_iterations=max_iterations, tolerance=tolerance, shrinkage=shares)
        return cls([Factored(L.to(samples), s) for L, s in zip(roots, shapes, strict=True)])

    def forward(self, x: Tensor) -> Tensor:
        return self._each(
            x,
            [
                (f.matrix if isinstance(f, Dense) else f.forward, f.in_shape, f.out_shape)
                for f in self.factors
            ],
        )

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        return self._each(
            y,
            [
                (f.matrix.mT if isinstance(f, Dense) else f.adjoint, f.out_shape, f.in_shape)
                for f in self.factors
            ],
        )

    def solve(self, b: Tensor) -> Tensor:
        self._check(b, self.out_shape)
        return self._each(b, [(f.solve, f.out_shape, f.in_shape) for f in self.factors])

    def sample(
        self, shape: Sequence[int] = (), generator: torch.Generator | None = None
    ) -> Tensor:
        # The largest factor draws in its own way, the others color by a dense root.
        sizes = [f.in_shape.numel() for f in self.factors]
        largest = sizes.index(max(sizes))
        others = [n for i, n in enumerate(sizes) if i != largest]
        x = draw(self.factors[largest], self.batch_shape, (*others, *shape), generator)
        x = flatten(x, self.factors[largest].in_shape)
        x = x.movedim(-1, largest).movedim(tuple(range(len(sizes))), tuple(range(-len(sizes), 0)))
        x = self._each(
            x,
            [
                (_itself if i == largest else root(f, "sample"), Size((n,)), Size((n,)))
                for i, (f, n) in enumerate(zip(self.factors, sizes, strict=True))
            ],
        )
        return x.reshape(*x.shape[: x.ndim - len(sizes)], *self.in_shape)

    def logdet(self) -> Tensor:
        n = self.in_shape.numel()
        parts = [n // max(f.in_shape.numel(), 1) * f.logdet() for f in self.factors]
        return sum(parts[1:], parts[0])

    def _each(self, x: Tensor, products: Sequence[Product]) -> Tensor:
        """Applies a product to each group of axes."""
        k, axes = len(products), sum(len(source) for _, source, _ in products)
        batch = x.shape[: x.ndim - axes]
        if not self.batch_shape:
            return self._in_place(x, batch, products)
        # Batch axes of the factors must not meet the groups that wait in front.
        batch = Size((1,) * (len(self.batch_shape) - len(batch)) + tuple(batch))
        x = x.reshape(*batch, *(source.numel() for _, source, _ in products))
        # Groups that wait are in front of the batch, where factors see more batch axes: one after
        # the other comes last, is multiplied, and goes to the front.
        x = x.movedim(tuple(range(len(batch), x.ndim - 1)), tuple(range(k - 1)))
        for i, (product, source, target) in enumerate(reversed(products)):
            if i:
                x = x.movedim(-1, 0).movedim(k - 1, -1)
            x = _multiply(product, x, source, target)
        x = x.movedim(tuple(range(k - 1)), tuple(range(1 - k, 0)))
        events = sum((tuple(target) for _, _, target in products), ())
        return x.reshape(*x.shape[: x.ndim - k], *events)

    def _in_place(self, x: Tensor, batch: Size, products: Sequence[Product]) -> Tensor:
        """The same without a batch of factors: axes stay where they are, as far as they can."""
        x = x.reshape(*batch, *(source.numel() for _, source, _ in products))
        for i, (product, source, target) in enumerate(products):
            axis = len(batch) + i
            if axis == x.ndim - 1:
                x = _multiply(product, x, source, target)
            elif isinstance(product, Tensor):
                rest = x.shape[axis + 1 :]
                x = product @ x.reshape(*x.shape[: axis + 1], rest.numel())
                x = x.reshape(*x.shape[:-1], *rest)
            else:
                x = _multiply(product, x.movedim(axis, -1), source, target).movedim(-1, axis)
        events = sum((tuple(target) for _, _, target in products), ())
        return x.reshape(*batch, *events)

    def _transposed(self) -> Operator:
        return Kronecker([f.T for f in self.factors])

    def _mirrors(self, other: Operator) -> bool:
        return isinstance(other, Kronecker) and mirrored(self.factors, other.factors)

    def _diagonal(self) -> Tensor:
        if any(f.in_shape.numel() != f.out_shape.numel() for f in self.factors):
            return super()._diagonal()
        first, *others = (f._diagonal() for f in self.factors)
        return reduce(lambda a, b: (a[..., :, None] * b[..., None, :]).flatten(-2), others, first)

    def __repr__(self) -> str:
        return f"Kronecker([{', '.join(map(repr, self.factors))}])"


def _itself(x: Tensor) -> Tensor:
    return x


def _multiply(
    product: Callable[[Tensor], Tensor] | Tensor, x: Tensor, source: Size, target: Size
) -> Tensor:
    """A product with the last axis, which holds flattened events."""
    if isinstance(product, Tensor):
        return matvec(product, x)
    return flatten(product(unflatten(x, source)), target)
