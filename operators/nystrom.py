"""The randomised approximation of Nyström, and preconditioning by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Operator
from .eigenbasis import Eigenbasis
from .matrices import Dense
from .preconditioner import Preconditioner
from .registry import register

__all__ = ["Nystrom", "nystrom"]


@register
@dataclass(frozen=True)
class Nystrom(Preconditioner):
    r"""Preconditioning by a randomised low-rank approximation, for symmetric positive definite
    systems with a few large eigenvalues.

    .. math:: M = U \Lambda^{-1} U^T + \lambda_r^{-1} (I - U U^T)

    with the leading eigenvalues :math:`\lambda_1 \geq \dots \geq \lambda_r` and eigenvectors that
    :func:`nystrom` finds in :math:`r` products. What is left to the solver has the condition
    number :math:`\lambda_r / \lambda_n` or so.

    Arguments:
        rank: The number :math:`r` of products spent.
        generator: A source of random numbers.

    References:
        | Randomized Nyström Preconditioning (Frangella et al., 2023)
        | https://doi.org/10.1137/21M1466244

    Example:
        >>> from appa_prob.operators import CG, Diagonal
        >>> S = Diagonal(torch.cat((torch.linspace(1e2, 1e4, 9), torch.ones(91))))
        >>> helped = CG(rtol=1e-4, preconditioner=Nystrom(20))
        >>> helped(S, torch.ones(100)).iterations < CG(rtol=1e-4)(S, torch.ones(100)).iterations
        tensor(True)
    """

    rank: int
    generator: torch.Generator | None = None

    def prepare(self, S: Operator) -> Callable[[Tensor], Tensor]:
        return nystrom(S, self.rank, self.generator).solve


def nystrom(S: Operator, rank: int, generator: torch.Generator | None = None) -> Eigenbasis:
    r"""Approximates a symmetric positive semi-definite operator by its products with :math:`r`
    random vectors :math:`\Omega`.

    .. math:: S \approx S \Omega \, (\Omega^T S \Omega)^+ \, \Omega^T S = U \Lambda U^T

    The directions outside of :math:`U` are given the smallest eigenvalue found.

    Arguments:
        S: The operator :math:`S`.
        rank: The number :math:`r` of products.
        generator: A source of random numbers.

    Raises:
        ValueError: If :math:`S` isn't declared symmetric, or the rank is less than 1.

    References:
        | Finding Structure with Randomness (Halko et al., 2011) | https://doi.org/10.1137/090771806

    Example:
        >>> from appa_prob.operators import Diagonal
        >>> nystrom(Diagonal(torch.tensor([5.0, 2.0, 1.0])), 3).eigenvalues.round(decimals=3)
        tensor([5., 2., 1.])
    """
    if not S.symmetric:
        raise ValueError(f"Nystrom needs a symmetric operator, got {S!r}, which isn't declared so")
    if rank < 1:
        raise ValueError(f"expected a rank >= 1, got {rank}")
    n = S.shape[-1]
    with torch.no_grad():
        noise = torch.randn((n, min(rank, n)), generator=generator, dtype=S.dtype, device=S.device)
        test = torch.linalg.qr(noise).Q
        products = S._matmul(test)
        core = test.mT @ products
        weights, vectors = torch.linalg.eigh((core + core.mT) / 2)
        least = n * torch.finfo(S.dtype).eps * weights.abs().amax(-1, keepdim=True)
        root = torch.where(weights > least, weights, torch.inf).rsqrt()
        U, values, _ = torch.linalg.svd(
            products @ (vectors * root[..., None, :]), full_matrices=False
        )
        values = values.square()
        least = torch.where(values > least, values, torch.inf).amin(-1)
        values = torch.maximum(values, least[..., None])
    return Eigenbasis(Dense(U, out_shape=S.in_shape), values, least)
