"""Random expressions of operators do what their dense twins do.

`HYPOTHESIS_PROFILE=long pytest tests/operators/test_expressions.py` looks at many more.
"""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from appa_prob.operators import GMRES, Identity, build
from appa_prob.testing import Twin, check_operator, covariances, expressions

ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-3}


def close(actual: Tensor, expected: Tensor, bound: Tensor, claim: str) -> None:
    """Asserts that the difference is within rounding of the largest number on the way."""
    assert actual.shape == expected.shape, f"{claim}: {actual.shape}, not {expected.shape}"
    assert actual.dtype == expected.dtype, f"{claim}: {actual.dtype}, not {expected.dtype}"
    limit = ROUNDING[expected.dtype] * bound.amax().clamp_min(1.0)
    assert (actual - expected).abs().amax() <= limit, claim


@given(expressions(depth=5))
def test_products_adjoints_sums_and_diagonals(twin: Twin) -> None:
    A, M, bound = twin.operator, twin.matrix, twin.size
    M = M.expand(A.shape)
    assert A.dtype == M.dtype
    for batch in ((), (5,)):
        x = torch.randn(*batch, *A.batch_shape, A.shape[-1], dtype=A.dtype)
        y = torch.randn(*batch, *A.batch_shape, A.shape[-2], dtype=A.dtype)
        scale = bound.sum() * torch.cat((x.flatten(), y.flatten())).abs().amax()
        close(A(x), (M @ x[..., None])[..., 0], scale, f"A(x) for {A!r}")
        close(A.adjoint(y), (M.mT @ y[..., None])[..., 0], scale, f"A.adjoint(y) for {A!r}")
        left, right = (A(x) * y).sum(), (x * A.adjoint(y)).sum()
        close(left, right, scale * (x.abs().sum() + y.abs().sum()), f"adjointness of {A!r}")
    close(A.to_dense(), M, bound, f"the matrix of {A!r}")
    close(A.T.to_dense(), M.mT, bound, f"A.T for {A!r}")
    close((A + A).to_dense(), 2 * M, bound, f"A + A for {A!r}")
    close((A @ A.T).to_dense(), M @ M.mT, (bound @ bound.mT), f"A @ A.T for {A!r}")
    if A.shape[-1] == A.shape[-2]:
        close(A.diagonal(), M.diagonal(dim1=-2, dim2=-1), bound, f"the diagonal of {A!r}")
        shifted = A + Identity(A.in_shape)
        expected = M + torch.eye(A.shape[-1], dtype=A.dtype)
        close(shifted.to_dense(), expected, bound, f"A + I for {A!r}")
    if A.symmetric:
        close(M, M.mT, bound, f"the symmetry that is declared of {A!r}")


@given(expressions(depth=3), st.integers(0, 1))
def test_data_rebuild_the_operator(twin: Twin, turned: int) -> None:
    A = twin.operator.T if turned else twin.operator
    same = build(A.spec())
    close(same.to_dense(), A.to_dense(), twin.size, f"{A!r} rebuilt from data")
    assert same.symmetric == A.symmetric


@given(covariances(depth=3, dtype=torch.float64))
def test_positive_definite_expressions_are_solved(twin: Twin) -> None:
    S, M, bound = twin.operator, twin.matrix, twin.size
    M = M.expand(S.shape)
    assert S.symmetric
    close(S.to_dense(), M, bound, f"the matrix of {S!r}")
    close(S.diagonal(), M.diagonal(dim1=-2, dim2=-1), bound, f"the diagonal of {S!r}")
    b = torch.randn(2, *S.batch_shape, S.shape[-1], dtype=S.dtype)
    inverse = torch.linalg.inv(M)
    expected = (inverse @ b[..., None])[..., 0]
    error = inverse.abs().amax() * bound.amax() * inverse.abs().amax() * b.abs().amax()
    close(S.solve(b), expected, error, f"solve with {S!r}")
    close(S.inverse()(b), expected, error, f"the inverse of {S!r}")
    solution = GMRES(rtol=1e-12, max_iterations=8, on_failure="ignore")(S, b)
    close(solution.value, expected, error, f"GMRES with {S!r}")
    logdet = torch.linalg.slogdet(M)[1]
    close(S.logdet().expand(logdet.shape), logdet, error.clamp_min(10.0), f"log det {S!r}")


@given(expressions(depth=2, dtype=torch.float64))
def test_expressions_pass_the_contract(twin: Twin) -> None:
    scale = float(twin.size.amax().clamp_min(1.0)) ** 2
    check_operator(twin.operator, twin.matrix.expand(twin.operator.shape), rtol=1e-10 * scale)
