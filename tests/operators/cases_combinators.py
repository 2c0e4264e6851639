"""Combinations of operators, Jacobians and inverses, with their dense twins."""

import torch

from appa_prob.operators import (
    GMRES,
    BlockDiagonal,
    Concatenate,
    Dense,
    Diagonal,
    Identity,
    Jacobian,
    Kronecker,
    Mask,
    Restrict,
    Stack,
    Zero,
)
from tests.operators.cases import Case, block_diag, case, covariance, eye, mask, noise


@case
def stack(g: torch.Generator) -> Case:
    m, d = mask(g, 2, 3), noise(g, 2, 3)
    return Stack([Mask(m), Diagonal(d)]), torch.cat(
        (eye(g, 6)[m.reshape(-1)], torch.diag(d.reshape(-1)))
    )


@case
def block_diagonal(g: torch.Generator) -> Case:
    M, d = noise(g, 2, 3), noise(g, 2, 2)
    return BlockDiagonal([Dense(M), Diagonal(d)]), block_diag(M, torch.diag(d.reshape(-1)))


@case
def composition(g: torch.Generator) -> Case:
    m, M = mask(g, 2, 3), noise(g, 6, 4)
    return 2.0 * Mask(m) @ Dense(M, out_shape=(2, 3)), 2 * M[m.reshape(-1)]


@case
def batched_sum(g: torch.Generator) -> Case:
    M, d = noise(g, 3, 4, 4), noise(g, 4)
    return Dense(M) + Diagonal(d) - Identity(4), M + torch.diag(d) - eye(g, 4)


@case
def batched_multiple(g: torch.Generator) -> Case:
    c, M = noise(g, 2), noise(g, 3, 4)
    return Dense(M) * c[:, None, None], c[:, None, None] * M


@case
def jacobian(g: torch.Generator) -> Case:
    W, x = noise(g, 4, 6), noise(g, 2, 3)
    J = Jacobian(lambda x: (W @ x.reshape(6)).tanh().reshape(2, 2), x)
    return J, (1 - (W @ x.reshape(6)).tanh().square())[:, None] * W


@case
def batched_jacobian(g: torch.Generator) -> Case:
    x = noise(g, 3, 4)
    J = Jacobian(lambda x: x.sin().cumsum(-1), x, event_ndim=1, forward="forward-mode")
    return J, torch.ones(4, 4, dtype=x.dtype, device=x.device).tril() * x.cos()[:, None]


@case
def zero(g: torch.Generator) -> Case:
    A = Zero((2, 2), 3, (2,), dtype=torch.float64, device=g.device)
    return A, torch.zeros(2, 3, 4, dtype=torch.float64, device=g.device)


@case
def concatenate(g: torch.Generator) -> Case:
    m, M = mask(g, 5), noise(g, 2, 5, 4)
    placed = eye(g, 5)[:, m].expand(2, -1, -1)
    return Concatenate([Mask(m).T, Dense(M, (2, 2))]), torch.cat((placed, M), dim=-1)


@case
def kronecker(g: torch.Generator) -> Case:
    M, d, N = noise(g, 3, 4), noise(g, 2), noise(g, 3, 2)
    A = Kronecker([Dense(M, (2, 2)), Diagonal(d), Dense(N)])
    return A, torch.kron(torch.kron(M, torch.diag(d)), N)


@case
def batched_kronecker(g: torch.Generator) -> Case:
    M, N = noise(g, 3, 1, 2, 3), noise(g, 2, 2, 1)
    pairs = torch.einsum("aij,bkl->abikjl", M[:, 0], N).reshape(3, 2, 4, 3)
    return Kronecker([Dense(M), Dense(N)]), pairs


@case
def restrict(g: torch.Generator) -> Case:
    A = Restrict({"t": (2, 2), "p": 3, "q": ()}, "p").to(torch.float64).to(g.device)
    return A, eye(g, 8)[4:7]


@case
def power(g: torch.Generator) -> Case:
    M = noise(g, 2, 3, 3)
    return Dense(M) ** 3, M @ M @ M


@case
def inverse(g: torch.Generator) -> Case:
    M = noise(g, 2, 4, 4) + 4 * eye(g, 4)
    A = Dense(M, (2, 2), (2, 2)).inverse(GMRES(rtol=1e-13, max_iterations=8))
    return A, torch.linalg.inv(M)


@case
def symmetric_inverse(g: torch.Generator) -> Case:
    V = covariance(g, 4)
    return Dense(V, symmetric=True).inverse(), torch.linalg.inv(V)


@case
def pseudo_inverse(g: torch.Generator) -> Case:
    M = noise(g, 2, 3, 2) @ noise(g, 2, 2, 4)
    return Dense(M, (2, 2)).pseudo_inverse(), torch.linalg.pinv(M)
