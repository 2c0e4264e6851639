r"""Factor analysis: the low rank plus diagonal under which samples are likeliest.

With :math:`x = F^T z + \epsilon`, :math:`z \sim \mathcal{N}(0, I)`, :math:`\epsilon \sim
\mathcal{N}(0, D)` and :math:`C = I + F D^{-1} F^T`, expectation and maximisation alternate:

.. math::
    Z = X D^{-1} F^T C^{-1} \qquad
    F \leftarrow \left( N C^{-1} + Z^T Z \right)^{-1} Z^T X \qquad
    D \leftarrow \mathrm{diag} \left( X^T X - F^T Z^T X \right) / N
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from .solution import ConvergenceWarning

__all__ = ["factor_analysis"]


def factor_analysis(
    x: Tensor, rank: int, *, max_iterations: int, tolerance: float, least: float
) -> tuple[Tensor, Tensor]:
    r"""Maximises the likelihood of samples of mean 0 under :math:`\mathcal{N}(0, F^T F + D)`.

    Arguments:
        x: The samples :math:`X`, with shape :math:`(N, n)`, in double precision.
        rank: The number of factors.
        max_iterations: The largest number of iterations.
        tolerance: The gain of log-likelihood, per sample and iteration, at which to stop.
        least: The smallest share of a variance that is left to the diagonal.

    Returns:
        The factor :math:`F`, with shape :math:`(r, n)`, and the diagonal, with shape :math:`(n)`.

    Raises:
        ConvergenceWarning: As a warning, if the gain is still larger at the last iteration.
    """
    count, n = x.shape
    scale = x.square().mean(0).sqrt()
    x = x / scale  # the maximum doesn't mind, but what EM starts from does
    if count > n:
        x = torch.linalg.qr(x, mode="r").R  # all that matters is X^T X
    F, d = principal_factors(x / count**0.5, rank, least)
    before = float("-inf")
    for _ in range(max_iterations):
        scaled = F / d
        capacitance = torch.eye(rank, dtype=x.dtype, device=x.device) + scaled @ F.mT
        root = torch.linalg.cholesky(capacitance)
        projected = x @ scaled.mT
        z = torch.cholesky_solve(projected.mT, root).mT
        misfit = (1 / d).sum() - (projected * z).sum() / count
        logdet = 2 * root.diagonal().log().sum() + d.log().sum()
        now = -0.5 * float(misfit + logdet)
        if now - before <= tolerance:
            break
        before = now
        cross = z.mT @ x / count
        F = torch.linalg.solve(torch.cholesky_inverse(root) + z.mT @ z / count, cross)
        d = (1 - (F * cross).sum(0)).clamp_min(least)
    else:
        warnings.warn(
            f"factor analysis: the log-likelihood still grows by more than {tolerance:.1e} a "
            f"sample after {max_iterations} iterations; raise max_iterations, or lower the rank",
            ConvergenceWarning,
            stacklevel=3,
        )
    return scale * F, scale.square() * d


def principal_factors(x: Tensor, rank: int, least: float) -> tuple[Tensor, Tensor]:
    r"""Where to start from: the solution for one variance of all errors.

    Arguments:
        x: The samples, of variance 1, divided by :math:`\sqrt{N}`, with shape :math:`(N, n)`.
        rank: The number of factors.
        least: The smallest share of a variance that is left to the diagonal.

    References:
        | Probabilistic Principal Component Analysis (Tipping and Bishop, 1999)
        | https://doi.org/10.1111/1467-9868.00196
    """
    _, size, modes = torch.linalg.svd(x, full_matrices=False)
    n = x.shape[1]
    rest = (n - size[:rank].square().sum()) / max(n - rank, 1)
    power = (size[:rank].square() - rest).clamp_min(0.0)
    F = power.sqrt()[:, None] * modes[:rank]
    return F, (1 - F.square().sum(0)).clamp_min(least)
