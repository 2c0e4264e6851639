r"""Covariances that are diagonal in a known basis, of Fourier modes or principal components."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Operator
from .dense import LIMIT, white
from .matvec import matvec
from .registry import register
from .shapes import broadcast, over
from .transforms import holds

__all__ = ["Eigenbasis"]


@register
class Eigenbasis(Operator):
    r"""The covariance :math:`Q \, \mathrm{diag}(\lambda) \, Q^T + \rho \, (I - Q Q^T)`.

    The columns of :math:`Q` are orthonormal; :math:`\rho` is the variance of every direction that
    they leave out. Any function of the covariance has the same form, so systems, samples and
    determinants cost two products with :math:`Q`.

    Arguments:
        basis: The operator :math:`Q`, from coefficients to fields. That its columns are
            orthonormal isn't checked.
        eigenvalues: The eigenvalues :math:`\lambda \geq 0`, with shape :math:`(*, coefficients)`.
        rest: The variance :math:`\rho \geq 0`, with shape :math:`()` or :math:`(*)`.

    Raises:
        ValueError: If shapes don't fit, or if an eigenvalue is negative or not a number.

    Example:
        >>> from appa_prob.operators import Dense
        >>> V = Eigenbasis(Dense(torch.eye(3)[:, :1]), torch.tensor([4.0]), 1.0)
        >>> V.to_dense()
        tensor([[4., 0., 0.],
                [0., 1., 0.],
                [0., 0., 1.]])
    """

    symmetric = True

    def __init__(self, basis: Operator, eigenvalues: Tensor, rest: float | Tensor = 0.0) -> None:
        axes = len(basis.in_shape)
        cut = eigenvalues.ndim - axes
        if cut < 0 or eigenvalues.shape[cut:] != basis.in_shape:
            raise ValueError(
                f"expected eigenvalues of shape (*, {', '.join(map(str, basis.in_shape))}), the "
                f"inputs of {basis!r}, got {tuple(eigenvalues.shape)}"
            )
        rest = torch.as_tensor(rest, dtype=eigenvalues.dtype, device=eigenvalues.device)
        if not (holds(eigenvalues >= 0) and holds(rest >= 0)):
            raise ValueError("expected eigenvalues >= 0, got negative ones or NaN")
        self._assemble(basis, eigenvalues, rest)

    def _assemble(self, basis: Operator, eigenvalues: Tensor, rest: Tensor) -> None:
        cut = eigenvalues.ndim - len(basis.in_shape)
        batch = broadcast(eigenvalues.shape[:cut], rest.shape, basis.batch_shape)
        super().__init__(basis.out_shape, basis.out_shape, batch_shape=batch)
        self.basis, self.eigenvalues, self.rest = basis, eigenvalues, rest

    def with_values(self, eigenvalues: Tensor, rest: Tensor) -> Eigenbasis:
        r"""The operator of the same basis with other eigenvalues, which are known to be
        :math:`\geq 0`: they aren't looked at, so that nobody waits for the device.

        Arguments:
            eigenvalues: The eigenvalues, with shape :math:`(*, coefficients)`.
            rest: The variance of what the basis leaves out, with shape :math:`()` or :math:`(*)`.
        """
        other = Eigenbasis.__new__(Eigenbasis)
        other._assemble(self.basis, eigenvalues, rest)
        return other

    @property
    def remaining(self) -> int:
        """The number of directions that the basis leaves out."""
        return self.in_shape.numel() - self.basis.in_shape.numel()

    def forward(self, x: Tensor) -> Tensor:
        return self._apply(self.eigenvalues, self.rest, x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    def solve(self, b: Tensor) -> Tensor:
        self._check(b, self.out_shape)
        self._check_definite("solve")
        rest = 1 / self.rest if self.remaining else torch.zeros_like(self.rest)
        return self._apply(1 / self.eigenvalues, rest, b)

    def sample(
        self, shape: Sequence[int] = (), generator: torch.Generator | None = None
    ) -> Tensor:
        if self.remaining:
            return self._apply(
                self.eigenvalues.sqrt(),
                self.rest.sqrt(),
                white(self, shape, self.in_shape, generator),
            )
        return self.basis(
            self.eigenvalues.sqrt() * white(self, shape, self.basis.in_shape, generator)
        )

    def logdet(self) -> Tensor:
        self._check_definite("logdet")
        axes = tuple(range(-len(self.basis.in_shape), 0))
        inner = self.eigenvalues.log().sum(axes) if axes else self.eigenvalues.log()
        return inner + (self.remaining * self.rest.log() if self.remaining else 0.0)

    def _check_definite(self, purpose: str) -> None:
        if not holds(self.eigenvalues > 0) or (self.remaining and not holds(self.rest > 0)):
            raise ValueError(
                f"{purpose} needs eigenvalues > 0, also of what the basis leaves out; add a "
                "multiple of Identity"
            )

    def _apply(self, values: Tensor, rest: Tensor, x: Tensor) -> Tensor:
        """The product with the operator of the same basis and other eigenvalues."""
        z = self.basis.adjoint(x)
        if not self.remaining:
            return self.basis.forward(values * z)
        inner = over(rest, self.basis.in_shape)
        return over(rest, self.in_shape) * x + self.basis.forward((values - inner) * z)

    def _diagonal(self) -> Tensor:
        rank = self.basis.in_shape.numel()
        if rank > LIMIT:
            raise ValueError(
                f"the diagonal needs the {rank} columns of the basis, and {LIMIT} is the limit; "
                "estimate it from samples"
            )
        Q = self.basis.to_dense()
        excess = self.eigenvalues.reshape(
            *self.eigenvalues.shape[: -len(self.basis.in_shape) or None], rank
        )
        excess = excess - (self.rest[..., None] if self.remaining else 0.0)
        diagonal = matvec(Q.square(), excess)
        return diagonal + (self.rest[..., None] if self.remaining else 0.0)
