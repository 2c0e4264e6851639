r"""The covariance of what is observed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .arguments import common_dtype
from .base import Operator
from .dense import LIMIT, draw
from .kept import kept
from .matvec import matvec
from .registry import register
from .selection import Gather, Mask
from .shapes import broadcast, flatten

__all__ = ["InnovationCovariance"]


@register
class InnovationCovariance(Operator):
    r"""The covariance :math:`S = H V H^T + R` of :math:`y = H x + \eta`, for
    :math:`\mathbb{V}[x] = V` and :math:`\mathbb{V}[\eta] = R`.

    The product is made of two halves, so that solvers can keep :math:`V H^T u` for each vector
    :math:`u` they visit: it is what the Kalman update :math:`V H^T S^{-1} (y - H \bar{x})` is
    assembled from, without another product with :math:`V`.

    Arguments:
        H: The observation operator.
        V: The covariance of the state.
        R: The covariance of the errors.

    Raises:
        ValueError: If shapes don't fit.

    Example:
        >>> from appa_prob.operators import Isotropic, Mask
        >>> H = Mask(torch.tensor([True, False]))
        >>> S = InnovationCovariance(H, Isotropic(4.0, 2), Isotropic(1.0, 1))
        >>> S(torch.ones(1))
        tensor([5.])
        >>> S.half(torch.ones(1))
        (tensor([1., 0.]), tensor([4., 0.]))
    """

    def __init__(self, H: Operator, V: Operator, R: Operator) -> None:
        if not H.in_shape == V.in_shape == V.out_shape:
            raise ValueError(
                f"expected a covariance V of the inputs of H, with shape {tuple(H.in_shape)}, got "
                f"{V!r} for {H!r}"
            )
        if not H.out_shape == R.in_shape == R.out_shape:
            raise ValueError(
                f"expected a covariance R of the outputs of H, with shape {tuple(H.out_shape)}, "
                f"got {R!r} for {H!r}"
            )
        self.H, self.V, self.R = H, V, R
        super().__init__(
            H.out_shape,
            H.out_shape,
            batch_shape=broadcast(H.batch_shape, V.batch_shape, R.batch_shape),
            symmetric=V.symmetric and R.symmetric,
        )
        self._dtype, self.total = common_dtype((H, V, R)), V.total

    def half(self, u: Tensor) -> tuple[Tensor, Tensor]:
        r"""Computes the first half of the product.

        Arguments:
            u: A field, with shape :math:`(*, out)`.

        Returns:
            The fields :math:`H^T u` and :math:`V H^T u`, with shape :math:`(*, in)`.
        """
        back = self.H.adjoint(u)
        return back, self.V.forward(back)

    def complete(self, u: Tensor, lifted: Tensor) -> Tensor:
        r"""Computes the product :math:`S u` from its first half.

        Arguments:
            u: The field :math:`u`, with shape :math:`(*, out)`.
            lifted: The field :math:`V H^T u`, with shape :math:`(*, in)`.
        """
        return self.H.forward(lifted) + self.R.forward(u)

    @kept
    def gain(self) -> Tensor:
        r"""The dense matrix :math:`H V`, with shape :math:`(*, n, in)`, for a symmetric
        :math:`V`; see :meth:`Operator.cross`."""
        return self.V.cross(self.H)

    def lift(self, u: Tensor) -> Tensor:
        r"""Computes :math:`V H^T u` from the rows of :attr:`gain`, without a product with
        :math:`V`.

        Arguments:
            u: The field :math:`u`, with shape :math:`(*, out)`.
        """
        rows = flatten(self.gain, self.H.in_shape)
        lifted = matvec(rows.mT, flatten(u, self.out_shape).to(rows))
        return lifted.reshape(*lifted.shape[:-1], *self.H.in_shape)

    @kept
    def factor(self) -> tuple[Tensor, Tensor]:
        r"""The lower Cholesky factor of the dense matrix, in double precision where the device
        has it, and :math:`0` where the matrix is positive definite, else the row at which it
        fails."""
        dense = self.to_dense()
        working = torch.float32 if dense.device.type == "mps" else torch.float64
        factor, info = torch.linalg.cholesky_ex(dense.to(working))
        return factor, info

    def to_dense(self) -> Tensor:
        if not self.V.symmetric:
            return super().to_dense()
        # Products of fields: the rows come first, before the batch of H.
        rows = self.gain.movedim(-1 - len(self.H.in_shape), 0)
        columns = flatten(self.H.forward(rows), self.H.out_shape)
        return (columns.movedim(0, -1) + self.R.to_dense()).expand(self.shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.complete(x, self.V.forward(self.H.adjoint(x)))

    def adjoint(self, y: Tensor) -> Tensor:
        if self.symmetric:
            return self(y)
        self._check(y, self.out_shape)
        return self.H.forward(self.V.adjoint(self.H.adjoint(y))) + self.R.adjoint(y)

    def sample(
        self, shape: Sequence[int] = (), generator: torch.Generator | None = None
    ) -> Tensor:
        if self.shape[-1] <= LIMIT:
            return super().sample(shape, generator)
        x, eta = (draw(C, self.batch_shape, shape, generator) for C in (self.V, self.R))
        return self.H(x) + eta

    def _diagonal(self) -> Tensor:
        if isinstance(self.H, (Gather, Mask)):
            return self.V.diagonal()[..., self.H.indices.reshape(-1)] + self.R.diagonal()
        return super()._diagonal()

    def __repr__(self) -> str:
        return f"{self.H!r} @ {self.V!r} @ {self.H!r}.T + {self.R!r}"
