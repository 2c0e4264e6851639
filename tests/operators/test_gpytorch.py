"""`MultivariateNormal(mean, covariance)` of GPyTorch, exactly, for every kind of covariance."""

from typing import Any

import pytest
import torch
from torch import Size

from appa_prob.operators import BlockDiagonal, Dense, Diagonal, Isotropic, Kronecker, Operator
from tests.operators.cases import Case, covariance, noise
from tests.operators.registered_cases import CASES

REGISTERED = [
    "batched_eigenbasis",
    "batched_low_rank",
    "complete_eigenbasis",
    "eigenbasis",
    "ensemble",
    "ensemble_of_places",
    "factored",
    "innovation",
    "isotropic",
    "kernel_covariance",
    "low_rank",
    "stationary",
    "symmetric_inverse",
]


def instruments(g: torch.Generator) -> Case:
    M, d = covariance(g, 3), noise(g, 2).square() + 0.1
    blocks = BlockDiagonal([Dense(M, symmetric=True), Diagonal(d)])
    return blocks, torch.block_diag(M, torch.diag(d))  # type: ignore[no-untyped-call]


def separable(g: torch.Generator) -> Case:
    M, N = covariance(g, 2), covariance(g, 3)
    parts = [Dense(M, symmetric=True), Dense(N, symmetric=True)]
    return Kronecker(parts), torch.kron(M, N)


def total(g: torch.Generator) -> Case:
    M = covariance(g, 4, 2)
    c = noise(g).square() + 0.1
    eye = torch.eye(4, dtype=M.dtype, device=g.device)
    return Dense(M, symmetric=True) + Isotropic(c, 4), M + c * eye


MADE = {make.__name__: make for make in (instruments, separable, total)}


def normal(mean: torch.Tensor, V: Operator) -> Any:
    from gpytorch.distributions import MultivariateNormal  # after linear_operator, quietly

    return MultivariateNormal(mean, V)


@pytest.mark.parametrize("name", [*REGISTERED, *MADE])
def test_scores_and_samples(name: str, generator: torch.Generator) -> None:
    """Samples are the mean and a root of the covariance times what they are drawn from."""
    V, M = {**CASES, **MADE}[name](generator)
    n = M.shape[-1]
    mean = noise(generator, *V.batch_shape, n)
    law = normal(mean, V)
    x = noise(generator, *V.batch_shape, n)
    twin: Any = torch.distributions.MultivariateNormal(mean, M.expand(V.shape))
    torch.testing.assert_close(law.log_prob(x), twin.log_prob(x))
    torch.testing.assert_close(law.variance, twin.variance)
    eye = torch.eye(n, dtype=M.dtype, device=M.device)
    base = eye.reshape(n, *(1,) * len(V.batch_shape), n).expand(n, *V.batch_shape, n)
    root = law.rsample(Size((n,)), base_samples=base) - mean
    torch.testing.assert_close(
        torch.einsum("k...i,k...j->...ij", root, root), twin.covariance_matrix
    )


def test_what_needs_symmetry_refuses_other_matrices() -> None:
    A: Any = Dense(torch.randn(4, 4, dtype=torch.float64))
    b = torch.ones(4, dtype=torch.float64)
    for function in (
        lambda: A.solve(b),
        lambda: torch.linalg.solve(A, b),
        lambda: A.cholesky(),
        lambda: torch.linalg.cholesky(A),
        lambda: A.inv_quad_logdet(b[:, None], logdet=True),
        lambda: A.root_decomposition(),
        lambda: torch.linalg.eigh(A),
        lambda: torch.logdet(A),
    ):
        with pytest.raises(ValueError, match="symmetric"):
            function()
