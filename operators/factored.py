r"""Covariances given by their Cholesky factor."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Size, Tensor

from .base import Operator
from .dense import cholesky, white
from .matvec import cholesky_solve, matvec
from .registry import register
from .shapes import as_size, flatten, unflatten
from .transforms import holds

__all__ = ["Factored"]


@register(shape="in_shape")
class Factored(Operator):
    r"""The covariance :math:`L L^T`, given by its lower Cholesky factor :math:`L`.

    Systems cost two substitutions and samples one product, so it pays to factorise once what is
    solved or sampled often. :meth:`of` factorises any covariance, whatever its size: it is how a
    dense factorisation is asked for by name.

    Arguments:
        factor: The factor :math:`L`, with shape :math:`(*, n, n)` and a positive diagonal; entries
            above the diagonal are ignored.
        shape: The event shape, of :math:`n` elements; by default :math:`(n)`.

    Raises:
        ValueError: If shapes don't fit, or if an entry of the diagonal isn't positive.

    Example:
        >>> from appa_prob.operators import Dense
        >>> V = Factored.of(Dense(torch.tensor([[4.0, 2.0], [2.0, 2.0]]), symmetric=True))
        >>> V.factor, V.solve(torch.tensor([4.0, 2.0]))
        (tensor([[2., 0.],
                [1., 1.]]), tensor([1., 0.]))
    """

    symmetric = True

    def __init__(self, factor: Tensor, shape: int | Sequence[int] | None = None) -> None:
        n = factor.shape[-1] if factor.ndim else 0
        event = as_size(n if shape is None else shape)
        if factor.ndim < 2 or factor.shape[-2] != n or event.numel() != n:
            raise ValueError(
                f"expected a factor of shape (*, n, n) for events of {event.numel()} elements, "
                f"got {tuple(factor.shape)}"
            )
        if not holds(factor.diagonal(dim1=-2, dim2=-1) > 0):
            raise ValueError("expected a factor with a positive diagonal, got other entries")
        super().__init__(event, event, batch_shape=factor.shape[:-2])
        self.factor = factor.tril()

    @classmethod
    def of(cls, operator: Operator) -> Factored:
        r"""Factorises a covariance, at the cost of :math:`n` products, :math:`n^3 / 3` operations
        and :math:`n^2` numbers.

        Arguments:
            operator: A symmetric positive definite operator.

        Raises:
            ValueError: If it isn't symmetric positive definite.
        """
        return cls(cholesky(operator, "Factored.of", limit=math.inf), operator.in_shape)

    def forward(self, x: Tensor) -> Tensor:
        inner = matvec(self.factor.mT, flatten(x, self.in_shape))
        return unflatten(matvec(self.factor, inner), self.in_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    def solve(self, b: Tensor) -> Tensor:
        self._check(b, self.out_shape)
        return unflatten(cholesky_solve(self.factor, flatten(b, self.in_shape)), self.in_shape)

    def sample(
        self, shape: Sequence[int] = (), generator: torch.Generator | None = None
    ) -> Tensor:
        noise = white(self, shape, Size((self.shape[-1],)), generator)
        return unflatten(matvec(self.factor, noise), self.in_shape)

    def logdet(self) -> Tensor:
        return 2 * self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def _diagonal(self) -> Tensor:
        return self.factor.square().sum(-1)
