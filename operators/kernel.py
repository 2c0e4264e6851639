r"""Covariances from a kernel and the coordinates of points."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .base import Operator
from .dense import LIMIT
from .kept import kept
from .registry import register
from .selection import Gather, Mask
from .shapes import as_size, flatten, unflatten

__all__ = ["KernelCovariance"]

BLOCK = 2**22  # entries of the matrix that are made at a time


@register(shape="in_shape")
class KernelCovariance(Operator):
    r"""The covariance :math:`V_{ij} = k(s_i, s_j)` between points with coordinates :math:`s_i`.

    Any kernel of GPyTorch serves, and so does any function of two sets of points. Up to 2,000
    points the matrix is made once and kept; beyond, each product makes it again block by block, in
    constant memory, and there is no dense solution unless it is asked for by
    :meth:`Factored.of`. On a regular grid :class:`Stationary` is much faster.

    On the sphere, a kernel of distances is a covariance if the distances are those of
    :func:`unit_vectors`, straight through the Earth; :class:`SphereMatern` explains which are
    along great circles.

    Parameters of a kernel that is a module are tensors of the operator: they are differentiated
    and moved with it.

    Arguments:
        kernel: The kernel :math:`k`: called on coordinates of shapes :math:`(n, d)` and
            :math:`(m, d)`, it returns the matrix of shape :math:`(n, m)`, a tensor or a
            ``LinearOperator``.
        coordinates: The coordinates, with shape :math:`(n, d)`.
        shape: The event shape, of :math:`n` elements; by default :math:`(n)`.

    Raises:
        ValueError: If shapes don't fit, or if the kernel returns a matrix of another shape.

    Example:
        >>> import gpytorch
        >>> kernel = gpytorch.kernels.MaternKernel(nu=0.5)
        >>> kernel.lengthscale = 1.0
        >>> V = KernelCovariance(kernel, torch.tensor([[0.0], [1.0], [3.0]]))
        >>> V.to_dense().detach().round(decimals=3)
        tensor([[1.0000, 0.3680, 0.0500],
                [0.3680, 1.0000, 0.1350],
                [0.0500, 0.1350, 1.0000]])
    """

    symmetric = True

    def __init__(
        self,
        kernel: Callable[[Tensor, Tensor], Any],
        coordinates: Tensor,
        shape: int | Sequence[int] | None = None,
    ) -> None:
        if coordinates.ndim != 2:
            raise ValueError(
                f"expected coordinates of shape (n, d), got {tuple(coordinates.shape)}"
            )
        event = as_size(len(coordinates) if shape is None else shape)
        if event.numel() != len(coordinates):
            raise ValueError(
                f"expected events of {len(coordinates)} elements, one for each point, got shape "
                f"{tuple(event)}"
            )
        super().__init__(event, event)
        self.kernel, self.coordinates = kernel, coordinates
        named = dict(_state(kernel)) if isinstance(kernel, nn.Module) else {}
        self.names, self.weights = tuple(named), tuple(named.values())
        self.rows(slice(0, 1))  # refuses kernels that return something else

    def rows(self, which: slice | Tensor) -> Tensor:
        r"""Rows of the matrix, with shape :math:`(m, n)`.

        Arguments:
            which: A slice, or the indices of the rows.
        """
        return self._matrix(self.coordinates[which], self.coordinates)

    def forward(self, x: Tensor) -> Tensor:
        columns = flatten(x, self.in_shape)
        parts = [(columns[..., None, :] @ rows.mT)[..., 0, :] for rows in self._blocks()]
        return unflatten(torch.cat(parts, dim=-1), self.in_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    def to_dense(self) -> Tensor:
        return torch.cat(list(self._blocks()))

    def cross(self, H: Operator) -> Tensor:
        if isinstance(H, (Gather, Mask)):
            return unflatten(self.rows(H.indices.reshape(-1)), self.in_shape)
        return super().cross(H)

    def _blocks(self) -> Iterator[Tensor]:
        """The matrix, some rows at a time."""
        n = len(self.coordinates)
        if n > LIMIT:
            step = max(1, BLOCK // n)
            yield from (self.rows(slice(i, i + step)) for i in range(0, n, step))
        elif any(a.requires_grad for a in (self.coordinates, *self.weights)):
            yield self.rows(slice(None))
        else:
            yield self._whole

    @kept
    def _whole(self) -> Tensor:
        return self.rows(slice(None))

    def _matrix(self, a: Tensor, b: Tensor) -> Tensor:
        """The matrix of the kernel between two sets of points."""
        if self.names:
            state = {f"kernel.{n}": w for n, w in zip(self.names, self.weights, strict=True)}
            module = _Evaluated(self.kernel)
            matrix: Tensor = torch.func.functional_call(module, state, (a, b))
        else:
            matrix = _evaluated(self.kernel(a, b))
        if matrix.shape != (len(a), len(b)):
            raise ValueError(
                f"expected a kernel that returns a matrix of shape {(len(a), len(b))}, got "
                f"{tuple(matrix.shape)}"
            )
        return matrix

    def _diagonal(self) -> Tensor:
        n = len(self.coordinates)
        parts = [self.coordinates[i : i + 32] for i in range(0, n, 32)]
        return torch.cat([self._matrix(part, part).diagonal() for part in parts])


class _Evaluated(nn.Module):
    """A kernel whose matrices are made while its parameters are those of the operator."""

    def __init__(self, kernel: Any) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return _evaluated(self.kernel(a, b))


def _evaluated(matrix: Any) -> Tensor:
    dense: Tensor = matrix if isinstance(matrix, Tensor) else matrix.to_dense()
    return dense


def _state(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()
