r"""Covariances from a few factors, such as those of an ensemble."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Size, Tensor

from .base import Operator
from .dense import white
from .factor_analysis import factor_analysis
from .kept import kept
from .matvec import cholesky_solve, matvec
from .registry import register
from .shapes import broadcast, flatten, unflatten
from .transforms import holds

__all__ = ["LowRankPlusDiagonal"]


@register(diagonal="variances", event_ndim=lambda V: len(V.in_shape))
class LowRankPlusDiagonal(Operator):
    r"""The covariance :math:`F^T F + \mathrm{diag}(d)` of rank :math:`r` plus a diagonal.

    Systems are solved by the identity of Woodbury, with the matrix :math:`C = I + F D^{-1} F^T` of
    :math:`r \times r`:

    .. math:: (F^T F + D)^{-1} = D^{-1} - D^{-1} F^T C^{-1} F D^{-1} \qquad
        \det (F^T F + D) = \det C \, \det D

    Arguments:
        factor: The factor :math:`F`, with shape :math:`(*, r, event)`.
        diagonal: The diagonal :math:`d \geq 0`, with shape :math:`(*, event)`; positive for
            systems and determinants.
        event_ndim: The number of event axes; by default all axes of the diagonal are.

    Raises:
        ValueError: If shapes don't fit, or if a variance is negative or not a number.

    Example:
        >>> V = LowRankPlusDiagonal(torch.ones(1, 3), torch.ones(3))
        >>> V(torch.ones(3)), V.solve(torch.ones(3))
        (tensor([4., 4., 4.]), tensor([0.2500, 0.2500, 0.2500]))
    """

    symmetric = True

    def __init__(self, factor: Tensor, diagonal: Tensor, event_ndim: int | None = None) -> None:
        ndim = diagonal.ndim if event_ndim is None else event_ndim
        cut = diagonal.ndim - ndim
        event = diagonal.shape[max(cut, 0) :]
        first = factor.ndim - ndim
        if cut < 0 or ndim < 0 or first < 1 or factor.shape[first:] != event:
            raise ValueError(
                "expected a factor of shape (*, rank, *event) and a diagonal of shape (*, *event) "
                f"with {ndim} event axes, got {tuple(factor.shape)} and {tuple(diagonal.shape)}"
            )
        if not holds(diagonal >= 0):
            raise ValueError("expected a diagonal of variances >= 0, got negative entries or NaN")
        batch = broadcast(factor.shape[: first - 1], diagonal.shape[:cut])
        super().__init__(event, event, batch_shape=batch)
        self.factor, self.variances = factor, diagonal

    @classmethod
    def fit(
        cls,
        samples: Tensor,
        rank: int,
        *,
        mean: Tensor | None = None,
        max_iterations: int = 1000,
        tolerance: float = 1e-6,
        least: float = 1e-3,
    ) -> LowRankPlusDiagonal:
        r"""Fits a covariance to samples by factor analysis: that under which they are likeliest.

        Unlike principal components, factors are about what elements share: what one element has
        alone goes to the diagonal, whatever its size.

        Arguments:
            samples: The samples, with shape :math:`(N, event)`.
            rank: The number of factors.
            mean: The mean, with shape :math:`(event)`; by default that of the samples.
            max_iterations: The largest number of iterations of EM.
            tolerance: The gain of log-likelihood, per sample and iteration, at which to stop.
            least: The smallest share of a variance that is left to the diagonal.

        Raises:
            ValueError: If there are fewer than 2 samples, if the rank is not between 1 and the
                number of elements, or if an element doesn't vary.
            ConvergenceWarning: As a warning, if the log-likelihood still grows at the end.

        References:
            | EM Algorithms for ML Factor Analysis (Rubin and Thayer, 1982)
            | https://doi.org/10.1007/BF02293851

        Example:
            >>> x = torch.randn(2000, 1) + 0.1 * torch.randn(2000, 3)
            >>> V = LowRankPlusDiagonal.fit(x, 1)
            >>> V.factor.abs().round(decimals=0), (V.variances < 0.02).all()
            (tensor([[1., 1., 1.]]), tensor(True))
        """
        event, n = samples.shape[1:], samples[:1].numel()
        if len(samples) < 2 or not 0 < rank <= n:
            raise ValueError(
                f"expected 2 samples or more, of shape (N, *event), and a rank between 1 and {n}, "
                f"got shape {tuple(samples.shape)} and rank {rank}"
            )
        x = samples - (samples.mean(0) if mean is None else mean)
        x = x.reshape(len(x), n).double()
        if not bool((x.square().sum(0) > 0).all()):
            raise ValueError("expected elements that all vary, got constant ones; leave them out")
        F, d = factor_analysis(
            x, rank, max_iterations=max_iterations, tolerance=tolerance, least=least
        )
        return cls(F.reshape(rank, *event).to(samples), d.reshape(event).to(samples))

    @property
    def rank(self) -> int:
        """The number of factors."""
        return self.factor.shape[self.factor.ndim - len(self.in_shape) - 1]

    def forward(self, x: Tensor) -> Tensor:
        return self._expand(self._project(x)) + x * self.variances

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    def solve(self, b: Tensor) -> Tensor:
        self._check(b, self.out_shape)
        scaled = b / self._positive
        inner = cholesky_solve(self._capacitance, self._project(scaled))
        return scaled - self._expand(inner) / self._positive

    def sample(
        self, shape: Sequence[int] = (), generator: torch.Generator | None = None
    ) -> Tensor:
        common = white(self, shape, Size((self.rank,)), generator)
        return self._expand(common) + self.variances.sqrt() * white(
            self, shape, self.in_shape, generator
        )

    def logdet(self) -> Tensor:
        inner = 2 * self._capacitance.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return inner + flatten(self._positive, self.in_shape).log().sum(-1)

    def cross(self, H: Operator) -> Tensor:
        if self.batch_shape or H.batch_shape:
            return super().cross(H)
        low = flatten(H.forward(self.factor), H.out_shape).mT @ self._flat
        eye = torch.eye(H.out_shape.numel(), dtype=low.dtype, device=low.device)
        rows = H.adjoint(unflatten(eye, H.out_shape)) * self.variances
        return rows + unflatten(low, self.in_shape)

    @kept
    def _positive(self) -> Tensor:
        if not holds(self.variances > 0):
            raise ValueError(
                "solve and logdet need a diagonal > 0, got zeros; add a small multiple of Identity"
            )
        return self.variances

    @kept
    def _capacitance(self) -> Tensor:
        """The lower Cholesky factor of C."""
        whitened = self._flat / flatten(self._positive, self.in_shape)[..., None, :].sqrt()
        eye = torch.eye(self.rank, dtype=whitened.dtype, device=whitened.device)
        factor: Tensor = torch.linalg.cholesky(eye + whitened @ whitened.mT)
        return factor

    def _project(self, x: Tensor) -> Tensor:
        """The coefficients F x, with shape (*, r)."""
        return matvec(self._flat, flatten(x, self.in_shape))

    def _expand(self, z: Tensor) -> Tensor:
        """The field F^T z."""
        return unflatten(matvec(self._flat.mT, z), self.in_shape)

    @property
    def _flat(self) -> Tensor:
        return flatten(self.factor, self.in_shape)

    def _diagonal(self) -> Tensor:
        return self._flat.square().sum(-2) + flatten(self.variances, self.in_shape)
