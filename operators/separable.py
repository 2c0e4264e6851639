r"""Separable covariances: the Kronecker product under which samples are likeliest."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from .solution import ConvergenceWarning

__all__ = ["flip_flop"]


def flip_flop(
    x: Tensor, *, max_iterations: int, tolerance: float, shrinkage: Sequence[float]
) -> list[Tensor]:
    r"""Maximises the likelihood of samples of mean 0 under :math:`\mathcal{N}(0, \Sigma_1 \otimes
    \dots \otimes \Sigma_k)`, one factor after the other.

    .. math:: \Sigma_i \leftarrow \frac{n_i}{N n} \, X_{(i)} \Big( \bigotimes_{j \neq i}
        \Sigma_j^{-1} \Big) X_{(i)}^T

    Arguments:
        x: The samples, with shape :math:`(N, n_1, \dots, n_k)`, in double precision.
        max_iterations: The largest number of sweeps over all factors.
        tolerance: The largest change of the whitened factors in a sweep, at which to stop.
        shrinkage: The share of each factor that is replaced by a multiple of the identity.

    Returns:
        The Cholesky factors of :math:`\Sigma_i`. All but the first have a mean variance of 1.

    Raises:
        ValueError: If there are too few samples for a factor to be positive definite.
        ConvergenceWarning: As a warning, if the change is still larger at the last sweep.
    """
    lengths = x.shape[1:]
    roots = [torch.eye(n, dtype=x.dtype, device=x.device) for n in lengths]
    for _ in range(max_iterations):
        change = 0.0
        for i, n in enumerate(lengths):
            white = x
            for j, root in enumerate(roots):
                if j != i:
                    white = whitened(white, root, j + 1)
            rows = white.movedim(i + 1, 0).reshape(n, -1)
            sigma = rows @ rows.mT / rows.shape[1]
            mean = sigma.diagonal().mean()
            sigma = (1 - shrinkage[i]) * sigma
            sigma.diagonal().add_(shrinkage[i] * mean)
            root, info = torch.linalg.cholesky_ex(sigma if i == 0 else sigma / mean)
            if bool(info) or not bool(mean > 0):
                raise ValueError(
                    f"expected samples from which factor {i} of {n} x {n} is positive definite, "
                    f"got {len(x)} samples; give more, or a shrinkage > 0"
                )
            step = whitened(root, roots[i], 0)
            gap = (step @ step.mT - torch.eye(n, dtype=x.dtype, device=x.device)).abs().max()
            change = max(change, float(gap))
            roots[i] = root
        if change <= tolerance:
            return roots
    warnings.warn(
        f"separable covariance: factors still change by {change:.1e} after {max_iterations} "
        "sweeps; raise max_iterations or shrinkage",
        ConvergenceWarning,
        stacklevel=3,
    )
    return roots


def whitened(x: Tensor, root: Tensor, axis: int) -> Tensor:
    """Solves with a Cholesky factor along an axis."""
    columns = x.movedim(axis, 0)
    flat: Tensor = torch.linalg.solve_triangular(root, columns.reshape(len(root), -1), upper=False)
    return flat.reshape(columns.shape).movedim(0, axis)
