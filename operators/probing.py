r"""What random vectors tell of an operator, by products with it and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Operator
from .dense import white
from .krylov import dot, norm
from .shapes import flatten, unflatten

__all__ = ["estimate_diagonal", "root_product"]


def estimate_diagonal(
    A: Operator, probes: int = 64, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    r"""Estimates the diagonal of an operator of any size, by Hutchinson's method.

    .. math:: \mathrm{diag} \, A \approx \frac{1}{K} \sum_k z_k \odot A z_k \qquad
        z_k \in \{-1, 1\}^n

    It has no bias, and for a symmetric operator the variance
    :math:`\frac{1}{K} \sum_{j \neq i} A_{ij}^2`. The products are those of one batch of
    :math:`K`.

    References:
        | An Estimator for the Diagonal of a Matrix (Bekas et al., 2007)
        | https://doi.org/10.1016/j.apnum.2007.01.003

    Arguments:
        A: The operator, from events to events of the same shape.
        probes: The number :math:`K \geq 2` of random vectors.
        generator: A source of random numbers.

    Returns:
        The estimate and its standard error, with shape :math:`(*, event)`.

    Raises:
        ValueError: If the operator is not square, or if there are too few probes.

    Example:
        >>> from appa_prob.operators import Diagonal
        >>> estimate_diagonal(Diagonal(torch.tensor([1.0, 2.0])), 2)
        (tensor([1., 2.]), tensor([0., 0.]))
    """
    if A.in_shape != A.out_shape:
        raise ValueError(f"expected an operator that keeps the shape of events, got {A!r}")
    if probes < 2:
        raise ValueError(f"expected 2 probes or more, got {probes}")
    z = white(A, (probes,), A.in_shape, generator)
    z = torch.where(z < 0, -1.0, 1.0).to(z)
    products = z * A.forward(z)
    return products.mean(0), products.std(0) / probes**0.5


def root_product(A: Operator, z: Tensor, iterations: int = 32) -> Tensor:
    r"""Computes :math:`A^{1/2} z` for a symmetric positive semi-definite :math:`A` of any size, by
    Lanczos' method: white noise :math:`z` becomes a draw from :math:`\mathcal{N}(0, A)`.

    .. math:: A^{1/2} z \approx \|z\| \, Q \, T^{1/2} e_1 \qquad T = Q^T A Q

    with an orthonormal basis :math:`Q` of the Krylov space of :math:`z`. It is exact once there
    are as many iterations as distinct eigenvalues. Negative eigenvalues, as those of Jacobians of
    networks, count as 0.

    References:
        | Fast Sampling from Gaussian Markov Random Fields using Krylov Subspace Approaches
        (Simpson et al., 2008) | https://eprints.qut.edu.au/14376

    Arguments:
        A: The operator :math:`A`.
        z: A field, with shape :math:`(*, event)`.
        iterations: The number of iterations, each a product with :math:`A`.

    Raises:
        ValueError: If the operator is not declared symmetric, or if there is no iteration.

    Example:
        >>> from appa_prob.operators import Diagonal
        >>> root_product(Diagonal(torch.tensor([4.0, 9.0])), torch.ones(2), 2)
        tensor([2.0000, 3.0000])
    """
    if not A.symmetric:
        raise ValueError(f"expected an operator that is declared symmetric, got {A!r}")
    if iterations < 1:
        raise ValueError(f"expected at least 1 iteration, got {iterations}")
    if A.total is not None:
        raise ValueError(f"expected a whole operator, got {A!r}, of which processes hold parts")
    event = A.in_shape
    start = flatten(z, event)
    length = norm(start)
    q = start / length.clamp_min(torch.finfo(z.dtype).tiny)[..., None]
    vectors, diagonal, beside = [q], [], []
    for i in range(iterations):
        w = flatten(A.forward(unflatten(q, event)), event)
        diagonal.append(dot(q, w))
        basis = torch.stack(vectors, -2)
        for _ in range(2):  # once leaves rounding that grows
            w = w - (basis.mT @ (basis @ w[..., None]))[..., 0]
        size = norm(w)
        # What is left of an invariant space is rounding.
        live = size > 1e3 * torch.finfo(z.dtype).eps * torch.stack(diagonal).abs().amax(0)
        size = torch.where(live, size, 0.0)
        q = torch.where(live[..., None], w / torch.where(live, size, 1.0)[..., None], 0.0)
        if i + 1 < iterations:
            vectors.append(q)
            beside.append(size)
    T = torch.diag_embed(torch.stack(diagonal, -1))
    if beside:
        off = torch.stack(beside, -1)
        T = T + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
    values, U = torch.linalg.eigh(T)
    weights = U @ (values.clamp_min(0.0).sqrt() * U[..., 0, :])[..., None]
    y = (torch.stack(vectors, -2).mT @ weights)[..., 0]
    return unflatten(y * length[..., None], event)
